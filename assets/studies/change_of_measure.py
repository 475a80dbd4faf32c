"""Lemma 1: how far the square of a sum along a trajectory can grow when the policy that samples changes."""

import itertools
from dataclasses import dataclass

import numpy as np


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
