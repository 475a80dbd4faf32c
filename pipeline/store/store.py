"""The store: tables of experiments and logged data sets, by generation, under one root."""

import os

from pipeline.store.files import PART, Files
from pipeline.store.partition import Partition
from pipeline.store.schema import SCHEMAS


class Store(Files):
    """The tables of all experiments and logged data sets under one root."""

    def partition(self, dataset: str, table: str, generation: int = 0) -> Partition:
        """One generation of one table of `dataset` (an experiment's name, or `logged/<name>`)."""
        return Partition(self, dataset, table, generation)

    def generations(self, dataset: str, table: str) -> list[int]:
        """Committed generations of a table, ascending."""
        found: list[int] = []
        for path in self.files(self.join(dataset, table)):
            name = path.rsplit("/", 1)[-1]
            if name.startswith("generation=") and name[11:].isdigit() and self.fs.exists(f"{path}/_manifest.json"):
                found.append(int(name[11:]))
        return sorted(found)

    def datasets(self) -> list[str]:
        """Experiments and logged data sets that have at least one table folder."""
        top = [path.rsplit("/", 1)[-1] for path in self.files(self.base) if self.fs.isdir(path)]
        logged = [
            f"logged/{path.rsplit('/', 1)[-1]}" for path in self.files(f"{self.base}/logged") if self.fs.isdir(path)
        ]
        return sorted(
            name for name in top if name not in ("logged", "evaluated", "dagster_home") and PART.fullmatch(name)
        ) + sorted(logged)

    def tables(self, dataset: str) -> list[str]:
        """Tables of a data set, label versions (`rewards@v2`) included."""
        names = [path.rsplit("/", 1)[-1] for path in self.files(self.join(dataset))]
        return [name for name in names if name.partition("@")[0] in SCHEMAS]


def open_store(root: str | None = None) -> Store:
    """The store at `root` (local path, s3://, gs://, …), by default `$TBRM_ROOT` or `./data`."""
    return Store(root or os.environ.get("TBRM_ROOT") or "data")
