"""Logs that are read in the caller's own process, in a thread beside it, for tests that start none."""

import contextlib
import json
import threading
from collections.abc import Generator, Sequence
from multiprocessing import Pipe

import pytest

from pipeline.logged.reader_process import Reader, order
from pipeline.logged.settings import ImportSettings
from pipeline.logged.sources import LogFile, Remote


@contextlib.contextmanager
def _reader(settings: ImportSettings, files: Sequence[LogFile]) -> Generator[Reader]:
    from pipeline.logged.reader import serve

    ours, theirs = Pipe()

    def read() -> None:
        with theirs:
            serve(theirs, json.loads(json.dumps(order(settings, files))), limited=False)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield Reader(ours, settings, Remote(files), lambda: "a traceback, in its thread")
    finally:
        ours.close()
        thread.join()


@contextlib.contextmanager
def read_here() -> Generator[None]:
    """Within it, an import starts no process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.logged.importer.reader", _reader)
        yield
