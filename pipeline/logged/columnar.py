"""Parquet and Arrow files from elsewhere, decoded in a process of its own.

A file made to do harm, or only damaged, can crash a decoder or make it ask for all memory. Here that ends the child
process, and the import says which file it was. Run as a module, this file is that child: it sends plain Arrow record
batches through a pipe.
"""

import io
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import TbrmError

MEMORY_BYTES = 3 * 2**30
BATCH_ROWS = 64
"""Decoded together: rows of the usual limit of 16 MiB then still fit the memory."""
SENT_BYTES = 2**26
"""At most about this much is sent, and held by the importer, at a time."""


def read_columnar(path: Path) -> Iterator[pa.RecordBatch]:
    """Record batches of a Parquet, Arrow or Feather file. Raises TbrmError when it cannot be decoded."""
    command = [sys.executable, "-m", "pipeline.logged.columnar", str(path.resolve())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=_import_root()) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        finished = False
        try:
            with pa.ipc.open_stream(cast("io.IOBase", child.stdout)) as stream:
                yield from stream
            finished = True
        except (pa.ArrowInvalid, OSError):
            finished = False  # what the child said about it is told below
        finally:
            child.stdout.close()
            said = child.stderr.read().decode(errors="replace").strip()
            code = child.wait()
    if code != 0 or not finished:
        reason = said.splitlines()[-1] if said else f"its reader ended with code {code}"
        raise TbrmError(f"{path} cannot be read: {reason}. Fetch it again, or leave it out")


def _import_root() -> str:
    return str(Path(__file__).resolve().parents[2])


def _batches(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    if path.suffix.lower() == ".parquet":
        file = pq.ParquetFile(path)
        return file.schema_arrow, file.iter_batches(batch_size=BATCH_ROWS)
    source = pa.OSFile(str(path), "rb")
    magic = source.read(6)
    source.seek(0)
    if magic == b"ARROW1":
        reader = pa.ipc.open_file(source)
        return reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))
    stream = pa.ipc.open_stream(source)
    return stream.schema, iter(stream)


def main(path: Path) -> int:
    """Decode `path` to standard output as an Arrow stream; the last line of standard error says why not."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        schema, batches = _batches(path)
        with pa.ipc.new_stream(cast("io.IOBase", sys.stdout.buffer), schema) as sink:
            for batch in batches:
                rows = max(1, min(BATCH_ROWS, SENT_BYTES * batch.num_rows // max(1, batch.nbytes)))
                for start in range(0, batch.num_rows, rows):
                    sink.write_batch(batch.slice(start, rows))
    except BrokenPipeError:
        return 0  # the importer stopped reading, and knows why
    except (pa.ArrowException, OSError, MemoryError) as error:
        sys.stderr.write(" ".join(str(error).split())[:500] + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
