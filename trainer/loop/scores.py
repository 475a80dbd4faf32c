"""Scores of the policy at the start of the stage, for the objectives that look back at it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config.training import OBJECTIVE_NEEDS, TrainingConfig
from pipeline.scoring.batch import Scores, Trajectory
from trainer.data.trajectories import TrajectoryTable
from trainer.engine.deepspeed import World, total
from trainer.engine.models import Models
from trainer.job import TrainJob
from trainer.loop.each_pack import turns

START_SCORES_FILE = "start_scores.npz"
_ROWS_AT_ONCE = 1_024
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TokenScores:
    """V_{θ_t}(s_h) and log π_{θ_t}(a_h|s_h) at the R_i policy tokens of each of some trajectories."""

    values: list[Floats]
    logprobs: list[Floats]


def looks_back(training: TrainingConfig) -> bool:
    """Whether the objective needs the scores of the policy at the start of the stage."""
    needs = OBJECTIVE_NEEDS[training.objective]
    return needs.frozen_target or (needs.behavior_logprobs and training.old_logprobs == "recomputed")


class StartScores:
    """The same of all rows that a job trains on: flat arrays, and each row's start in them."""

    def __init__(self, rows: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], flat: Floats) -> None:
        """`flat` is [2, tokens]: values, log-probs."""
        self._place = {int(row): i for i, row in enumerate(rows)}
        self._starts, self._flat = starts, flat

    def read(self, rows: Sequence[int]) -> TokenScores:
        """Of `rows`, in that order."""
        ends = [(self._starts[i], self._starts[i + 1]) for i in (self._place[row] for row in rows)]
        return TokenScores([self._flat[0, a:b] for a, b in ends], [self._flat[1, a:b] for a, b in ends])


def start_scores(
    job: TrainJob, models: Models, table: TrajectoryTable, needed: Iterable[int], world: World
) -> StartScores:
    """Score the `needed` rows once under the job's starting weights; a resumed job reads the file instead.

    All ranks call this before any checkpoint is loaded. A file that another configuration left there is not used.
    """
    path = job.state / START_SCORES_FILE
    rows = np.array(sorted(set(needed)), dtype=np.int64)
    if not _holds(path, job.config_hash, rows):
        lengths = np.concatenate([table.response_lengths(part) for part in _parts(rows)])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        scores = np.concatenate(
            [_flat_scores(job, models, table.read(part.tolist()), world) for part in _parts(rows)], axis=1
        )
        if world.leader:
            temp = path.with_name(f"_tmp.{START_SCORES_FILE}")
            with temp.open("wb") as file:
                np.savez(file, config_hash=job.config_hash, rows=rows, starts=starts, scores=scores)
            temp.replace(path)
        torch.distributed.barrier()
    with np.load(path) as file:
        return StartScores(file["rows"], file["starts"], file["scores"])


def token_scores(job: TrainJob, models: Models, trajectories: Sequence[Trajectory], world: World) -> TokenScores:
    """Scores of the trajectories under the weights as they are."""
    values, logprobs = _flat_scores(job, models, trajectories, world)
    cuts = _ends(trajectories)[:-1]
    return TokenScores(np.split(values, cuts), np.split(logprobs, cuts))


def _ends(trajectories: Sequence[Trajectory]) -> npt.NDArray[np.int64]:
    """Where the policy tokens of each trajectory end, when those of all stand one after another."""
    return np.cumsum([int(each.response_mask.sum()) for each in trajectories])


def _holds(path: Path, config_hash: str, rows: npt.NDArray[np.int64]) -> bool:
    """Whether the file has the scores of these rows, of this configuration: its policy, mix and temperature."""
    if not path.exists():
        return False
    with np.load(path) as file:
        return "config_hash" in file and str(file["config_hash"]) == config_hash and np.array_equal(file["rows"], rows)


@torch.no_grad()
def _flat_scores(job: TrainJob, models: Models, trajectories: Sequence[Trajectory], world: World) -> Floats:
    """[2, R] V and log π at the R policy tokens of the trajectories, in order, under the weights as they are."""
    ends = _ends(trajectories)
    flat = torch.zeros(2, int(ends[-1]), dtype=torch.float32, device=world.device)
    for turn in turns(trajectories, job.training.micro_batch_tokens, world):
        scores = Scores(*models.policy(turn.batch, "all", world.share))
        assert scores.value is not None
        if not turn.counted:
            continue
        found = torch.stack([scores.value, scores.logprob]).float()
        lengths = turn.batch.lengths
        for row, length, part in zip(turn.rows, lengths, found.split(lengths, dim=1), strict=True):
            flat[:, ends[row] - length : ends[row]] = part
    return total(world, flat).cpu().numpy()


def _parts(rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    return np.split(rows, range(_ROWS_AT_ONCE, len(rows), _ROWS_AT_ONCE))
