"""A random deterministic MDP of layers: every response passes one of a few states at each step.

Prefixes share states, so the state-action distributions that Theorem 2 asks the data to cover differ from the
distribution of whole trajectories. Small enough to enumerate: every expectation below is exact.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from assets.studies.tabular import Response, trajectories
from pipeline.scoring.batch import PackedBatch
from pipeline.scoring.packing import lay_out


@dataclass(frozen=True, eq=False)
class Layered:
    """`horizon` layers of `states` states with `actions` tokens each; responses start in state 0."""

    states: int
    actions: int
    horizon: int
    after: np.ndarray
    """[horizon, states, actions] the next state."""
    reward: Tensor
    """[horizon * states, actions] r(s,a) in [0, 1/horizon]; the outcome is their sum."""
    ref: Tensor
    """[horizon * states, actions] logits of the reference policy."""
    responses: list[Response]
    """All of them, actions ** horizon."""
    index: Tensor
    """[responses, horizon] row of the table before each token."""
    tokens: Tensor
    """[responses, horizon]"""

    def rows(self, response: Response) -> list[int]:
        """Row of the table for each token of the response."""
        state, rows = 0, list[int]()
        for h, action in enumerate(response):
            rows.append(h * self.states + state)
            state = int(self.after[h, state, action])
        return rows

    def logprobs(self, table: Tensor, response: Response) -> Tensor:
        """[T] log-probs of the response's tokens."""
        return table.log_softmax(1)[self.rows(response), list(response)]

    def all_logprobs(self, table: Tensor) -> Tensor:
        """[responses] log π(τ) of every response."""
        return table.log_softmax(1)[self.index, self.tokens].sum(1)

    @property
    def outcome(self) -> Tensor:
        """[responses] r(τ), in [0, 1]: the chance that a verifier says 1."""
        return self.reward[self.index, self.tokens].sum(1)

    def occupancy(self, chance: Tensor) -> Tensor:
        """[horizon, states, actions] d_h(s,a) of a distribution [responses] over trajectories."""
        flat = torch.zeros(self.reward.numel(), dtype=torch.float64)
        at = self.index * self.actions + self.tokens
        flat.index_add_(0, at.flatten(), chance[:, None].expand_as(at).flatten())
        return flat.reshape(self.horizon, self.states, self.actions)

    def objective(self, table: Tensor, beta: float) -> float:
        """J_β(π) = E_π[r(τ)] - β KL(π ‖ π_ref)."""
        logp = self.all_logprobs(table)
        return float((logp.exp() * (self.outcome - beta * (logp - self.all_logprobs(self.ref)))).sum())

    def optimal(self, beta: float) -> Tensor:
        """Q*(s,a) = r/β + log π_ref(a|s) + V*(s'), V* = logsumexp Q*, by backward induction."""
        now = self.reward / beta + self.ref.log_softmax(1)
        table = now.clone()
        for h in reversed(range(self.horizon - 1)):
            layer = slice(h * self.states, (h + 1) * self.states)
            value = table[layer.stop : layer.stop + self.states].logsumexp(1)
            table[layer] = now[layer] + value[torch.from_numpy(self.after[h])]
        return table

    def batch(self) -> PackedBatch:
        """Every response once, with its expected outcome as reward and the reference's log-probs."""
        outcome = dict(zip(self.responses, self.outcome.tolist(), strict=True))
        return lay_out(trajectories(self, self.responses, outcome.__getitem__, self.ref))


def random_layered(seed: int, states: int = 4, actions: int = 3, horizon: int = 4) -> Layered:
    """Transitions, rewards and reference drawn from `seed`."""
    rng = np.random.default_rng(seed)
    after = rng.integers(states, size=(horizon, states, actions))
    tokens = np.array(list(itertools.product(range(actions), repeat=horizon)))
    index, state = np.zeros_like(tokens), np.zeros(len(tokens), int)
    for h in range(horizon):
        index[:, h] = h * states + state
        state = after[h, state, tokens[:, h]]
    return Layered(
        states=states,
        actions=actions,
        horizon=horizon,
        after=after,
        reward=torch.from_numpy(rng.random((horizon * states, actions)) / horizon),
        ref=torch.from_numpy(rng.normal(size=(horizon * states, actions)) / 2),
        responses=[tuple(t) for t in tokens.tolist()],
        index=torch.from_numpy(index),
        tokens=torch.from_numpy(tokens),
    )
