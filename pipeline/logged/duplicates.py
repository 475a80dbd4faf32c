"""Which rows were seen before: 8 bytes a row, so that ten million rows take 80 MB."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from pipeline.logged.fields import Bad
from pipeline.logged.tokens import Tokenized


class Seen:
    """A set of 64-bit hashes as a few sorted arrays of growing size; merging them costs O(log n) a hash."""

    def __init__(self) -> None:
        self._runs: list[npt.NDArray[np.uint64]] = []

    def first_times(self, digests: Sequence[int | None]) -> list[bool]:
        """For each digest, whether neither this call nor an earlier one had it before. None is always new."""
        rows = [row for row, digest in enumerate(digests) if digest is not None]
        values = np.asarray([digests[row] for row in rows], dtype=np.uint64)
        unique, first = np.unique(values, return_index=True)
        fresh = np.ones(len(unique), dtype=np.bool_)
        for run in self._runs:
            fresh &= ~np.isin(unique, run, assume_unique=True)
        new = [digest is None for digest in digests]
        for position in first[fresh]:
            new[rows[position]] = True
        self._add(unique[fresh])
        return new

    def _add(self, run: npt.NDArray[np.uint64]) -> None:
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.union1d(run, self._runs.pop())
        self._runs.append(run)

    def drop_repeated(self, found: Sequence[Tokenized | Bad]) -> list[Tokenized | Bad]:
        """Trajectories whose prompt and response tokens stand earlier become bad rows."""
        new = self.first_times([None if isinstance(each, Bad) else _tokens_hash(each) for each in found])
        return [
            each if is_new or isinstance(each, Bad) else _repeated(each)
            for each, is_new in zip(found, new, strict=True)
        ]


def _tokens_hash(each: Tokenized) -> int:
    prompt = np.asarray(each.prompt_ids, dtype=np.int32).tobytes()
    return xxhash.xxh3_64_intdigest(
        np.asarray(each.response_ids, dtype=np.int32).tobytes(), xxhash.xxh3_64_intdigest(prompt)
    )


def _repeated(each: Tokenized) -> Bad:
    candidate = each.candidate
    reason = "duplicate: the same prompt and response stand earlier in the log"
    return Bad(candidate.file, candidate.row, "response", reason)
