"""Files, TCP ports and signals that a confined process may reach, by Landlock."""

import os
from collections.abc import Iterable
from pathlib import Path

from landlockpy import AccessFS, AccessNet, Ruleset, Scope, fs_for_abi
from landlockpy.flags import LATEST_ABI

_READ = AccessFS.READ_FILE | AccessFS.READ_DIR | AccessFS.EXECUTE
_CHANGE = fs_for_abi(LATEST_ABI) & ~_READ
_OF_A_FILE = AccessFS.EXECUTE | AccessFS.READ_FILE | AccessFS.WRITE_FILE | AccessFS.TRUNCATE | AccessFS.IOCTL_DEV
_EVERY_PORT = AccessNet.BIND_TCP | AccessNet.CONNECT_TCP
_OUTSIDE = Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL
SIGNALS_FROM_ABI = 6
"""Landlock version that can keep signals inside."""


def write_only_below(folders: Iterable[str]) -> None:
    """Nothing outside of `folders` is created, changed or removed; no TCP port; no signal to a process outside.

    Processes outside cannot be traced either, nor their memory and environment be read through /proc.
    Raises OSError where the kernel has no Landlock.
    """
    with Ruleset(handled_fs=_CHANGE, handled_net=_EVERY_PORT, scoped=_OUTSIDE) as rules:
        for folder in folders:
            rules.allow_path(folder, _CHANGE)
        rules.allow_path(os.devnull, AccessFS.WRITE_FILE)
        rules.restrict()


def read_only_below(folders: Iterable[str], scratch: str) -> None:
    """Nothing outside of `folders` and `scratch` is read or run, and no signal reaches a process outside."""
    with Ruleset(handled_fs=_READ, handled_net=AccessNet.NONE, scoped=_OUTSIDE) as rules:
        for folder in (*folders, scratch, os.devnull):
            if Path(folder).exists():
                rules.allow_path(folder, _READ if Path(folder).is_dir() else _READ & _OF_A_FILE)
        rules.restrict()


def apart_from_the_parent() -> None:
    """The parent and its other children are outside from now on: neither signals nor traces reach them."""
    with Ruleset(handled_fs=AccessFS.MAKE_BLOCK, handled_net=AccessNet.NONE, scoped=_OUTSIDE) as rules:
        rules.restrict()
