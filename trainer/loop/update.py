"""One update: a batch of prompts' trajectories, packed, spread over the processes, one optimizer step.

On a sample of updates it is measured how far the update is from cloning rewarded responses: the cosine of its gradient
with that of filtered imitation.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.errors import TbrmError
from pipeline.scoring.batch import PackedBatch, Scores, Trajectory, pair_units
from trainer.engine.deepspeed import World, set_learning_rate, step, total
from trainer.engine.models import Models
from trainer.job import TrainJob
from trainer.loop.metrics import Clock, batch_metrics, peak_flops, peak_memory_gb, update_flops
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


_NAMED_TRAJECTORIES = 5


def update_once(
    job: TrainJob, models: Models, world: World, batch: Batch, clock: Clock, update: int, total_updates: int
) -> dict[str, Any]:
    """Do update `update` (0, 1, …) and return its row of metrics, equal on all ranks.

    The loss is the sum over the batch divided by its number of terms (trajectories, pairs or tokens), however it is
    cut into packs and spread over processes. A rank with fewer packs repeats one with weight 0, so that all ranks
    take part in every collective. `total_updates` is how many updates the optimizer has done, for the warm-up.
    Raises TbrmError, with the weights unchanged, when the loss or the norm of the gradient is not finite, or when the
    residual explodes.
    """
    started, timed = time.perf_counter(), sum(clock.seconds.values())
    training, trajectories = job.training, batch.trajectories
    share = _schedule(job, update, total_updates)
    learning_rate = training.learning_rate * share
    set_learning_rate(models.policy, learning_rate)
    loss, columns = _gradients(training, models, world, batch, clock)
    _guard(job, trajectories, update, loss, columns)
    with clock.time("update_policy"):
        norm = step(models.policy)
    norms = {"gradient": norm}
    if models.critic is not None:
        with clock.time("ppo_update_value"):
            set_learning_rate(models.critic, training.critic_learning_rate * share)
            norms["critic's gradient"] = step(models.critic)
    for what, size in norms.items():
        if not math.isfinite(size):
            raise _diverged(job, trajectories, update, f"the {what} has no finite norm (loss {loss:.4g})", columns)
    seconds = time.perf_counter() - started
    clock.seconds["other"] += seconds - (sum(clock.seconds.values()) - timed)
    row: dict[str, Any] = {
        "update": update + 1,
        "loss": loss,
        "grad_norm": norm,
        "learning_rate": learning_rate,
        **batch_metrics(trajectories, columns),
    }
    rate = update_flops(models.policy.module.model, trajectories, training) / seconds
    row |= {"seconds": seconds, "tokens_per_second": row["tokens"] / seconds, "model_tflops_per_second": rate / 1e12}
    peak = peak_flops()
    return row | ({"mfu": rate / peak / world.size} if peak else {}) | {"peak_memory_gb": peak_memory_gb()}


def _gradients(
    training: TrainingConfig, models: Models, world: World, batch: Batch, clock: Clock
) -> tuple[float, dict[str, npt.NDArray[np.float64]]]:
    """Sum the gradients of the mean loss in the engines, pack by pack; returns the loss, and metrics by name, [batch].

    The critic's values enter the loss as a leaf, so that the backward passes of policy and critic are two.
    """
    objective, trajectories = get(training.objective), batch.trajectories
    terms = objective.terms(trajectories)
    names: list[str] = []
    sums: torch.Tensor | None = None
    for turn in turns(trajectories, training.micro_batch_tokens, world, objective.needs.pairs):
        # DeepSpeed takes the mean over all processes. Those that share a pack each bring a part of its gradient.
        weight = world.size / terms if turn.real else 0.0
        _mark_boundary(models, turn.last)
        values = _critic_values(models, turn.batch, clock)
        leaf = None if values is None else values.detach().requires_grad_()
        with clock.time("update_policy"):
            scored = models.policy(turn.batch, objective.needs.value, world.share)
            scores = batch.complete(scored, leaf, turn)
            loss, info = objective.loss(scores, turn.batch, training)
            models.policy.backward(loss * weight, scale_wrt_gas=False)
        if models.critic is not None and values is not None and leaf is not None:
            with clock.time("ppo_update_value"):
                slope = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
                models.critic.backward((values * slope).sum(), scale_wrt_gas=False)
        columns = _per_trajectory(scores, turn.batch, info) if objective.needs.reference else dict(info)
        if sums is None:
            names = sorted(columns)
            sums = torch.zeros(len(trajectories), len(names) + 1, dtype=torch.float64, device=world.device)
        if turn.counted:
            for k, name in enumerate(names):
                sums[turn.rows, k] = columns[name].double()
            sums[turn.rows[0], -1] = loss.detach().double()
    assert sums is not None
    total(world, sums)
    return float(sums[:, -1].sum()) / terms, dict(zip(names, sums.T.cpu().numpy(), strict=False))


def _schedule(job: TrainJob, update: int, total_updates: int) -> float:
    """Share of the peak learning rate: a linear warm-up, then constant or falling linearly to 0 at the job's end."""
    warm = min(1.0, (total_updates + 1) / max(1, job.training.warmup_updates))
    falling = 1 - update / job.updates if job.training.learning_rate_decay == "linear" else 1.0
    return min(warm, falling)


