"""Which experiments there are: every YAML file of the experiments folder, each read on its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Experiment, experiments_folder, find_experiment, load_experiment
from pipeline.errors import TbrmError
from pipeline.run.configurations import configuration_file, keep_configuration
from pipeline.store import Store


@dataclass(frozen=True)
class ExperimentSource:
    """A valid experiment and the file (with overrides) that it was read from."""

    path: str
    experiment: Experiment
    overrides: tuple[str, ...] = ()
    kept: bool = False
    """Whether the file is one that the store keeps: resolved, named by its content, and so the same for ever."""

    @property
    def name(self) -> str:
        return self.experiment.name

    def keep(self, store: Store) -> "ExperimentSource":
        """The same, resolved, as a file of the store: whatever becomes of the YAML, its stages run what was checked."""
        path = configuration_file(store, keep_configuration(store, self.experiment))
        return ExperimentSource(path, self.experiment, kept=True)

    def arguments(self) -> list[str]:
        """Command-line options that make a `tbrm` command see this experiment."""
        return ["--experiment", self.path, *(part for override in self.overrides for part in ("--set", override))]


@dataclass(frozen=True)
class BrokenSource:
    """A file that is no experiment, and why. It is shown as an asset of its own and stops nobody else."""

    path: Path
    error: str


def read_experiments(folder: Path | None = None) -> tuple[list[ExperimentSource], list[BrokenSource]]:
    """Read every `*.yaml` of `folder` (default: `experiments/`), sorted by file name."""
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
    return list(good.values()), broken


def read_experiment(name_or_path: str, overrides: Sequence[str] = ()) -> ExperimentSource:
    """One experiment by name or path. Raises ConfigError."""
    path = str(find_experiment(name_or_path).resolve())
    return ExperimentSource(path, load_experiment(path, overrides), tuple(overrides))
