"""How a stage writes a partition: one that is there is left as it is, one that was begun is continued shard by shard.

A stage says what it reads (`parents`), what decides its bytes (`key`), how a shard is made, and its statistics.
Everything else is done here, in the same way for every stage: the comparison with what is there, the lock, keeping the
shards of an interrupted run, progress, the workers of a cluster, the commit and the report. Only this process writes to
the store, whoever makes a shard. So a cluster changes nothing about checksums, manifests or what is made again after a
failure.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field, replace
from time import monotonic
from typing import Self

import pyarrow as pa

from pipeline.config import Experiment
from pipeline.errors import StoreError, needing
from pipeline.run.configurations import check_alike, keep_configuration
from pipeline.run.progress import track
from pipeline.run.shards import Advance, Start
from pipeline.store import Manifest, Partition, PartitionWriter, Stat, Store, TokenizerInfo

Metric = float | int | str


@dataclass(frozen=True)
class StageReport:
    """The outcome of one stage. `skipped` means the partition was already committed with the same configuration.

    `seconds` is wall time of the stage itself, without process start-up. `metrics` is small and flat: it is stored in
    the manifest's `stats`, printed by the command, and shown by Dagster.
    """

    stage: str
    dataset: str
    generation: int
    rows: int
    seconds: float
    skipped: bool
    metrics: Mapping[str, Metric] = field(default_factory=dict[str, Metric])

    @classmethod
    def of(cls, stage: str, manifest: Manifest, started: float, skipped: bool) -> Self:
        """The report of a stage that began at `started` (monotonic) and whose partition has this manifest."""
        seconds = monotonic() - started
        return cls(stage, manifest.dataset, manifest.generation, manifest.rows, seconds, skipped, manifest.stats)

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def merged(reports: Sequence[StageReport]) -> StageReport:
    """One report of a stage that was run for several partitions: rows and seconds of all, the figures of the last."""
    return replace(
        reports[-1],
        rows=sum(report.rows for report in reports),
        seconds=sum(report.seconds for report in reports),
        skipped=all(report.skipped for report in reports),
    )


@dataclass(frozen=True)
class Work:
    """What a stage has to make. `rows` counts those of each shard; `start` starts what makes them."""

    rows: Sequence[int]
    start: Start
    statistics: Callable[[PartitionWriter], Mapping[str, Stat]] = lambda _: {}
    """Figures over all shards, including those that an interrupted run has made."""
    tokenizer: TokenizerInfo | None = None
    """The tokenizer that made the token ids of the table, where the table holds some."""
    note: str = ""
    """A word beside the progress."""
    resumed: bool = True
    """Whether shards of an interrupted run with the same key are kept."""


@dataclass(frozen=True)
class Stage:
    """One stage at one partition."""

    name: str
    partition: Partition
    key: str
    """Hash of all that decides the rows. A committed partition with this key is left as it is."""
    parents: Mapping[str, str]
    work: Callable[[], Work]
    """Called only where something has to be made; checks that cost time stand here, before anything is written."""
    unit: str = ""
    """What the progress counts. Empty: no progress is shown."""
    alike: Sequence[str] = ()
    """Fields in which the experiment's other generations of the table have to be made with the same values."""
    cut: str = ""
    """How the rows are cut into shards. Shards of an interrupted run are kept only where they are cut in the same way;
    a committed partition with the same key is left as it is, however it is cut."""

    @property
    def config_hash(self) -> str:
        return f"{self.key}-{self.cut}" if self.cut else self.key


def run_stage(store: Store, stage: Stage, experiment: Experiment, replace: bool, started: float) -> StageReport:
    """Write the stage's partition where it is not there yet, and report. `started`: when the stage began (monotonic).

    Raises StoreError where the partition is there by other settings, unless `replace` is given: it is moved aside then.
    """
    manifest, skipped = write_partition(store, stage, experiment, replace, started)
    return StageReport.of(stage.name, manifest, started, skipped)


def write_partition(
    store: Store, stage: Stage, experiment: Experiment | None, replace: bool = False, started: float | None = None
) -> tuple[Manifest, bool]:
    """The manifest of the stage's partition, and whether it was there already.

    Without an `experiment` all shards are made on this machine and no configuration is kept. With `started` the seconds
    since then stand among the statistics.
    """
    partition = stage.partition
    if not replace and (manifest := _committed(stage)):
        return manifest, True
    if stage.alike and experiment is not None:
        table, generation = partition.table, partition.generation
        check_alike(store, experiment, table, generation, stage.alike, replace, label_of_rows=True)
    work = stage.work()
    configuration = keep_configuration(store, experiment) if experiment is not None else None
    shards = range(len(work.rows))
    with ExitStack() as held:
        try:
            writer = held.enter_context(partition.writer(stage.config_hash, stage.parents, replace, configuration))
        except StoreError:
            if not replace and (manifest := _committed(stage)):  # by another process, since the first look
                return manifest, True
            raise
        progress = held.enter_context(track(f"{stage.name}[{partition.generation}]", sum(work.rows), stage.unit))
        progress.note(work.note)
        todo = [index for index in shards if not (work.resumed and writer.is_done(index))]
        finished = sum(work.rows) - sum(work.rows[index] for index in todo)
        progress.advance(finished)
        for index, rows in _made(stage.name, experiment, work.start, todo, progress.advance):
            writer.write(index, rows)
            finished += work.rows[index]
            progress.advance(finished - progress.done)
        stats = dict(work.statistics(writer))
        if started is not None:
            stats["seconds"] = time.monotonic() - started
        return writer.commit(len(shards), stats, work.tokenizer), False


def _committed(stage: Stage) -> Manifest | None:
    """The manifest of the stage's partition where it is committed with the same key."""
    if not stage.partition.is_committed():
        return None
    manifest = stage.partition.manifest()
    return manifest if manifest.config_hash.partition("-")[0] == stage.key else None


def _made(
    stage: str,
    experiment: Experiment | None,
    start: Start,
    todo: Sequence[int],
    advance: Advance,
) -> Generator[tuple[int, pa.Table]]:
    """(index, rows) of each shard as it is finished: in order on this machine, in any order on a cluster.

    Nothing is started when there is no shard to make. Raises TbrmError when the cluster cannot be had or loses a shard
    more often than `ray.attempts` allows; errors of the work itself come through as they are.
    """
    if not todo:
        return
    if experiment is not None and experiment.ray is not None and experiment.on_cluster(stage):
        with needing("ray", "ray"):
            from pipeline.run.ray import work_on_cluster
        gpus = 0.0 if stage == "rewards" else experiment.ray.gpus
        yield from work_on_cluster(experiment.ray, gpus, start, todo)
        return
    with start() as make:
        for index in todo:
            yield index, make(index, advance)


def each(function: Callable[[int], pa.Table]) -> Start:
    """Work that needs nothing started: the rows of a shard are a function of its number."""
    return lambda: nullcontext(lambda index, _: function(index))


def whole(
    tables: Sequence[pa.Table], stats: Mapping[str, Stat] | None = None, tokenizer: TokenizerInfo | None = None
) -> Work:
    """Work that is already done: `tables` are all shards. Shards of an interrupted run do not take their place."""
    rows = [table.num_rows for table in tables]
    return Work(rows, each(tables.__getitem__), lambda _: stats or {}, tokenizer, resumed=False)
