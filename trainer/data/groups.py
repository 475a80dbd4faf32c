"""The prompts of a training mix: which rows answer each, and the statistics of their rewards. Some 50 bytes a row."""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from pipeline.scoring.batch import GroupStats

Rows = npt.NDArray[np.int64]


class Groups(Sequence[Rows]):
    """Rows of each prompt that are trained, prompts in order of appearance. A prompt without any is left out."""

    def __init__(
        self,
        keys: npt.NDArray[np.uint64],
        rewards: npt.NDArray[np.float64],
        beta: float,
        trained: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """`keys` [rows] names the prompt of each row; `rewards` [rows]. The statistics of a prompt are those of all its
        rows, those that are not `trained` [rows] (None: all are) included.
        """
        rows = np.arange(len(keys)) if trained is None else np.flatnonzero(trained)
        names, first, inverse = np.unique(keys[rows], return_index=True, return_inverse=True)
        appearance = np.empty(len(first), dtype=np.int64)
        appearance[np.argsort(first)] = np.arange(len(first))
        self.of_row: Rows = np.full(len(keys), -1, dtype=np.int64)
        """Prompt of each row that is trained; -1 of the others."""
        self.of_row[rows] = appearance[inverse]
        self._rows: Rows = rows[np.argsort(appearance[inverse], kind="stable")]
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(appearance[inverse]))])
        known = np.isin(keys, names)
        prompt = appearance[np.searchsorted(names, keys[known])]
        order = np.argsort(prompt, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(prompt))])
        self._stats = group_stats(rewards[known][order], starts, beta)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Rows: ...
    @overload
    def __getitem__(self, index: slice) -> list[Rows]: ...
    def __getitem__(self, index: int | slice) -> Rows | list[Rows]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._rows[self._starts[index % len(self)] : self._starts[index % len(self) + 1]]

    @property
    def sizes(self) -> Rows:
        """Rows of each prompt that its statistics are taken over."""
        return self._stats[2]

    def stats(self, index: int) -> GroupStats:
        """Statistics of one prompt's rewards."""
        mean, std, size, soft_value = (column[index] for column in self._stats)
        return GroupStats(float(mean), float(std), int(size), float(soft_value))


def group_stats(
    rewards: npt.NDArray[np.float64], starts: npt.NDArray[np.integer[Any]], beta: float
) -> tuple[npt.NDArray[Any], ...]:
    """Of each prompt's rewards: mean, standard deviation (n - 1), size n, and V̂(x) = log (1/n) Σ exp(r/β).

    Prompt k has `rewards[starts[k]:starts[k + 1]]`; no prompt is without any.
    """
    sizes, begins = np.diff(starts), starts[:-1]
    means = np.add.reduceat(rewards, begins) / sizes
    squares = np.add.reduceat((rewards - np.repeat(means, sizes)) ** 2, begins)
    scaled = rewards / beta
    tops = np.maximum.reduceat(scaled, begins)
    soft_values = tops + np.log(np.add.reduceat(np.exp(scaled - np.repeat(tops, sizes)), begins) / sizes)
    return means, np.sqrt(squares / np.maximum(sizes - 1, 1)), sizes, soft_values
