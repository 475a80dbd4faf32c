"""The process that reads a log: opening, decoding, tokenizing. It sends rows of the store's tables, and writes nothing.

    python -m pipeline.logged.reader FD

A log is made by strangers. What its bytes stand for is spelled out here only, under a limit of memory that the kernel
enforces; the importer ends this process when it makes no progress, and holds no more than one shard itself. Both talk
through the socket FD in messages of bytes: JSON (`kind` says which), and Arrow streams of one batch each.
"""

import dataclasses
import importlib
import json
import os
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from pipeline.config import stage_hash
from pipeline.errors import TbrmError
from pipeline.logged.fields import Bad, Candidate, Responses, candidates, responses_of
from pipeline.logged.head import lacking, shown
from pipeline.logged.raw import DUPLICATE, LEFT_OUT, RawRow
from pipeline.logged.rows import Place, read_rows
from pipeline.logged.settings import CHUNK_BYTES, CHUNK_ROWS, ROW_OVERHEAD, SHARD_BYTES, ImportSettings, ReadingPlan
from pipeline.logged.shapes import Shape, recognize, unwanted
from pipeline.logged.sources import TORCH, LogFile, Part, open_part
from pipeline.logged.stripped import chat_marks
from pipeline.logged.tables import make_tables
from pipeline.logged.tokens import Tokenized, TokenSettings, tokenize
from pipeline.policies.load_save import load_tokenizer, tokenizer_info

MEMORY_BYTES = 2 * 2**30
"""Above what the process holds when its tokenizer is loaded, for rows of up to 16 MiB; larger ones get more."""
_MEMORY_TIMES_ROW = 64
_ROW_BYTES = 16 * 2**20
_MAX_PROBLEM = 20_000
_LINUX = sys.platform == "linux"
_HEAD_ROWS, _HEAD_BYTES = 200, 64 * 2**20
"""How much of the log is looked at to see what its rows are: this many rows, or bytes of them."""
_TRIED_ROWS, _SHOWN_ROWS = 16, 2
"""The first responses are tokenized, so many at a time, until one can be used; so many are shown."""
_RECENT = 2**16
"""Hashes that are kept one by one before they become a sorted array."""


class Seen:
    """Which rows were seen before: a set of 64-bit hashes at 8 bytes each, so that ten million rows take 80 MB.

    The newest hashes lie in a set of Python, the older ones in a few sorted arrays of growing size.
    """

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._runs: list[npt.NDArray[np.uint64]] = []

    def is_new(self, digest: int) -> bool:
        """Whether no earlier call had it. O(log² n), and O(log n) more for the merging of runs."""
        if digest in self._recent or any(_holds(run, digest) for run in self._runs):
            return False
        self._recent.add(digest)
        if len(self._recent) >= _RECENT:
            self._store()
        return True

    @property
    def nbytes(self) -> int:
        return sum(run.nbytes for run in self._runs)

    def _store(self) -> None:
        run = np.sort(np.fromiter(self._recent, np.uint64, len(self._recent)))
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate([run, self._runs.pop()]))
        self._runs.append(run)
        self._recent = set()

    def drop_repeated(self, found: Sequence[Tokenized | Bad]) -> list[Tokenized | Bad]:
        """Trajectories whose prompt and response tokens stand earlier become bad rows."""
        return [each if isinstance(each, Bad) or self.is_new(_tokens_hash(each)) else _repeated(each) for each in found]


def _holds(run: npt.NDArray[np.uint64], digest: int) -> bool:
    place = int(np.searchsorted(run, np.uint64(digest)))
    return place < len(run) and int(run[place]) == digest


def _tokens_hash(each: Tokenized) -> int:
    return xxhash.xxh3_64_intdigest(each.response_ids.tobytes(), xxhash.xxh3_64_intdigest(each.prompt_ids.tobytes()))


def _repeated(each: Tokenized) -> Bad:
    candidate = each.candidate
    reason = f"{DUPLICATE}the same prompt and response stand earlier in the log"
    return Bad(candidate.file, candidate.row, "response", reason)


