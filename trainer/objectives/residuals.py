"""TBRM, Eq. 4: one squared residual for each trajectory, one model, any behaviour policy."""

import torch
from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.errors import TbrmError
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import given, log_ratio, trajectory_loss


def tbrm(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ_i ( V_θ(s_1) + Σ_h (lp_h - ref_h) - r(τ_i)/β )².

    V_θ(s_1) is the logsumexp of the model's own logits, so this is Σ_h of the Bellman residuals
    Q_θ(s_h,a_h) - V_θ(s_{h+1}) - ref_h - r_h/β, in which every later V cancels. With `value_offset: reference`,
    V_θ(s_1) - V_ref(s_1) stands in place of V_θ(s_1). Metrics: residual, value_first, logratio.
    """
    value = given(scores.value_first, "V at the first response token")
    ratio = batch.per_trajectory(log_ratio(scores, batch))
    offset = _reference_values(batch) if options.value_offset == "reference" else torch.zeros_like(value)
    loss, residual = trajectory_loss(value - offset + ratio - batch.reward / options.beta, batch, options)
    return loss, {"residual": residual.detach(), "value_first": value.detach(), "logratio": ratio.detach()}


def _reference_values(batch: PackedBatch) -> Tensor:
    values: list[float] = []
    for trajectory in batch.trajectories:
        if trajectory.ref_value_first is None:
            raise TbrmError(
                f"trajectory {trajectory.trajectory_id} of {trajectory.source} has no ref_value_first, which "
                "training.value_offset: reference needs: run `tbrm ref-logprobs` for this data set, or set it to none"
            )
        values.append(trajectory.ref_value_first)
    return torch.tensor(values, dtype=torch.float64, device=batch.reward.device)
