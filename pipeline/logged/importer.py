"""Import of logged trajectories: any log becomes prompts, rollouts and rewards of `logged/<name>`, shard by shard.

Another process reads the log, under limits (`reader`); this one writes. Shard k holds the good rows of a stretch of
source rows over all files; where a stretch ends follows from the rows alone, so that an interrupted import goes on at
the first missing shard, and what is wrong with a row changes no other shard.
"""

import dataclasses
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Self

import pyarrow as pa

from pipeline.config import stage_hash
from pipeline.config.policy import BuiltModel, named_policy
from pipeline.config.replay import LOGGED_NAME
from pipeline.errors import TbrmError
from pipeline.logged.raw import DUPLICATE, LEFT_OUT
from pipeline.logged.reader_process import Reader, reader
from pipeline.logged.settings import SHARD_BYTES, ImportSettings, ReadingPlan
from pipeline.logged.sources import LogFile, file_digest, find_files
from pipeline.logged.summary import ImportReport, Summary
from pipeline.run.progress import track
from pipeline.store import Manifest, PartitionWriter, Stat, Store, TokenizerInfo

__all__ = ["ImportSettings", "run_import"]

_COMMIT_ORDER = ("prompts", "quarantine", "rollouts", "rewards")
_NO_FAULTS = (DUPLICATE, LEFT_OUT)
_HOPELESS_ROWS = 100_000
"""An import whose rows are mostly bad is stopped when so many of them are, and not only at its end."""
_SHOWN_BYTES = 2**30
"""Taking the checksums of so much takes a while: how far that is, is shown."""
_MOST_UNUSED = 100
"""Rows that repeat others or are left out, for each trajectory: with more of them a log is no log."""


def run_import(settings: ImportSettings, store: Store, replace: bool = False) -> ImportReport:
    """Write `logged/<name>`: tables prompts, rollouts, quarantine, and rewards where the log has them.

    Raises TbrmError when files are unreadable, no field can be found, or more than `max_bad_share` of the rows are bad;
    nothing is committed then. A data set that is there already with the same settings and files is left as it is.
    """
    return import_files(settings, find_files(settings.files), store, replace)


def import_files(
    settings: ImportSettings,
    files: Sequence[LogFile],
    store: Store,
    replace: bool = False,
    stats: Mapping[str, Stat] | None = None,
) -> ImportReport:
    """`run_import` of these `files`, or parts of files. `stats` are kept beside those of the import."""
    started = time.monotonic()
    if not LOGGED_NAME.fullmatch(settings.name) or settings.name == "generation":
        raise TbrmError(f"--name {settings.name!r}: letters, digits and . _ - only, and not 'generation'")
    if isinstance(named_policy(settings.tokenizer), BuiltModel):  # the reader, which is confined, could not make it
        from pipeline.policies.load_save import built_folder

        settings = dataclasses.replace(settings, tokenizer=str(built_folder(settings.tokenizer)))
    before = None if stats is not None else _states(files)  # what is watched still grows
    parents = _digests(files, settings.name)
    with reader(settings, files) as log:
        plan = log.plan()
        config_hash = _config_hash(settings, parents, plan)
        place = (settings.dataset, settings.generation)
        with TableWriters(store, *place, plan.tables, config_hash, parents, replace) as writers:
            if not writers.all_committed:
                size = sum(file.size for file in files)
                shards, summary = _write_shards(log, settings, plan, writers, size)
                _stop_if_too_bad(summary, shards, writers, settings)
                if before is not None:
                    _stop_if_changed(files, before)
                found = {"shape": plan.shape, "seconds": time.monotonic() - started, **(stats or {})}
                writers.commit(shards, summary.stats() | found, TokenizerInfo(**plan.tokenizer_info))
            skipped = writers.all_committed_before
    manifest = store.partition(settings.dataset, "rollouts", settings.generation).manifest()
    about = (dict(plan.fields), _with_repeats(plan.lacks, manifest), plan.first)
    return ImportReport(manifest, *about, skipped, time.monotonic() - started)


def _states(files: Sequence[LogFile]) -> list[tuple[int, ...] | None]:
    """What changes with a local file; None for one that lies elsewhere, whose tag names its content."""
    return [None if file.is_remote else _state(Path(file.name)) for file in files]


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _stop_if_changed(files: Sequence[LogFile], before: Sequence[tuple[int, ...] | None]) -> None:
    """Raise TbrmError where a file is no longer what it was when its checksum was taken: the manifest would lie."""
    for file, then, now in zip(files, before, _states(files), strict=True):
        if then != now:
            raise TbrmError(
                f"{file.name} was changed while it was read; nothing was committed. Import it again when its writer "
                "has ended, import a copy, or take up what it writes with --watch"
            )


def _with_repeats(lacks: Sequence[str], manifest: Manifest) -> list[str]:
    repeated = int(manifest.stats.get("repeated_rows", 0))
    if not repeated:
        return list(lacks)
    return [
        *lacks,
        f"{repeated:,} rows repeat others and are not stored again: where a sampler repeated itself within "
        "a group, --duplicates keep stores them",
    ]


def _config_hash(settings: ImportSettings, parents: Mapping[str, str], plan: ReadingPlan) -> str:
    decisive = {k: v for k, v in vars(settings).items() if k not in ("files", "tokenizer", "max_bad_share")}
    return stage_hash(decisive, parents, plan.tokenizer, plan.shape, SHARD_BYTES)


