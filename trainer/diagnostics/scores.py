"""Scores of a sample of the mix under the policy before the first update, for the off-policy diagnostics."""

import json
from collections.abc import Sequence

import numpy as np
import torch

from pipeline.scoring.batch import Scores, Trajectory
from trainer.data.trajectories import TrajectoryTable
from trainer.diagnostics.numbers import DIAGNOSTICS_FILE, Floats, choose_rows, diagnose, to_json
from trainer.engine.deepspeed import World, total
from trainer.engine.models import Models
from trainer.job import TrainJob
from trainer.loop.each_pack import turns


def write_diagnostics(job: TrainJob, models: Models, table: TrajectoryTable, world: World) -> None:
    """diagnostics.json in the job's folder; a resumed job finds it there.

    All ranks call this before any checkpoint is loaded, and take turns at the packs. Costs one forward pass over
    `training.diagnostics_sample` trajectories of each source and lag.
    """
    path, limit = job.state / DIAGNOSTICS_FILE, job.training.diagnostics_sample
    if path.exists() and json.loads(path.read_text(encoding="utf-8"))["config_hash"] == job.config_hash:
        return
    sources = table.sources()
    found = []
    for key, rows in choose_rows(sources, limit, job.seed).items():
        trajectories = table.read(rows.tolist())
        logprobs, values = _score(job, models, trajectories, world)
        offset = job.training.value_offset == "reference"
        count = len(sources[key])
        found.append(diagnose(key, count, trajectories, logprobs, values, job.training.beta, offset))
    if world.leader:
        temp = path.with_name(f"_tmp.{DIAGNOSTICS_FILE}")
        temp.write_text(to_json(found, job.config_hash, limit), encoding="utf-8")
        temp.replace(path)
    torch.distributed.barrier()


@torch.no_grad()
def _score(job: TrainJob, models: Models, trajectories: Sequence[Trajectory], world: World) -> tuple[Floats, Floats]:
    """Σ_h log π_θ(a_h|s_h) and V_θ(s_1) of each trajectory, the same on all ranks."""
    sums = torch.zeros(2, len(trajectories), dtype=torch.float64, device=world.device)
    for turn in turns(trajectories, job.training.micro_batch_tokens, world):
        scores = Scores(*models.policy(turn.batch, "first", world.share))
        assert scores.value_first is not None
        if turn.counted:
            sums[0, turn.rows] = turn.batch.per_trajectory(scores.logprob)
            sums[1, turn.rows] = scores.value_first.double()
    both: Floats = total(world, sums).cpu().numpy().astype(np.float64)
    return both[0], both[1]
