"""Calls of the Linux kernel that neither Python nor a library offers: namespaces, capabilities, `prctl`."""

import contextlib
import ctypes
import os
import signal
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 4, 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LAST_CAPABILITY = 63
_NEW_MOUNT, _NEW_UTS, _NEW_IPC, _NEW_USER, _NEW_PID, _NEW_NET = (
    *(0x00020000, 0x04000000, 0x08000000),
    *(0x10000000, 0x20000000, 0x40000000),
)
_ALL_NEW = _NEW_MOUNT | _NEW_UTS | _NEW_IPC | _NEW_PID | _NEW_NET
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 1 << 18
_SYS_MOUNT_SETATTR = 442  # the same on every architecture
_MOUNT_ATTR_RDONLY, _AT_FDCWD, _AT_RECURSIVE = 1, -100, 0x8000
_CAPABILITY_VERSION_3 = 0x20080522


class KernelRefusal(OSError):
    """The kernel does not offer this here."""


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise KernelRefusal(number, f"{what}: {os.strerror(number)}")


def _prctl(option: int, value: int, third: int = 0) -> None:
    _check(_libc().prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(third), 0, 0), f"prctl {option}")


def die_with_parent() -> None:
    """SIGKILL for this process when the thread that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def refuse_inspection() -> None:
    """Other processes of this user may not read this one's memory or files through /proc, nor trace it."""
    _prctl(_PR_SET_DUMPABLE, 0)


def gain_no_privileges() -> None:
    """No program that this process starts has more rights than itself (set-uid bits count for nothing)."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """Give up every special right of root, for good. A user without any stays as it is."""
    for capability in range(_LAST_CAPABILITY + 1):
        with contextlib.suppress(KernelRefusal):  # one that the kernel does not know, or that is not ours to drop
            _prctl(_PR_CAPBSET_DROP, capability)
    with contextlib.suppress(KernelRefusal):
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header, nothing = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0), bytes(24)
    _check(_libc().capset(header, nothing), "capset")


def new_namespaces() -> str:
    """Network, processes, IPC and mounts of its own for this process and its children. Returns which, in words.

    As an ordinary user through a user namespace; where those are forbidden, as root without one. The next process
    started is the first of the new process namespace, and all of them end with it. Raises KernelRefusal.
    """
    user, group = os.getuid(), os.getgid()
    names = "network, processes, IPC, mounts"
    if _libc().unshare(_NEW_USER | _ALL_NEW) == 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        return f"user, {names}"
    _check(_libc().unshare(_ALL_NEW), "unshare")
    return names


def make_read_only(but: Sequence[str]) -> None:
    """No folder of the own mount namespace can be written, except those of `but`. Raises KernelRefusal."""
    libc = _libc()
    _check(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "mount")
    for folder in but:
        _check(libc.mount(os.fsencode(folder), os.fsencode(folder), None, _MS_BIND, None), "mount")
    _mount_attributes("/", _AT_RECURSIVE, add=_MOUNT_ATTR_RDONLY)
    for folder in but:
        _mount_attributes(folder, 0, remove=_MOUNT_ATTR_RDONLY)


def _mount_attributes(path: str, flags: int, add: int = 0, remove: int = 0) -> None:
    wanted = struct.pack("=QQQQ", add, remove, 0, 0)
    arguments = (_AT_FDCWD, os.fsencode(path), flags, wanted, ctypes.c_size_t(len(wanted)))
    _check(_libc().syscall(_SYS_MOUNT_SETATTR, *arguments), "mount_setattr")


def on_linux() -> bool:
    return sys.platform == "linux"
