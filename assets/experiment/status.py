"""Where an experiment stands: what is finished, running or out of date, what comes next, and what that costs.

Costs are what the same stages took and wrote before, as their manifests say: nothing is guessed where nothing is known.
Nothing here imports Dagster.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean
from typing import Any, Literal

from assets.experiment.source import check_whole
from assets.experiment.stages import BASE_POLICY, TRAINED_POLICY, Stage, loop
from evals.statistics.scores import read_entries
from pipeline.config import Experiment
from pipeline.errors import StoreError
from pipeline.policies.refs import local_root, pointer_path, published
from pipeline.replay.mix import partition_of
from pipeline.run.configurations import first_generation, owner_of
from pipeline.run.progress import duration
from pipeline.store import Manifest, Store
from pipeline.store.locks import written_by
from trainer.stages.policy_folder import STATE

State = Literal["finished", "running", "out of date", "open"]
_LAST = 3
"""Generations whose costs are averaged: the newest, because a policy's responses may grow longer."""
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class StageState:
    """One stage in one generation; `generation` None: it exists once. `why` says what is out of date, or who works."""

    stage: str
    generation: int | None
    state: State
    why: str = ""


@dataclass(frozen=True)
class Cost:
    """What work takes: seconds and bytes as far as they are known, and the stages of which nothing is known yet."""

    seconds: float
    bytes: int
    unknown: tuple[str, ...] = ()

    def __str__(self) -> str:
        stages = ", ".join(self.unknown)
        if not self.seconds and not self.bytes:
            return (
                f"time and disk are not known yet, as nothing of {stages} is finished" if stages else "next to nothing"
            )
        known = f"about {duration(self.seconds)} and {size(self.bytes)} of disk"
        return f"{known}, and {stages}, of which nothing is finished yet" if stages else known


@dataclass(frozen=True)
class Status:
    """`next` is the first stage that is not finished, `to_do` how many are not; both of them with what they cost.

    `finished` counts whole generations from the first one on; `published` is the newest policy[g]; `refused` what
    stands against going on, such as settings other than those that made what is there.
    """

    experiment: str
    generations: int
    first: int
    finished: int
    published: int | None
    stages: tuple[StageState, ...]
    next: StageState | None
    next_cost: Cost
    to_do: int
    cost: Cost
    free_bytes: int | None
    refused: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def status_of(store: Store, experiment: Experiment) -> Status:
    """Read the store's manifests and locks; no table is read. Raises StoreError for a damaged manifest."""
    found = _progress(store, experiment)
    try:
        check_whole(store, experiment)
    except StoreError as error:
        return replace(found, refused=str(error))
    return found


def _progress(store: Store, experiment: Experiment) -> Status:
    """The status without what stands against going on."""
    first = first_generation(store, experiment.name)
    stages = [(stage, generation) for generation, stages in loop(experiment, first) for stage in stages]
    policies = _published(store, experiment.name)
    # Nothing of a generation is there without its policy: the store is not asked.
    states = tuple(
        _state(store, experiment, stage, generation)
        if generation is None or generation in policies
        else StageState(stage.name, generation, "open")
        for stage, generation in stages
    )
    left = [pair for pair, one in zip(stages, states, strict=True) if one.state in ("open", "running")]
    unfinished = {one.generation for one in states if one.state in ("open", "running")}
    done = [g for g in range(first, experiment.generations) if g not in unfinished]
    newest = max((g for g in policies if g <= experiment.generations), default=None)
    usual = {stage.name: _usual(store, experiment, stage, newest or 0) for stage, _ in stages}
    return Status(
        experiment=experiment.name,
        generations=experiment.generations,
        first=first,
        finished=len(done),
        published=newest,
        stages=states,
        next=next((one for one in states if one.state in ("open", "running")), None),
        next_cost=_sum(usual, left[:1]),
        to_do=len(left),
        cost=_sum(usual, left),
        free_bytes=shutil.disk_usage(store.base).free if store.is_local and store.fs.exists(store.base) else None,
    )


def cost_of_run(store: Store, experiment: Experiment) -> str:
    """What `tbrm run` says before it begins, once nothing stands against it: how much there is to do, and its cost."""
    found = _progress(store, experiment)
    if not found.to_do:
        return f"{experiment.name}: everything is finished"
    free = "" if found.free_bytes is None else f"; {size(found.free_bytes)} are free"
    stages = "1 stage" if found.to_do == 1 else f"{found.to_do:,} stages"
    return f"{experiment.name}: {stages} to do: {found.cost}{free}"