def _digests(files: Sequence[LogFile], name: str) -> dict[str, str]:
    """What names the content of each file, which decides what the import writes."""
    found: dict[str, str] = {}
    size = sum(file.size for file in files)
    with _mebibytes(f"checksums of {name}", size, shown=size >= _SHOWN_BYTES) as advanced:
        taken = 0

        def read(more: int) -> None:
            nonlocal taken
            taken += more
            advanced(taken)

        for number, file in enumerate(files):
            found[f"file {number} {file.name.rpartition('/')[2]}"] = file_digest(file, read)
    return found


@contextmanager
def _mebibytes(label: str, size: int, shown: bool = True) -> Generator[Callable[[int], None]]:
    """Progress of reading `size` bytes, told how many were read so far; nothing is said of it unless `shown`."""
    total = max(1, size >> 20)
    with track(label, total, "MiB" if shown else "") as progress:

        def advanced(read: int) -> None:
            if (more := min(read >> 20, total) - progress.done) > 0:
                progress.advance(more)

        yield advanced
        progress.advance(total - progress.done)


def _write_shards(
    log: Reader, settings: ImportSettings, plan: ReadingPlan, writers: "TableWriters", size: int
) -> tuple[int, Summary]:
    """Write every missing shard; returns how many there are, and what they hold. `size`: bytes of the files."""
    summary = Summary(plan.wants_reward)
    shards = 0
    with _mebibytes(f"import {settings.name}", size) as log.advanced:
        while log.has_shard():
            # Which response repeats an earlier one is known only when all are tokenized again.
            if settings.duplicates != "responses" and writers.is_done(shards):
                rows = log.skip()
            else:
                rows, tables = log.shard(summary.trajectories)
                writers.write(shards, tables)
            summary.add(writers.read, shards, rows)
            shards += 1
            if summary.unused_rows >= _HOPELESS_ROWS:
                _stop_if_too_bad(summary, shards, writers, settings)
    return shards, summary


def _stop_if_too_bad(summary: Summary, shards: int, writers: "TableWriters", settings: ImportSettings) -> None:
    bad, rows = summary.bad_rows, summary.rows
    unused = summary.unused_rows
    hopeless = unused >= _HOPELESS_ROWS and unused > _MOST_UNUSED * summary.trajectories and settings.max_bad_share < 1
    empty = hopeless or not summary.trajectories
    if not empty and bad <= settings.max_bad_share * rows:
        return
    tables = (writers.read("quarantine", index, None) for index in range(shards))
    told = (row for table in tables for some in table.to_batches(max_chunksize=64) for row in some.to_pylist())
    shown = (row for row in told if empty or not row["reason"].startswith(_NO_FAULTS))
    lines = [f"  {r['file']} row {r['row']}, field {r['field']!r}: {r['reason']}" for r in islice(shown, 5)]
    if empty and bad <= settings.max_bad_share * rows:
        raise TbrmError(
            f"{unused} of {rows} rows give nothing to store; nothing was committed. The first ones:\n"
            + "\n".join(lines)
        )
    raise TbrmError(
        f"{bad} of {rows} rows are bad ({bad / max(rows, 1):.1%}, --max-bad-share is {settings.max_bad_share:.1%}); "
        "nothing was committed. The first ones:\n" + "\n".join(lines)
    )


class TableWriters:
    """Shards of several tables of one partition. A table that a killed import had committed already is only read."""

    def __init__(
        self,
        store: Store,
        dataset: str,
        generation: int,
        tables: Sequence[str],
        config_hash: str,
        parents: Mapping[str, str],
        replace: bool,
    ) -> None:
        self._partitions = {t: store.partition(dataset, t, generation) for t in _COMMIT_ORDER if t in tables}
        self._config_hash, self._parents, self._replace = config_hash, parents, replace
        self._open: dict[str, PartitionWriter] = {}
        self._held = ExitStack()
        self.all_committed_before = False

    def __enter__(self) -> Self:
        committed = [name for name, p in self._partitions.items() if p.is_committed() and not self._replace]
        same = [name for name in committed if self._partitions[name].manifest().config_hash == self._config_hash]
        self.all_committed_before = len(same) == len(self._partitions)
        with ExitStack() as opened:
            for name, partition in self._partitions.items():
                if name not in same:
                    writer = partition.writer(self._config_hash, self._parents, self._replace)
                    self._open[name] = opened.enter_context(writer)
            self._held = opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()

    @property
    def all_committed(self) -> bool:
        return not self._open

    def is_done(self, index: int) -> bool:
        """Whether every table has shard `index`."""
        return all(writer.is_done(index) for writer in self._open.values())

    def write(self, index: int, tables: Mapping[str, pa.Table]) -> None:
        for name, writer in self._open.items():
            writer.write(index, tables[name])

    def read(self, table: str, index: int, columns: Sequence[str] | None) -> pa.Table:
        if table in self._open:
            return self._open[table].read(index, columns)
        return self._partitions[table].read_shard(index, columns)

    def commit(self, shards: int, stats: Mapping[str, Stat], tokenizer: TokenizerInfo) -> None:
        """Commit table by table. The rewards name the rollouts they belong to, so they come last."""
        for name, writer in self._open.items():
            if name == "rewards":
                rollouts = self._partitions["rollouts"]
                writer.parents = {**writer.parents, rollouts.name: rollouts.manifest().hash}
            ids = tokenizer if name in ("prompts", "rollouts") else None
            writer.commit(shards, stats if name == "rollouts" else None, ids)