class Reading:
    """One import as the reader sees it."""

    def __init__(
        self, connection: Connection, settings: ImportSettings, files: Sequence[LogFile], limited: bool
    ) -> None:
        self.connection, self.settings, self.files = connection, settings, files
        self.tokens = TokenSettings(
            load_tokenizer(settings.tokenizer),
            settings.template,
            settings.append_eos,
            settings.length_limit,
            settings.max_tokens,
        )
        self.where = "before the first row"
        self.place = Place()
        self.seen, self.stored = Seen(), Seen()
        self._number = {(file.name, file.start): number for number, file in enumerate(files)}
        self._limited, self._start = limited, _data_bytes()

    def look_for_stripped_text(self, shape: Shape) -> None:
        """Let prompts of `shape` be compared with what the tokenizer's chat template writes."""
        by = shape.name if shape.stripped else ""
        self.tokens = dataclasses.replace(self.tokens, marks=chat_marks(self.tokens.tokenizer), stripped_by=by)

    def limit_memory(self) -> None:
        """Memory for the rows that were seen: 8 bytes a row, and some 24 while that grows. All else has a limit of its
        own."""
        if self._limited and _LINUX:
            most = self._start + memory_limit(self.settings.max_row_bytes) + 4 * (self.seen.nbytes + self.stored.nbytes)
            resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))

    def send(self, kind: str, **about: Any) -> None:
        self.connection.send_bytes(json.dumps({"kind": kind, **about}).encode())

    def ask(self, kind: str) -> dict[str, Any]:
        self.send(kind)
        return json.loads(self.connection.recv_bytes())

    def at(self, where: str) -> None:
        """Tell the importer what is being read: where this process dies over it, the error names it."""
        self.where = where
        self.send("at", where=where)

    def rows(self) -> Iterator[RawRow]:
        self.place = Place()
        return read_rows(self.files, self.settings.max_row_bytes, self._opened, self.place)

    def _opened(self, file: LogFile) -> Part:
        """A file to read; the bytes of one that lies elsewhere are asked of the importer."""
        if not file.is_remote:
            return open_part(file)
        index = self._number[file.name, file.start]

        def read_at(place: int, size: int) -> bytes:
            self.send("read", file=index, place=place, size=size)
            return self.connection.recv_bytes()

        return Part(file, read_at)


def read_log(reading: Reading) -> None:
    """The conversation with the importer, from the plan to the last row. Raises TbrmError for a log that is refused."""
    reading.limit_memory()
    shape, plan = _look_at_the_head(reading)
    reading.send("plan", **dataclasses.asdict(plan))
    rows = reading.rows()
    row = next(rows, None)
    while row is not None:
        reading.limit_memory()
        order = reading.ask("shard")
        shard = _Shard(reading, shape, plan, order["first"]) if order["write"] else None
        count = held = 0
        while row is not None and count < reading.settings.rows_per_shard and held < SHARD_BYTES:
            opened = _opened(row, shape, reading)
            held += _held(opened)
            if shard is not None:
                shard.add(row, opened)
            count += 1
            row = next(rows, None)
        if shard is not None:
            shard.flush()
        reading.send("shard end", rows=count, read=reading.place.bytes)
    reading.send("end")


def _opened(row: RawRow, shape: Shape, reading: Reading) -> Responses | Bad:
    compared = reading.settings.duplicates == "rows" and row.data is not None
    # Rows of finished shards are still compared: a later one may repeat them.
    if compared and not reading.seen.is_new(row.digest):
        return Bad(row.file, row.row, "", f"{DUPLICATE}the same row stands earlier in the log")
    if row.data is not None and not _is_stored_first(row.data, shape, reading):
        return Bad(row.file, row.row, "response", f"{LEFT_OUT}the same response stands earlier, with another filter")
    return responses_of(row, shape, reading.settings.max_expanded_bytes)


