"""V of θ_t, the policy at the start of the stage, for the objectives that bootstrap from it."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainer.data import TrajectoryTable
from trainer.engine import World, total
from trainer.job import TrainJob
from trainer.models import Models
from trainer.packing import pack
from trainer.types import Scores

FROZEN_FILE = "frozen_values.npz"
_ROWS_AT_ONCE = 1_024


class FrozenValues:
    """V_{θ_t} at every response token of the rows a job trains on: one flat array, and each row's start."""

    def __init__(
        self, rows: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], values: npt.NDArray[np.float32]
    ) -> None:
        self._place = {int(row): i for i, row in enumerate(rows)}
        self._starts, self._values = starts, values

    def read(self, rows: Sequence[int]) -> list[npt.NDArray[np.float32]]:
        """[R_i] values of each of `rows`."""
        places = [self._place[row] for row in rows]
        return [self._values[self._starts[i] : self._starts[i + 1]] for i in places]


def frozen_values(
    job: TrainJob, models: Models, table: TrajectoryTable, needed: Iterable[int], world: World
) -> FrozenValues:
    """Score the `needed` rows once under the job's starting weights; a resumed job reads the file instead.

    All ranks call this before any checkpoint is loaded, and take turns at the packs.
    """
    path = job.state / FROZEN_FILE
    if not path.exists():
        rows = np.array(sorted(set(needed)), dtype=np.int64)
        lengths = np.concatenate([table.response_lengths(part) for part in _parts(rows)])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        values = torch.zeros(int(starts[-1]), dtype=torch.float32, device=world.device)
        done = 0
        for part in _parts(rows):
            _score(job, models, table, part, starts[done:], values, world)
            done += len(part)
        flat: npt.NDArray[np.float32] = total(world, values).cpu().numpy()
        if world.leader:
            temp = path.with_name(f"_tmp.{FROZEN_FILE}")
            with temp.open("wb") as file:
                np.savez(file, rows=rows, starts=starts, values=flat)
            temp.replace(path)
        torch.distributed.barrier()
    with np.load(path) as file:
        return FrozenValues(file["rows"], file["starts"], file["values"])


@torch.no_grad()
def _score(
    job: TrainJob,
    models: Models,
    table: TrajectoryTable,
    rows: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    values: torch.Tensor,
    world: World,
) -> None:
    batch = table.read(rows.tolist())
    place = {id(t): int(start) for t, start in zip(batch, starts, strict=False)}
    packs = pack(batch, job.training.micro_batch_tokens, multiple_of=world.size)
    for turn in range(-(-len(packs) // world.size)):
        index = turn * world.size + world.rank
        mine: Any = packs[index if index < len(packs) else 0].to(world.device)
        scored = Scores(*models.policy(mine, "all")).value
        assert scored is not None
        if index < len(packs):
            for trajectory, part in zip(
                mine.trajectories, torch.split(scored, (mine.last - mine.first + 1).tolist()), strict=True
            ):
                start = place[id(trajectory)]
                values[start : start + len(part)] = part


def _parts(rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    return np.split(rows, range(_ROWS_AT_ONCE, len(rows), _ROWS_AT_ONCE))