def size(count: float) -> str:
    """Bytes as one says them: `48 MB`, `1.2 GB`."""
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.1f} {_UNITS[unit]}" if unit and count < 9.95 else f"{count:.0f} {_UNITS[unit]}"


def _state(store: Store, experiment: Experiment, stage: Stage, generation: int | None) -> StageState:
    of = generation or 0
    if stage.is_finished(store, experiment, of):
        manifest = _manifest(store, experiment.name, stage, of + stage.offset)
        changed = list(_changed(store, manifest.parents)) if manifest else []
        why = f"made from {' and '.join(changed)}, which changed since" if changed else ""
        return StageState(stage.name, generation, "out of date" if changed else "finished", why)
    writers = (written_by(store, folder) for folder in _folders(store, experiment.name, stage, of + stage.offset))
    writer = next((one for one in writers if one), None)
    return StageState(stage.name, generation, "running" if writer else "open", writer or "")


def _published(store: Store, name: str) -> set[int]:
    """The generations that a policy is published for."""
    folders = (path.rsplit("/", 1)[-1].removeprefix("generation=") for path in store.files(store.join(name, "policy")))
    numbers = (int(number) for number in folders if number.isdigit())
    return {number for number in numbers if store.fs.exists(pointer_path(store, name, number))}


def _changed(store: Store, parents: Mapping[str, str]) -> Iterator[str]:
    """Names of the parents that are another one now, or gone."""
    for name, made_from in parents.items():
        parts = name.rsplit("/", 2)
        if len(parts) < 3:
            continue  # of policy[0]: its settings
        dataset, table, generation = parts[0], parts[1], int(parts[2].removeprefix("generation="))
        if table == "policy":
            there = store.fs.exists(pointer_path(store, dataset, generation))
            now = str(published(store, dataset, generation)["policy_id"]) if there else None
        else:
            partition = partition_of(store, name)
            now = partition.manifest().hash if partition.is_committed() else None
        if now != made_from:
            yield name


def _manifest(store: Store, name: str, stage: Stage, generation: int) -> Manifest | None:
    """The manifest of a stage's result; None where it writes none."""
    table = stage.table or (stage.name if stage is TRAINED_POLICY else None)
    if table is None:
        return None
    return store.committed(name, table, generation)


def _folders(store: Store, name: str, stage: Stage, generation: int) -> list[str]:
    """Folders that a stage under way holds the lock of."""
    folder = f"generation={generation:04d}"
    if stage is BASE_POLICY:
        return [str(local_root(store) / name / "base_policy")]
    if stage is TRAINED_POLICY:
        return [str(local_root(store) / name / STATE / folder)]
    if stage.table is None:
        return []
    answers = [table for table in store.tables(name) if table.startswith("responses@")]
    tables = [stage.table, *(answers if stage.table == "scores" else [])]
    return [store.join(name, table, folder) for table in tables]


def _sum(usual: Mapping[str, Cost | None], left: Sequence[tuple[Stage, int | None]]) -> Cost:
    """What all of it takes together, as far as it is known."""
    known = [found for stage, _ in left if (found := usual[stage.name]) is not None]
    unknown = dict.fromkeys(stage.name for stage, _ in left if usual[stage.name] is None)
    return Cost(sum(one.seconds for one in known), sum(one.bytes for one in known), tuple(unknown))


def _usual(store: Store, experiment: Experiment, stage: Stage, newest: int) -> Cost | None:
    """What the stage took in the newest generations that have it, those of an experiment that this is a fork of too."""
    found: list[Cost] = []
    for generation in reversed(range(newest + 1)):
        manifest = _manifest(store, owner_of(store, experiment.name, generation), stage, generation)
        if manifest is not None:
            found.append(_recorded(store, manifest))
        if len(found) == _LAST:
            break
    return Cost(mean(c.seconds for c in found), round(mean(c.bytes for c in found))) if found else None


def _recorded(store: Store, manifest: Manifest) -> Cost:
    """Seconds and bytes of what is there; those of scores are mostly those of the responses that were graded."""
    made = [manifest]
    if manifest.table == "scores":
        entries = read_entries(store.partition(manifest.dataset, "scores", manifest.generation)).values()
        answers = [partition_of(store, entry.responses) for entry in entries]
        made += [partition.manifest() for partition in answers if partition.is_committed()]
    return Cost(sum(float(one.stats.get("seconds", 0.0)) for one in made), sum(one.bytes for one in made))
