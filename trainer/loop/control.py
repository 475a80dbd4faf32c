"""How far an update is from cloning rewarded responses: the cosine of its gradient with filtered imitation's."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.config.training import OBJECTIVE_NEEDS, TrainingConfig
from pipeline.scoring.batch import Trajectory
from pipeline.scoring.packing import pack, pair_units
from trainer.engine.deepspeed import World
from trainer.engine.models import Models
from trainer.loop.update import Batch, completed
from trainer.objectives import get
from trainer.objectives.filtered_imitation import filtered_imitation


def measures_control(training: TrainingConfig, update: int) -> bool:
    """Whether the cosine is measured before update `update` (0, 1, …)."""
    alone = training.zero_stage < 3 and training.sequence_parallel == 1
    due = training.control_every > 0 and update % training.control_every == 0
    return due and alone and OBJECTIVE_NEEDS[training.objective].reference


def control_cosine(training: TrainingConfig, models: Models, world: World, batch: Batch) -> float | None:
    """Cosine of the gradients that the objective and `filtered_imitation` have on a sample of the batch.

    The sample is `training.control_sample` trajectories, evenly spread over the batch. Rank 0 computes it alone, from
    weights that it has whole. Neither the gradients of the update nor the random state are touched. None on the other
    ranks, and where one of the two gradients vanishes: no response of the sample was rewarded, say.
    """
    if not world.leader:
        return None
    objective = get(training.objective)
    parameters = [p for p in models.policy.module.parameters() if p.requires_grad]
    sample = _sample(batch.trajectories, training.control_sample, objective.needs.pairs)
    place = {id(t): i for i, t in enumerate(batch.trajectories)}
    own, control = list[Tensor](), list[Tensor]()
    with torch.random.fork_rng([world.device] if world.device.type == "cuda" else []):
        for packed in pack(sample, training.micro_batch_tokens, objective.needs.pairs):
            mine = packed.to(world.device)
            rows = [place[id(t)] for t in mine.trajectories]
            with torch.no_grad():
                values = None if models.critic is None else models.critic.module(mine)
            scores = completed(models.policy.module(mine, "all"), values, batch.start, rows, world)
            loss, _ = objective.loss(scores, mine, training)
            _add(own, torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True))
            loss, _ = filtered_imitation(scores, mine, training)
            _add(control, torch.autograd.grad(loss, parameters, materialize_grads=True))
    return _cosine(own, control)


def _sample(trajectories: Sequence[Trajectory], size: int, pairs: bool) -> list[Trajectory]:
    """About `size` of them, evenly spread; responses that meet in a term stay together."""
    units = list(pair_units(trajectories)) if pairs else [(i,) for i in range(len(trajectories))]
    count = min(len(units), max(1, round(size * len(units) / len(trajectories))))
    chosen = [units[k * len(units) // count] for k in range(count)]
    return [trajectories[i] for unit in chosen for i in unit]


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
