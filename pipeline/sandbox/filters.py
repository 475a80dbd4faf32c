"""System calls that a confined process may not make, by seccomp."""

import errno
import functools
import os
from collections.abc import Iterable

import seccompy
from seccompy import CmpOp, Filter

_NEVER = tuple(
    """
    acct add_key adjtimex bpf chroot clock_adjtime clock_settime clone3 delete_module finit_module fsconfig fsmount
    fsopen fspick init_module io_setup io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load
    kexec_load keyctl lookup_dcookie memfd_create memfd_secret modify_ldt mount mount_setattr move_mount mq_open
    msgget name_to_handle_at nfsservctl open_by_handle_at open_tree perf_event_open personality pidfd_getfd pivot_root
    process_madvise process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot request_key semget
    setdomainname sethostname setns settimeofday shmget socket swapoff swapon syslog umount2 unshare userfaultfd vhangup
    """.split()  # noqa: SIM905 - a table of names
)
"""Sockets of every kind, other processes' memory, mounts, namespaces, kernel objects that outlive a process, and ways
around this filter. `clone3` hides its flags from a filter; the C library then uses `clone`."""
_NEW_NAMESPACE_FLAGS = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: typing into the terminal of whoever started this
_CLONE_THREAD = 0x00010000
_LOW = 0xFFFFFFFF
_X32 = 0x40000000
"""Set in the number of a call by the x32 ABI, under which every call has a second number."""


def forbid_reaching_out() -> None:
    """For a worker and everything below it. Raises OSError where the kernel has no filters."""
    rules = Filter()
    for name in _NEVER:
        _refuse(rules, name, errno.ENOSYS if name == "clone3" else errno.EPERM)
    for flag in _NEW_NAMESPACE_FLAGS:
        rules.errno("clone", errno.EPERM, args=[(0, CmpOp.MASKED_EQ, flag, flag)])
    for request in _TERMINAL_INPUT:
        rules.errno("ioctl", errno.EPERM, args=[(1, CmpOp.MASKED_EQ, request, _LOW)])
    rules.load()


def forbid_processes() -> None:
    """No further process and no other program; threads are allowed."""
    _without_processes().load()


def forbid_leaving_the_group(others_out_of_reach: bool) -> None:
    """Processes started from here stay in this process group, so that one signal ends them all.

    Where nothing else keeps it from sending signals to other processes, it may send them to itself only.
    """
    _within_the_group().load()
    if not others_out_of_reach:
        rules = Filter()
        for name in ("kill", "tgkill"):
            rules.allow(name, args=[(0, CmpOp.MASKED_EQ, os.getpid(), _LOW)])
        for name in ("kill", "tgkill", "tkill", "pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
            _refuse(rules, name, errno.EPERM)
        rules.load()


def compile_filters() -> None:
    """Do it once, in the worker: what it starts finds the programs ready."""
    for rules in (_without_processes(), _within_the_group()):
        assert rules.program


@functools.cache
def _without_processes() -> Filter:
    rules = Filter()
    for name in ("fork", "vfork", "execve", "execveat"):
        _refuse(rules, name, errno.EPERM)
    rules.errno("clone", errno.EPERM, args=[(0, CmpOp.MASKED_EQ, 0, _CLONE_THREAD)])
    return rules


@functools.cache
def _within_the_group() -> Filter:
    rules = Filter()
    for name in ("setsid", "setpgid"):
        _refuse(rules, name, errno.EPERM)
    return rules


def _refuse(rules: Filter, name: str, error: int) -> None:
    for number in _numbers(name):
        rules.errno(number, error)


def _numbers(name: str) -> Iterable[int]:
    """The call's numbers on this machine; none where it does not have the call."""
    try:
        number = seccompy.syscall_nr(name)
    except ValueError:
        return ()
    return (number, number | _X32) if seccompy.audit_arch() == seccompy.AUDIT_ARCH_X86_64 else (number,)
