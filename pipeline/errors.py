"""Errors that a user can cause, and can therefore correct."""

import difflib
import errno
import os
import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager

_OF_THE_DISK = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)
)
_REMEDY = "Make room, or give this user the rights it needs there, and run the same again: what is finished is kept"
_RUST = re.compile(r"\(os error (\d+)\)")
"""The end of a message of safetensors or tokenizers, which raise no OSError."""


class TbrmError(Exception):
    """What was wrong, where (file, row, field), and the next step. Printed without a traceback by the CLI."""


class ConfigError(TbrmError):
    """An experiment file that cannot be used."""


class StoreError(TbrmError):
    """A table that is missing, incomplete, corrupted or held by another writer."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean NAME?` with the known word that is nearest to a mistyped one; empty where none is near.

    It begins with a space, so that it can stand behind any sentence.
    """
    by_lower = {name.lower(): name for name in known}
    nearest = difflib.get_close_matches(word.lower()[:200], by_lower, n=1, cutoff=0.6)
    return f" Did you mean {by_lower[nearest[0]]}?" if nearest else ""


def disk_error(error: BaseException) -> TbrmError | None:
    """What the user is told where a disk is full or refuses access; None for other errors: bugs.

    Libraries wrap what the system said, or repeat its words: the chain of causes is looked through.
    """
    cause: BaseException | None = error
    while cause is not None:
        told = _RUST.search(str(cause))
        number = cause.errno if isinstance(cause, OSError) else int(told[1]) if told else None
        if number is not None and number in _OF_THE_DISK:
            named = cause.filename if isinstance(cause, OSError) else None
            return TbrmError(f"{f'{named}: ' if named else ''}{os.strerror(number)}. {_REMEDY}")
        cause = cause.__cause__ or cause.__context__
    return None


def missing_extra(extra: str, field: str, package: str) -> str:
    """What to tell where `field` asks for a package that only an extra of ours installs."""
    return f"{field}: {package} is not installed: `pip install 'tbrm[{extra}]'`"


def absent_package(error: ImportError, extra: str, field: str) -> TbrmError | None:
    """The error as one that names the extra, where a package is missing; None where an import failed in another way."""
    # fsspec reports a missing package in words of its own.
    missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
    return (
        TbrmError(missing_extra(extra, field, str(missing.name))) if isinstance(missing, ModuleNotFoundError) else None
    )


@contextmanager
def needing(extra: str, field: str) -> Generator[None]:
    """For an import of what only an extra installs: TbrmError that names the extra where the package is missing."""
    try:
        yield
    except ImportError as error:
        told = absent_package(error, extra, field)
        if told is None:
            raise
        raise told from error
