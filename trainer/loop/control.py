"""How far an update is from cloning rewarded responses: the cosine of its gradient with filtered imitation's."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import Trajectory
from pipeline.scoring.packing import pair_units
from trainer.engine.deepspeed import World
from trainer.engine.models import Models
from trainer.loop.scores import Batch, turns
from trainer.objectives import get

CONTROL = "filtered_imitation"


def measures_control(training: TrainingConfig, update: int) -> bool:
    """Whether the cosine is measured before update `update` (0, 1, …)."""
    alone = training.zero_stage < 3 and training.sequence_parallel == 1
    due = training.control_every > 0 and update % training.control_every == 0
    return due and alone and training.needs.reference


def control_cosine(training: TrainingConfig, models: Models, world: World, batch: Batch) -> float | None:
    """Cosine of the gradients that the objective and `filtered_imitation` have on a sample of the batch.

    The sample is `training.control_sample` trajectories, evenly spread over the batch. Rank 0, which has whole weights,
    computes it alone; it changes neither the gradients of the update nor the random state. None on the other ranks, and
    where one of the two gradients vanishes, for instance because no response of the sample was rewarded.
    """
    if not world.leader:
        return None
    objective, control = get(training.objective), get(CONTROL)
    parameters = [p for p in models.policy.module.parameters() if p.requires_grad]
    sample = batch.part(_sample(batch.trajectories, training.control_sample, objective.needs.pairs))
    ours, theirs = list[Tensor](), list[Tensor]()
    with torch.random.fork_rng([world.device] if world.device.type == "cuda" else []):
        for turn in turns(
            sample.trajectories, training.micro_batch_tokens, World(0, 1, world.device), objective.needs.pairs
        ):
            with torch.no_grad():
                values = None if models.critic is None else models.critic.module(turn.batch)
            scores = sample.complete(models.policy.module(turn.batch, "all"), values, turn)
            loss, _ = objective.loss(scores, turn.batch, training)
            _add(ours, torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True))
            loss, _ = control.loss(scores, turn.batch, training)
            _add(theirs, torch.autograd.grad(loss, parameters, materialize_grads=True))
    return _cosine(ours, theirs)


def _sample(trajectories: Sequence[Trajectory], size: int, pairs: bool) -> list[int]:
    """About `size` places of trajectories, evenly spread; responses that meet in a term stay together."""
    units = list(pair_units(trajectories)) if pairs else [(i,) for i in range(len(trajectories))]
    count = min(len(units), max(1, round(size * len(units) / len(trajectories))))
    return [i for k in range(count) for i in units[k * len(units) // count]]


def _add(total: list[Tensor], slopes: Sequence[Tensor]) -> None:
    total[:] = slopes if not total else [a + b for a, b in zip(total, slopes, strict=True)]


def _cosine(one: Sequence[Tensor], other: Sequence[Tensor]) -> float | None:
    dots = torch.zeros(3, dtype=torch.float64)
    for a, b in zip(one, other, strict=True):
        x, y = a.float().flatten(), b.float().flatten()
        dots += torch.stack([x @ y, x @ x, y @ y]).double().cpu()
    product, mine, theirs = dots.tolist()
    size = math.sqrt(mine) * math.sqrt(theirs)
    return product / size if math.isfinite(size) and size > 0 else None