def _mark_boundary(models: Models, last: bool) -> None:
    """Gradients are reduced over the processes, and the optimizer may step, after the last pack only."""
    for engine in (models.policy, models.critic):
        if engine is not None:
            engine.set_gradient_accumulation_boundary(last)


def _critic_values(models: Models, batch: PackedBatch, clock: Clock) -> torch.Tensor | None:
    if models.critic is None:
        return None
    with clock.time("ppo_value"):
        return models.critic(batch)


def _per_trajectory(scores: Scores, batch: PackedBatch, info: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """[B] quantities by name: the objective's own, and what is reported of every objective.

    `logratio` is Σ(lp - ref) of a response, in nats. On trajectories of another policy than θ its mean is no estimate
    of θ's KL to the reference: that is `behaviour_kl`, which `ref_logprobs` measures on a policy's own samples.
    """
    ratio = (scores.logprob.detach() - batch.ref_logprobs).double()
    common = {"logratio": batch.per_trajectory(ratio)}
    if scores.value_first is not None:
        common["value_first"] = scores.value_first.detach()
    return {**common, **info}


def _guard(
    job: TrainJob,
    batch: Sequence[Trajectory],
    update: int,
    loss: float,
    values: Mapping[str, npt.NDArray[np.float64]],
) -> None:
    """Raise TbrmError before an optimizer step that would spoil the weights."""
    limit = job.training.max_residual
    residuals = np.abs(values.get("residual", np.zeros(1)))
    residuals = residuals[~np.isnan(residuals)]  # `daa_pair` has one for each pair, not trajectory
    residual = float(residuals.mean()) if len(residuals) else 0.0
    if not math.isfinite(loss) or not residual <= limit:
        what = f"loss {loss:.4g}, mean |residual| {residual:.4g} (training.max_residual {limit:g})"
        raise _diverged(job, batch, update, what, values)


def _diverged(
    job: TrainJob,
    batch: Sequence[Trajectory],
    update: int,
    what: str,
    values: Mapping[str, npt.NDArray[np.float64]],
) -> TbrmError:
    size = np.abs(values.get("residual", values.get("logratio", np.zeros(len(batch)))))
    worst = np.argsort(-np.nan_to_num(size, nan=np.inf))[:_NAMED_TRAJECTORIES]
    names = ", ".join(f"{batch[i].trajectory_id} ({batch[i].source}, reward {batch[i].reward:g})" for i in worst)
    return TbrmError(
        f"{job.label} diverged at update {update + 1}: {what}. Worst trajectories: {names}. The weights were not "
        "changed and the last checkpoint is good; lower training.learning_rate, raise training.beta, or look at these "
        "rows' rewards"
    )
