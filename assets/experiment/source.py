"""Where an experiment comes from: a YAML file, resolved and kept in the store before anything of it runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evals.run.plan import plan_protocols, setting_of
from evals.run.stage import differences_of_scores
from pipeline.config import Experiment, experiments_folder, find_experiment, load_experiment
from pipeline.errors import ConfigError, StoreError, TbrmError
from pipeline.policies.refs import pointer_path
from pipeline.reference import DECIDES as REF_LOGPROBS
from pipeline.rewards.stage import DECIDES as REWARDS
from pipeline.run.configurations import (
    Difference,
    Fork,
    configuration_file,
    differences,
    fork_experiment,
    keep_configuration,
    keep_experiment,
    kept_experiments,
    mixed,
    read_configuration,
    read_fork,
)
from pipeline.sampling.rollouts import DECIDES as ROLLOUTS
from pipeline.store import Store
from trainer.stages.base_policy import differences_of_base
from trainer.stages.policy_folder import TABLE, differences_of, trained_generations


@dataclass(frozen=True)
class ExperimentSource:
    """A valid experiment and the file (with overrides) that it was read from."""

    path: str
    experiment: Experiment
    overrides: tuple[str, ...] = ()
    kept: bool = False
    """Whether the file is one that the store keeps: it is resolved and named by its content, so it never changes."""
    fork: Fork | None = None
    """Where it was forked from; None where it begins by itself, or where no store was asked."""

    @property
    def name(self) -> str:
        return self.experiment.name

    @property
    def first_generation(self) -> int:
        """0, or the generation that the experiment was forked at."""
        return self.fork.generation if self.fork else 0

    def keep(self, store: Store) -> "ExperimentSource":
        """The same experiment from a resolved file in the store: a later edit of the YAML does not reach its stages."""
        path = configuration_file(store, keep_configuration(store, self.experiment))
        return ExperimentSource(path, self.experiment, kept=True, fork=read_fork(store, self.name))

    def arguments(self) -> list[str]:
        """Command-line options that make a `tbrm` command see this experiment."""
        return ["--experiment", self.path, *(part for override in self.overrides for part in ("--set", override))]


@dataclass(frozen=True)
class BrokenSource:
    """A file that is no valid experiment, and why. It is shown as an asset of its own; the others load without it."""

    path: Path
    error: str


def read_experiments(
    folder: Path | None = None, store: Store | None = None
) -> tuple[list[ExperimentSource], list[BrokenSource]]:
    """Read every `*.yaml` of `folder` (default: `experiments/`), sorted by file name.

    With a `store`, also what was run in it under a name that no file has: branches, and `tbrm run … --name`.
    """
    good: dict[str, ExperimentSource] = {}
    broken: list[BrokenSource] = []
    for path in sorted((folder or experiments_folder()).glob("*.yaml")):
        try:
            source = read_experiment(str(path))
        except TbrmError as error:
            broken.append(BrokenSource(path, str(error)))
            continue
        if source.name in good:
            broken.append(
                BrokenSource(path, f"{path}: name {source.name!r} is taken by {good[source.name].path}; rename one")
            )
        else:
            good[source.name] = source
    taken = {path.stem for path in (one.path for one in broken)} | set(good)
    for name, address in (kept_experiments(store) if store else {}).items():
        if name in taken:
            continue
        try:
            good[name] = read_experiment(address)
        except TbrmError as error:
            broken.append(BrokenSource(Path(name), str(error)))
    for name, source in list(good.items()):
        try:
            good[name] = replace(source, fork=read_fork(store, name) if store else None)
        except TbrmError as error:
            broken.append(BrokenSource(Path(good.pop(name).path), str(error)))
    return list(good.values()), broken


def read_experiment(name_or_path: str, overrides: Sequence[str] = ()) -> ExperimentSource:
    """One experiment by name, path or address. Raises ConfigError."""
    path = name_or_path if "://" in name_or_path else str(find_experiment(name_or_path).resolve())
    return ExperimentSource(path, load_experiment(path, overrides), tuple(overrides))


def read_known(name: str, store: Store, overrides: Sequence[str] = ()) -> ExperimentSource:
    """One experiment by name or path, or by the name under which the store has it. Raises ConfigError."""
    try:
        find_experiment(name)
    except ConfigError:
        kept = kept_experiments(store)
        if name not in kept:
            raise
        name = kept[name]
    return read_experiment(name, overrides)


def branch_experiment(store: Store, origin: ExperimentSource, generation: int, branch: Experiment) -> Fork:
    """Make `branch` an experiment of the store that goes on from policy[`generation`] of `origin`.

    A second call changes nothing. Raises TbrmError where the branch would have nothing to do, where its name is that of
    another experiment, and where the policy is not there or is damaged.
    """
    if generation >= branch.generations:
        raise TbrmError(
            f"{branch.name} ends with policy[{branch.generations}], so a branch from policy[{generation}] has nothing "
            f"to do: set generations={generation + 1}, or more"
        )
    try:
        taken = find_experiment(branch.name)
    except ConfigError:
        fork = fork_experiment(store, branch.name, origin.name, generation)
        if branch.name not in kept_experiments(store):
            keep_experiment(store, branch)
        return fork
    raise TbrmError(f"{taken} is an experiment of that name already: give the branch another one")


def check_whole(store: Store, experiment: Experiment) -> None:
    """Raise StoreError naming every field in which something of the experiment was made by other settings.

    A benchmark that does not exist is a TbrmError here, before anything is trained.
    """
    if experiment.evaluation:
        plan_protocols(setting_of(experiment))
    found: list[tuple[str, list[int], list[Difference]]] = []
    if store.fs.exists(pointer_path(store, experiment.name, 0)):
        found.append(("policy[0]", [], differences_of_base(store, experiment)))
    now = experiment.model_dump(mode="json")
    for table, decides in (("rollouts", ROLLOUTS), ("rewards", REWARDS), ("ref_logprobs", REF_LOGPROBS)):
        found += _of_table(store, experiment.name, table, now, decides)
    trained = ((g, differences_of(store, experiment, g)) for g in trained_generations(store, experiment.name))
    found += [(TABLE, *alike) for alike in _grouped(trained)]
    scored = store.generations(experiment.name, "scores") if experiment.evaluation else []
    scores = _grouped((g, differences_of_scores(experiment, store, g)) for g in scored)
    found += [("scores", *alike) for alike in scores]
    if wrong := [one for one in found if one[2]]:
        measured = any(different for _, different in scores)
        again = f". Scores can be measured again: `tbrm evaluate -e {experiment.name} --set … -g G --replace`"
        raise StoreError(mixed(experiment.name, wrong) + (again if measured else ""))


def _grouped(each: Iterable[tuple[int, list[Difference]]]) -> list[tuple[list[int], list[Difference]]]:
    """Generations that differ in the same words, together."""
    by_words: dict[str, tuple[list[int], list[Difference]]] = {}
    for generation, different in each:
        by_words.setdefault(str([str(one) for one in different]), ([], different))[0].append(generation)
    return list(by_words.values())


def _of_table(
    store: Store, name: str, table: str, now: Mapping[str, Any], decides: Sequence[str]
) -> list[tuple[str, list[int], list[Difference]]]:
    by_file: dict[str, list[int]] = {}
    for generation in store.generations(name, table):
        if made_by := store.partition(name, table, generation).manifest().configuration:
            by_file.setdefault(made_by, []).append(generation)
    return [
        (table, generations, differences(read_configuration(store, made_by), now, decides))
        for made_by, generations in by_file.items()
    ]
