"""Identities that the method rests on, checked to rounding on random MDPs with the product's own losses."""

from collections.abc import Sequence

import torch
from torch import Tensor

from assets.studies.layered import random_layered
from assets.studies.tabular import Cells, cells, scores_at
from pipeline.config.training import ObjectiveName, TrainingConfig
from pipeline.scoring.batch import PackedBatch
from trainer.objectives import get

_BOTH: tuple[ObjectiveName, ...] = ("brm", "tbrm")


def largest_errors(seeds: Sequence[int], betas: Sequence[float]) -> dict[str, float]:
    """Largest error of each identity over all seeds and β, in units of the reward (residuals are multiplied by β).

    `telescoping`: the Bellman residuals of the steps sum to Eq. 4's trajectory residual, at random logits.
    `zero_at_optimum`: Eq. 4's residual of every response at Q*.
    `gap_is_kl`: J_β(π*) - J_β(π) = β KL(π ‖ π*), at random logits.
    """
    worst = dict[str, float]()
    for seed in seeds:
        mdp = random_layered(seed)
        batch, generator = mdp.batch(), torch.Generator().manual_seed(seed)
        at = cells(mdp, batch)
        table = torch.randn(mdp.ref.shape, dtype=torch.float64, generator=generator)
        for beta in betas:
            star = mdp.optimal(beta)
            by_token, whole = (_residual(name, at, table, batch, beta) for name in _BOTH)
            zero = _residual("tbrm", at, star, batch, beta)
            logp, best = mdp.all_logprobs(table), mdp.all_logprobs(star)
            gap = mdp.objective(star, beta) - mdp.objective(table, beta)
            errors = {
                "telescoping": beta * float((by_token - whole).abs().max()),
                "zero_at_optimum": beta * float(zero.abs().max()),
                "gap_is_kl": abs(gap - beta * float((logp.exp() * (logp - best)).sum())),
            }
            worst = {name: max(worst.get(name, 0.0), error) for name, error in errors.items()}
    return worst


def _residual(name: ObjectiveName, at: Cells, table: Tensor, batch: PackedBatch, beta: float) -> Tensor:
    return get(name).loss(scores_at(at, table, batch), batch, TrainingConfig(beta=beta))[1]["residual"]