def _is_stored_first(data: Mapping[str, Any], shape: Shape, reading: Reading) -> bool:
    """Whether no earlier row holds the same response, where the format repeats them."""
    try:
        if unwanted(data, reading.settings.where):
            return True  # left out for that
        name = shape.identity(data)
    except (KeyError, TypeError, ValueError, RecursionError):
        return True
    return name is None or reading.stored.is_new(xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass")))


def _held(opened: Responses | Bad) -> int:
    return ROW_OVERHEAD if isinstance(opened, Bad) else opened.expanded


class _Shard:
    """Rows of one shard on their way to the importer, a chunk at a time."""

    def __init__(self, reading: Reading, shape: Shape, plan: ReadingPlan, first: int) -> None:
        self._reading, self._shape, self._plan = reading, shape, plan
        self._number = first
        self._prompts: set[str] = set()
        self._found: list[Candidate | Bad] = []
        self._rows = self._held = 0
        self._last = ""

    def add(self, row: RawRow, opened: Responses | Bad) -> None:
        more = _held(opened)
        if self._rows and (self._rows >= CHUNK_ROWS or self._held + more > CHUNK_BYTES):
            self.flush()
        found = [opened] if isinstance(opened, Bad) else candidates(opened, self._plan.wants_reward)
        self._found += [_same_tokenizer(each, self._plan) for each in found]
        self._rows, self._held = self._rows + 1, self._held + more
        self._last = f"{row.file} row {row.row}"

    def flush(self) -> None:
        if not self._rows:
            return
        reading, settings = self._reading, self._reading.settings
        reading.at(f"{self._last} and the {self._rows - 1} before it" if self._rows > 1 else self._last)
        found = tokenize(self._found, reading.tokens)
        if settings.duplicates == "responses":
            found = reading.seen.drop_repeated(found)
        place = (settings.dataset, settings.generation, settings.policy)
        tables = make_tables(found, self._number, self._prompts, *place)
        self._number += sum(isinstance(each, Tokenized) for each in found)
        sent = {name: table for name, table in tables.items() if name in self._plan.tables and table.num_rows}
        reading.send("rows", tables=list(sent), rows=self._rows, read=reading.place.bytes)
        for table in sent.values():
            reading.connection.send_bytes(_as_stream(table))
        self._found, self._rows, self._held = [], 0, 0
        reading.at(f"after {self._last}")


def _as_stream(batch: pa.RecordBatch) -> memoryview:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return memoryview(sink.getvalue())


def _same_tokenizer(each: Candidate | Bad, plan: ReadingPlan) -> Candidate | Bad:
    if isinstance(each, Bad) or each.tokenizer in (None, plan.tokenizer_name):
        return each
    reason = f"made with another tokenizer than the first row ({plan.tokenizer_name!r}): import them apart"
    return Bad(each.file, each.row, "tokenizer", reason, each.tokenizer)


def _look_at_the_head(reading: Reading) -> tuple[Shape, ReadingPlan]:
    """Look at the first rows. Raises TbrmError when none of them can be used."""
    shape: Shape | None = None
    first_problem = ""
    bad: Bad | None = None
    good: list[Candidate] = []
    wants_reward = False
    rows = readable = held = 0
    for row in reading.rows():
        rows, held = rows + 1, held + row.size
        if not row.data:
            first_problem = first_problem or f"; row {row.row}: {row.problem or 'no fields'}"
        else:
            readable += 1
            shape = shape or _recognized(row.data, reading)
            for each in _candidates_of(row, shape, reading.settings):
                if isinstance(each, Bad):
                    bad = each if bad is None or bad.reason.startswith(LEFT_OUT) else bad
                else:
                    wants_reward = wants_reward or each.reward is not None
                    good += [each] if len(good) < _HEAD_ROWS else []
        if rows >= _HEAD_ROWS or held >= _HEAD_BYTES:
            break
    if shape is None:
        names = ", ".join(file.name for file in reading.files)[:1_000]
        raise TbrmError(f"{names}: no readable row among the first {rows}{first_problem}")
    reading.at(f"the first rows of {reading.files[0].name}")
    usable: list[Tokenized] = []
    tried: list[Tokenized | Bad] = []
    for start in range(0, len(good), _TRIED_ROWS):
        tried = tokenize(good[start : start + _TRIED_ROWS], reading.tokens)
        if usable := [each for each in tried if isinstance(each, Tokenized)]:
            break
    if not usable:
        bad = next((each for each in tried if isinstance(each, Bad)), bad)
        assert bad is not None
        raise TbrmError(
            f"none of the first {readable} rows can be used. {bad.file} row {bad.row}, field "
            f"{bad.field!r}: {bad.reason}. Fields are read as {dict(shape.fields)}; choose others with --map"
        )
    name = good[0].tokenizer and good[0].tokenizer[:200]
    made = dataclasses.asdict(tokenizer_info(reading.tokens.tokenizer))
    about = (lacking(good, shape, reading.settings), [shown(each) for each in usable[:_SHOWN_ROWS]])
    return shape, ReadingPlan(
        *(shape.name, dict(shape.fields), wants_reward, name, _fingerprint(reading.tokens), made), *about
    )


def _recognized(data: Mapping[str, Any], reading: Reading) -> Shape:
    """The shape of the log. Raises TbrmError where it holds questions, and nobody said how they were asked."""
    shape = recognize(data, reading.settings.directions)
    if shape.bare and reading.settings.template == "auto":
        raise TbrmError(
            f"the prompts of the log are bare questions (field {shape.bare!r}), and the model saw a template around "
            "them. Say which: --template chat (that of the tokenizer), qwen-math or r1; --template raw where it saw "
            "nothing else"
        )
    reading.look_for_stripped_text(shape)
    return shape


def _candidates_of(row: RawRow, shape: Shape, settings: ImportSettings) -> list[Candidate | Bad]:
    found = responses_of(row, shape, settings.max_expanded_bytes)
    return [found] if isinstance(found, Bad) else candidates(found, wants_reward=False)


def _fingerprint(tokens: TokenSettings) -> str:
    """Names the tokenizer by what it does, wherever its folder lies."""
    words: dict[str, int] = tokens.tokenizer.get_vocab()
    template = getattr(tokens.tokenizer, "chat_template", None) or ""
    return stage_hash(dict(sorted(words.items())), str(template), str(tokens.tokenizer.eos_token))


def memory_limit(max_row_bytes: int) -> int:
    """Bytes that reading may take."""
    return MEMORY_BYTES + _MEMORY_TIMES_ROW * max(0, max_row_bytes - _ROW_BYTES)


def _data_bytes() -> int:
    """Memory of this process that is its own. Mapped files, and what threads reserve without using it, cost none."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize() if _LINUX else 0


def serve(connection: Connection, asked: Mapping[str, Any], limited: bool) -> None:
    """Read the files of one import, and tell the importer how that ended.

    `limited`: the memory of this process is limited, as it is there for nothing else.
    """
    settings = ImportSettings.from_json(asked["settings"])
    reading: Reading | None = None
    problem = ""
    try:
        reading = Reading(connection, settings, [LogFile(**file) for file in asked["files"]], limited)
        read_log(reading)
    except (BrokenPipeError, ConnectionResetError, EOFError):
        return  # the importer stopped reading, and knows why
    except TbrmError as error:
        problem = str(error)
    except MemoryError:
        problem = (
            f"reading the log needs more than {memory_limit(settings.max_row_bytes) >> 20:,} MiB of memory "
            f"({reading.where if reading else 'at the tokenizer'}); nothing was committed. A smaller --max-row-mb "
            "refuses such rows alone; a columnar file may have to be left out"
        )
    if problem:  # told here, where what was held is free again
        del reading
        connection.send_bytes(json.dumps({"kind": "error", "text": problem[:_MAX_PROBLEM]}).encode())


def main(descriptor: int) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = Connection(descriptor)
    asked: dict[str, Any] = json.loads(connection.recv_bytes())
    if any(LogFile(**file).suffix == TORCH for file in asked["files"]):
        importlib.import_module("torch")  # before its memory is limited
    else:
        sys.modules["torch"] = None  # type: ignore[assignment]  # tokenizers do without: it takes seconds to import
    os.chdir(asked["folder"])
    serve(connection, asked, limited=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
