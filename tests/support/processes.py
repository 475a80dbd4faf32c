"""Processes below another, by a word of their command line."""

from contextlib import suppress

import psutil


def living_below(pid: int, word: str) -> list[psutil.Process]:
    """The descendants of process `pid` whose command line holds `word`.

    One that ends while it is looked at is not among them: between the list and the look it may have become a zombie, or
    be gone, and then has no command line any more."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # ZombieProcess is one of these
            if word in " ".join(process.cmdline()):
                found.append(process)
    return found
