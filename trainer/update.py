"""One update: a batch of prompts' trajectories, packed, spread over the processes, one optimizer step."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import TbrmError
from trainer.engine import World, set_learning_rate, step, total
from trainer.job import TrainJob
from trainer.metrics import PER_TRAJECTORY, Clock, batch_metrics, peak_memory_gb
from trainer.models import Models
from trainer.objectives import get
from trainer.packing import PackedBatch, pack
from trainer.scoring import Scores
from trainer.types import Trajectory

_NAMED_TRAJECTORIES = 5


def update_once(
    job: TrainJob,
    models: Models,
    world: World,
    batch: Sequence[Trajectory],
    clock: Clock,
    update: int,
    total_updates: int,
) -> dict[str, Any]:
    """Do update `update` (0, 1, …) and return its row of metrics, equal on all ranks.

    The loss is the sum over the batch divided by its number of trajectories, however it is cut into packs and spread
    over processes. A rank with fewer packs repeats one with weight 0, so that all ranks take part in every collective.
    Raises TbrmError before the optimizer step when the loss is not finite or the residual explodes.
    """
    started, timed = time.perf_counter(), sum(clock.seconds.values())
    training = job.training
    objective = get(training.objective)
    learning_rate = training.learning_rate * min(1.0, (total_updates + 1) / max(1, training.warmup_updates))
    set_learning_rate(models.policy, learning_rate)
    packs = pack(batch, training.micro_batch_tokens)
    place = {id(t): i for i, t in enumerate(batch)}
    sums = torch.zeros(len(batch), len(PER_TRAJECTORY) + 1, dtype=torch.float64, device=world.device)
    rounds = -(-len(packs) // world.size)
    for turn in range(rounds):
        index = turn * world.size + world.rank
        mine = packs[index if index < len(packs) else 0].to(world.device)
        models.policy.set_gradient_accumulation_boundary(turn + 1 == rounds)
        with clock.time("update_policy"):
            scores = Scores(*models.policy(mine, objective.needs.value))
            loss, info = objective.fn(scores, mine, training)
            real = index < len(packs)
            models.policy.backward(loss * (world.size / len(batch) if real else 0.0), scale_wrt_gas=False)
        if real:
            rows = [place[id(t)] for t in mine.trajectories]
            sums[rows, :-1] = per_trajectory(scores, mine, info)
            sums[rows[0], -1] = loss.detach().double()
    total(world, sums)
    loss = float(sums[:, -1].sum()) / len(batch)
    values = sums[:, :-1].cpu().numpy()
    _guard(job, batch, update, loss, values)
    with clock.time("update_policy"):
        norm = step(models.policy)
    seconds = time.perf_counter() - started
    clock.seconds["other"] += seconds - (sum(clock.seconds.values()) - timed)
    row = {"update": update + 1, "loss": loss, "grad_norm": norm, "learning_rate": learning_rate}
    row |= batch_metrics(batch, values)
    return row | {"seconds": seconds, "tokens_per_second": row["tokens"] / seconds, "peak_memory_gb": peak_memory_gb()}


def per_trajectory(scores: Scores, batch: PackedBatch, info: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """[B, len(PER_TRAJECTORY)] in fp64: the quantities that every objective reports of each trajectory."""
    size = len(batch.trajectories)
    ratio = (scores.logprob.detach() - batch.ref).double()
    nothing = torch.full((size,), float("nan"), dtype=torch.float64, device=ratio.device)

    def summed(tokens: torch.Tensor) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.float64, device=tokens.device).index_add(0, batch.seq, tokens)

    residual = info["residual"].double() if "residual" in info else nothing
    value = scores.value_first.detach().double() if scores.value_first is not None else nothing
    return torch.stack([residual, value, summed(ratio), summed(torch.expm1(-ratio) + ratio)], dim=1)


def _guard(
    job: TrainJob, batch: Sequence[Trajectory], update: int, loss: float, values: npt.NDArray[np.float64]
) -> None:
    """Stop before the optimizer step that would spoil the weights; the newest checkpoint is from before it."""
    residual = np.abs(values[:, PER_TRAJECTORY.index("residual")])
    known = residual[np.isfinite(residual)]
    if math.isfinite(loss) and (len(known) == 0 or known.mean() <= job.training.max_residual):
        return
    worst = np.argsort(-np.nan_to_num(residual, nan=np.inf))[:_NAMED_TRAJECTORIES]
    names = ", ".join(f"{batch[i].trajectory_id} ({batch[i].source}, reward {batch[i].reward:g})" for i in worst)
    raise TbrmError(
        f"{job.label} diverged at update {update + 1}: loss {loss:.4g}, mean |residual| "
        f"{known.mean() if len(known) else float('nan'):.4g} (training.max_residual {job.training.max_residual:g}). "
        f"Worst trajectories: {names}. The weights were not changed and the last checkpoint is good; lower "
        "training.learning_rate, raise training.beta, or look at these rows' rewards"
    )
