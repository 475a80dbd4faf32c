"""What the method rests on, on random MDPs: identities, by the product's losses, and Lemma 1's change of measure."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from assets.studies.tabular import Cells, cells, random_layered, scores_at
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


@dataclass(frozen=True)
class Ratios:
    """Worst growth from the data to the target policy, of three things, exactly."""

    supremum: float
    """Over all f of states, tokens and steps: E_target[(Σ_h f)²] / E_data[(Σ_h f)²]."""
    state_action: float
    """Largest ratio of the two policies' state-action distributions, over the steps."""
    trajectory: float
    """Largest ratio of the two policies' trajectory distributions."""
    horizon: int

    @property
    def share_of_bound(self) -> float:
        """Supremum over (horizon + 1) * state_action; Lemma 1 says at most 1 (our reading of its constant)."""
        return self.supremum / ((self.horizon + 1) * self.state_action)


def random_ratios(seed: int, states: int = 3, actions: int = 2, horizon: int = 4) -> Ratios:
    """A random MDP with random transitions, and two random policies; the supremum is a generalized eigenvalue."""
    rng = np.random.default_rng(seed)
    start = rng.dirichlet(np.ones(states))
    step = rng.dirichlet(np.ones(states), (states, actions))
    target, data = (rng.dirichlet(np.ones(actions), (horizon, states)) for _ in range(2))
    # Every trajectory, as [paths, horizon] of states and tokens.
    paths = np.array(list(itertools.product(range(states * actions), repeat=horizon)))
    state, action = np.divmod(paths, actions)
    dynamics = start[state[:, 0]] * step[state[:, :-1], action[:, :-1], state[:, 1:]].prod(1)
    steps = np.arange(horizon)
    chance = {"target": target, "data": data}
    chance = {name: dynamics * policy[steps, state, action].prod(1) for name, policy in chance.items()}
    features = np.zeros((len(paths), horizon * states * actions))
    np.put_along_axis(features, steps * states * actions + paths, 1, 1)
    moments = {name: features.T @ (p[:, None] * features) for name, p in chance.items()}
    spectrum, axes = np.linalg.eigh(moments["data"])
    kept = axes[:, spectrum > 1e-12] / np.sqrt(spectrum[spectrum > 1e-12])
    return Ratios(
        supremum=float(np.linalg.eigvalsh(kept.T @ moments["target"] @ kept).max()),
        state_action=float((np.diag(moments["target"]) / np.diag(moments["data"])).max()),
        trajectory=float((chance["target"] / chance["data"]).max()),
        horizon=horizon,
    )
