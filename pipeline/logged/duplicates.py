"""Which rows were seen before: 8 bytes a row, so that ten million rows take 80 MB."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from pipeline.logged.fields import Bad
from pipeline.logged.tokens import Tokenized

_RECENT = 2**16


class Seen:
    """A set of 64-bit hashes: the newest in a set of Python, the older ones in a few sorted arrays of growing size."""

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
    reason = "duplicate: the same prompt and response stand earlier in the log"
    return Bad(candidate.file, candidate.row, "response", reason)
