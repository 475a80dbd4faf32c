"""The loop over packs, and the policy's scores of their trajectories: in an update, and before the first one.

Everything that runs the policy goes over its packs with `turns`: updates and their control, the off-policy diagnostics,
and the scores under θ_t, the policy at the start of the generation, for objectives that look back at it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.scoring.batch import PackedBatch, Scores, Trajectory, pack
from trainer.data.trajectories import TrajectoryTable
from trainer.diagnostics.numbers import DIAGNOSTICS_FILE, choose_rows, diagnose, to_json
from trainer.engine.deepspeed import World, total
from trainer.engine.models import Models
from trainer.job import START_SCORES_FILE, TrainJob

_ROWS_AT_ONCE = 1_024
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Turn:
    """This process's pack of one round. All processes take part in every round, since a round has collectives."""

    batch: PackedBatch
    """On the process's device."""
    rows: list[int]
    """Place of each of its trajectories among those given."""
    real: bool
    """False where this process had no pack left. It then repeats one, and the results do not count."""
    counted: bool
    """Whether this process adds the pack's results to a sum over all processes: for each pack exactly one does."""
    last: bool
    """Whether no round follows."""


def turns(trajectories: Sequence[Trajectory], token_budget: int, world: World, pairs: bool = False) -> Iterator[Turn]:
    """The packs of `trajectories`, as `pack` cuts them, one for each process in each round.

    Processes of one `world.share` get the same pack; whoever scores a turn passes `world.share` on.
    """
    packs = pack(trajectories, token_budget, pairs, multiple_of=world.groups)
    place = {id(t): i for i, t in enumerate(trajectories)}
    rounds = -(-len(packs) // world.groups)
    first = world.share is None or world.share.rank == 0
    for turn in range(rounds):
        index = turn * world.groups + world.group
        real = index < len(packs)
        batch = packs[index if real else 0]
        rows = [place[id(t)] for t in batch.trajectories]
        yield Turn(batch.to(world.device), rows, real, real and first, turn + 1 == rounds)


@dataclass(frozen=True, eq=False)
class TokenScores:
    """V(s_h) and log π(a_h|s_h) of one policy at the policy tokens of some trajectories, each [R_i]."""

    values: list[Floats]
    logprobs: list[Floats]

    def part(self, rows: Sequence[int]) -> "TokenScores":
        """The scores of some of these trajectories, in the order of `rows`."""
        return TokenScores([self.values[row] for row in rows], [self.logprobs[row] for row in rows])


@dataclass(frozen=True)
class Batch:
    """The trajectories of one update, and their scores under θ_t where the objective looks back at it."""

    trajectories: Sequence[Trajectory]
    start: TokenScores | None

    def part(self, rows: Sequence[int]) -> "Batch":
        """Some of its trajectories, in the order of `rows`."""
        start = None if self.start is None else self.start.part(rows)
        return Batch([self.trajectories[row] for row in rows], start)

    def complete(self, scored: Sequence[Any], critic: torch.Tensor | None, turn: Turn) -> Scores:
        """All scores of a turn: those of the policy's forward pass `scored`, the critic's values, and those of θ_t."""
        if self.start is None:
            return replace(Scores(*scored), critic_value=critic)
        start, device = self.start.part(turn.rows), turn.batch.reward.device
        values, logprobs = (
            torch.from_numpy(np.concatenate(column)).to(device) for column in (start.values, start.logprobs)
        )
        return replace(Scores(*scored), critic_value=critic, target_value=values, old_logprob=logprobs)


def token_scores(job: TrainJob, models: Models, trajectories: Sequence[Trajectory], world: World) -> TokenScores:
    """Scores of the trajectories under the weights as they are, the same on all ranks."""
    values, logprobs = _flat_scores(job, models, trajectories, world)
    cuts = _ends(trajectories)[:-1]
    return TokenScores(np.split(values, cuts), np.split(logprobs, cuts))


@torch.no_grad()
def _flat_scores(job: TrainJob, models: Models, trajectories: Sequence[Trajectory], world: World) -> Floats:
    """[2, R] V and log π at the R policy tokens of the trajectories, one trajectory after another."""
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


def _ends(trajectories: Sequence[Trajectory]) -> npt.NDArray[np.int64]:
    """Where the policy tokens of each trajectory end, when those of all stand one after another."""
    return np.cumsum([int(each.response_mask.sum()) for each in trajectories])


class StartScores:
    """The scores under θ_t of all rows that a job trains on: flat arrays, and where each row starts in them."""

    def __init__(self, rows: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], flat: Floats) -> None:
        """`flat` is [2, tokens]: values, log-probs."""
        self._place = {int(row): i for i, row in enumerate(rows)}
        self._starts, self._flat = starts, flat

    def read(self, rows: Sequence[int]) -> TokenScores:
        """The scores of `rows`, in that order."""
        ends = [(self._starts[i], self._starts[i + 1]) for i in (self._place[row] for row in rows)]
        return TokenScores([self._flat[0, a:b] for a, b in ends], [self._flat[1, a:b] for a, b in ends])


