"""What several objectives share. Sums are fp64: a residual is a small difference of sums over long responses."""

import torch
from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.errors import TbrmError
from pipeline.scoring.batch import PackedBatch, Scores


def given(values: Tensor | None, what: str) -> Tensor:
    """`values`, in fp64. Raises TbrmError when the data or the job did not supply them."""
    if values is None:
        raise TbrmError(
            f"this objective needs {what}, which the batch does not have; choose another training.objective"
        )
    return values.double()


def log_ratio(scores: Scores, batch: PackedBatch) -> Tensor:
    """[R] lp_h - ref_h."""
    return scores.logprob.double() - batch.ref_logprobs.double()


def next_value(values: Tensor, batch: PackedBatch) -> Tensor:
    """[R] V(s_{h+1}) from `values` [R] of V(s_h); 0 after a response's last policy token."""
    follows = torch.ones_like(values).index_fill(0, batch.last, 0.0)
    return torch.roll(values, -1) * follows


def suffix_sum(tokens: Tensor, batch: PackedBatch) -> Tensor:
    """[R] Σ_{h'≥h} tokens_{h'} within each trajectory."""
    upto = tokens.cumsum(0)
    return upto.index_select(0, batch.last).index_select(0, batch.seq) - upto + tokens


def one_step_residual(values: Tensor, scores: Scores, batch: PackedBatch, beta: float) -> Tensor:
    """[R] V(s_h) + lp_h - ref_h - r_h/β - V(s_{h+1}): the soft Bellman equation of a single transition."""
    return values + log_ratio(scores, batch) - batch.token_reward / beta - next_value(values, batch)


def multi_step_residual(values: Tensor, scores: Scores, batch: PackedBatch, beta: float) -> Tensor:
    """[R] V(s_h) + Σ_{h'≥h} (lp_{h'} - ref_{h'} - r_{h'}/β): the soft Bellman equation from s_h to the end."""
    return values + suffix_sum(log_ratio(scores, batch) - batch.token_reward / beta, batch)


def trajectory_loss(residual: Tensor, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, Tensor]:
    """(Σ_i residual_i², the residuals [B] as they enter it), with the options that bend Eq. 4.

    `length_normalized` divides a residual by the number of its policy tokens; beyond ±`residual_clip` the square goes
    on as its tangent.
    """
    if options.length_normalized:
        residual = residual / torch.tensor(batch.lengths, dtype=residual.dtype, device=residual.device)
    if options.residual_clip is None:
        return residual.square().sum(), residual
    # huber_loss is half of what we want: x²/2 inside, c|x| - c²/2 beyond.
    zero = torch.zeros_like(residual)
    huber = torch.nn.functional.huber_loss(residual, zero, reduction="sum", delta=options.residual_clip)
    return 2 * huber, residual
