"""The importer's side of the reader: starts it, waits for it no longer than it makes progress, and takes its rows."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from pipeline.errors import TbrmError
from pipeline.logged.settings import ImportSettings, ReadingPlan
from pipeline.logged.sources import LogFile, Remote
from pipeline.store import SCHEMAS

STALL_S = 300.0
"""A reader that tells nothing for so long is ended. A chunk takes well below a second."""
_MAX_TOLD = 2**20
_ENVIRONMENT = {
    # The standard allocator gives memory back, and takes none in advance that would count as used.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "TRANSFORMERS_VERBOSITY": "error",
}
_MAX_STDERR_SHOWN = 500


class Reader:
    """A running reader. Every method raises TbrmError when the reader refuses the log, fails, or makes no progress."""

    def __init__(
        self, connection: Connection, settings: ImportSettings, remote: Remote, ended: Callable[[], str]
    ) -> None:
        """`remote` reads files that the reader cannot reach; `ended` tells why it is gone, once the connection is."""
        self._connection, self._remote, self._ended = connection, remote, ended
        self.advanced: Callable[[int], None] = lambda read: None
        """Told how many bytes of the files were read, as they lie there."""
        self._max_rows = 2 * settings.max_expanded_bytes + 2**26
        self._where = "before the first row"

    def plan(self) -> ReadingPlan:
        told = self._told()
        del told["kind"]
        return ReadingPlan(**told)

    def has_shard(self) -> bool:
        """Whether another shard follows; the reader then waits for `skip` or `shard`."""
        return self._told()["kind"] == "shard"

    def skip(self) -> int:
        """Pass over a shard; returns its source rows."""
        self._answer({"write": False, "first": 0})
        return self._told()["rows"]

    def shard(self, first: int) -> tuple[int, dict[str, pa.Table]]:
        """Read a shard whose first trajectory is number `first` of the data set; (source rows, its tables)."""
        self._answer({"write": True, "first": first})
        batches: dict[str, list[pa.RecordBatch]] = {name: [] for name in SCHEMAS}
        while (told := self._told())["kind"] == "rows":
            for name in told["tables"]:
                batches[name].append(_from_stream(name, self._received(self._max_rows)))
        return told["rows"], {name: pa.Table.from_batches(found, SCHEMAS[name]) for name, found in batches.items()}

    def _answer(self, order: dict[str, Any]) -> None:
        self._send(json.dumps(order).encode())

    def _send(self, data: bytes) -> None:
        try:
            self._connection.send_bytes(data)
        except OSError as error:
            raise self._gone() from error

    def _told(self) -> dict[str, Any]:
        while True:
            told = json.loads(self._received(_MAX_TOLD))
            if told["kind"] == "error":
                raise TbrmError(told["text"])
            if "read" in told:
                self.advanced(told["read"])
            if told["kind"] == "at":
                self._where = told["where"]
            elif told["kind"] == "read":
                self._send(self._remote.read(told["file"], told["place"], told["size"]))
            else:
                return told

    def _received(self, most: int) -> bytes:
        if not self._connection.poll(STALL_S):
            raise TbrmError(
                f"reading the log made no progress for {STALL_S:g} s ({self._where}) and was ended; nothing was "
                "committed. Look at the rows there: leave out what is wrong, or set a smaller --max-row-mb"
            )
        try:
            return self._connection.recv_bytes(most)
        except (EOFError, OSError) as error:
            raise self._gone() from error

    def _gone(self) -> TbrmError:
        return TbrmError(
            f"the process that reads the log ended with {self._ended()} ({self._where}); nothing was committed. Its "
            "memory is limited: set a smaller --max-row-mb, or leave that file out"
        )


@contextmanager
def reader(settings: ImportSettings, files: Sequence[LogFile]) -> Generator[Reader]:
    """Start a reader of `files`; it is gone when the block ends, however that happens."""
    ours, theirs = Pipe()
    with ours, tempfile.TemporaryFile() as stderr:
        # -P: a folder `pipeline` where the user happens to be is not imported.
        command = [sys.executable, "-P", "-m", "pipeline.logged.reader", str(theirs.fileno())]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env=os.environ | _ENVIRONMENT,
        )
        theirs.close()
        remote = Remote(files)
        try:
            ours.send_bytes(json.dumps(order(settings, files)).encode())
            yield Reader(ours, settings, remote, lambda: _how_it_ended(process, stderr))
        finally:
            remote.close()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def order(settings: ImportSettings, files: Sequence[LogFile]) -> dict[str, Any]:
    """The first message to a reader."""
    return {"settings": settings.to_json(), "files": [file.to_json() for file in files], "folder": str(Path.cwd())}


def _how_it_ended(process: "subprocess.Popen[bytes]", stderr: IO[bytes]) -> str:
    code = process.wait()
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - _MAX_STDERR_SHOWN))
    said = stderr.read().decode(errors="replace").strip()
    return f"{how}, saying {said!r}," if said else how


def _from_stream(table: str, data: bytes) -> pa.RecordBatch:
    """The one batch of a stream, checked: nothing here relies on the reader having stayed whole."""
    batch = pa.ipc.open_stream(pa.py_buffer(data)).read_next_batch()
    if batch.schema != SCHEMAS[table]:
        raise TbrmError(f"the process that reads the log sent no rows of {table}")
    batch.validate(full=True)
    return batch