def start_scores(
    job: TrainJob, models: Models, table: TrajectoryTable, needed: Iterable[int], world: World
) -> StartScores:
    """Score the `needed` rows once under the job's starting weights; a resumed job reads the file instead.

    All ranks call this before any checkpoint is loaded. A file of another configuration is not used.
    """
    path = job.state / START_SCORES_FILE
    rows = np.array(sorted(set(needed)), dtype=np.int64)
    if not _holds(path, job.config_hash, rows):
        parts = np.split(rows, range(_ROWS_AT_ONCE, len(rows), _ROWS_AT_ONCE))
        lengths = np.concatenate([table.response_lengths(part) for part in parts])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        scores = np.concatenate([_flat_scores(job, models, table.read(part.tolist()), world) for part in parts], axis=1)
        if world.leader:
            temp = path.with_name(f"_tmp.{START_SCORES_FILE}")
            with temp.open("wb") as file:
                np.savez(file, config_hash=job.config_hash, rows=rows, starts=starts, scores=scores)
            temp.replace(path)
        torch.distributed.barrier()
    with np.load(path) as file:
        return StartScores(file["rows"], file["starts"], file["scores"])


def _holds(path: Path, config_hash: str, rows: npt.NDArray[np.int64]) -> bool:
    """Whether the file has the scores of these rows, of this configuration: its policy, mix and temperature."""
    if not path.exists():
        return False
    with np.load(path) as file:
        return "config_hash" in file and str(file["config_hash"]) == config_hash and np.array_equal(file["rows"], rows)


def write_diagnostics(job: TrainJob, models: Models, table: TrajectoryTable, world: World) -> None:
    """Write diagnostics.json into the job's folder; a resumed job finds it there.

    All ranks call this before any checkpoint is loaded. It costs one forward pass over `training.diagnostics_sample`
    trajectories of each source and lag.
    """
    path, limit = job.state / DIAGNOSTICS_FILE, job.training.diagnostics_sample
    if path.exists() and json.loads(path.read_text(encoding="utf-8"))["config_hash"] == job.config_hash:
        return
    sources = table.sources()
    found = []
    for key, rows in choose_rows(sources, limit, job.seed).items():
        trajectories = table.read(rows.tolist())
        scores = token_scores(job, models, trajectories, world)
        logprobs = np.array([sum(tokens.tolist()) for tokens in scores.logprobs], dtype=np.float64)
        values = np.array([tokens[0] for tokens in scores.values], dtype=np.float64)
        offset = job.training.value_offset == "reference"
        found.append(diagnose(key, len(sources[key]), trajectories, logprobs, values, job.training.beta, offset))
    if world.leader:
        temp = path.with_name(f"_tmp.{DIAGNOSTICS_FILE}")
        temp.write_text(to_json(found, job.config_hash, limit), encoding="utf-8")
        temp.replace(path)
    torch.distributed.barrier()
