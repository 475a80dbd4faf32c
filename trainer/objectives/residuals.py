"""The residuals of the paper (arXiv 2505.15311): TBRM, its ablation with one residual a token, its iterative variant.

The logits of the model are its Q-function (Eq. 2), so one model gives Q_θ(s,a), V_θ(s) = log Σ_a exp Q_θ(s,a) and
lp = log π_θ(a|s) = Q_θ(s,a) - V_θ(s). Shapes: B trajectories, R policy tokens.
"""

from collections.abc import Mapping

from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.errors import TbrmError
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import column, given, objective, one_step_loss, trajectory_loss


@objective("tbrm")
def tbrm(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Eq. 4: Σ_i ( V_θ(s_1) + Σ_h (lp_h - ref_h) - r(τ_i)/β )², V_θ(s_1) = `scores.value_first` [B].

    This is the square of Σ_h ( Q_θ(s_h,a_h) - V_θ(s_{h+1}) - ref_h - r_h/β ), a sum in which every later V cancels.
    With `value_offset: reference`, V_θ(s_1) - V_ref(s_1) stands in place of V_θ(s_1).
    Metrics: residual, value_first (V_θ, without the offset), logratio.
    """
    value = given(scores.value_first, "V at the first response token")
    offset = _reference_values(batch) if options.value_offset == "reference" else value.new_zeros(len(value))
    loss, metrics = trajectory_loss(value - offset, scores, batch, options)
    return loss, {**metrics, "value_first": value.detach()}


@objective("brm")
def brm(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Eq. 3: Σ_i Σ_h ( Q_θ(s_h,a_h) - V_θ(s_{h+1}) - r_h/β - ref_h )², Q_θ = lp + V_θ, V_θ = `scores.value` [R]."""
    return one_step_loss(given(scores.value, "V at every response token"), scores, batch, options)


@objective("tbrm_iterative")
def tbrm_iterative(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Eq. 14: Σ_i ( V_{θ_t}(s_1) + Σ_h (lp_h - ref_h) - r(τ_i)/β )², V_{θ_t} = `scores.target_value` [R].

    θ_t is the policy at the start of the generation, so that every generation regresses to a fixed target.
    """
    value = given(scores.target_value, "V of the policy at the start of the generation").index_select(0, batch.first)
    return trajectory_loss(value, scores, batch, options)


def _reference_values(batch: PackedBatch) -> Tensor:
    """[B] V_ref(s_1)."""
    values: list[float] = []
    for trajectory in batch.trajectories:
        if trajectory.ref_value_first is None:
            raise TbrmError(
                f"trajectory {trajectory.trajectory_id} of {trajectory.source} has no ref_value_first, which "
                "training.value_offset: reference needs: run `tbrm ref-logprobs` for this data set, or set it to none"
            )
        values.append(trajectory.ref_value_first)
    return column(values, batch)
