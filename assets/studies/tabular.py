"""A policy as a table of logits, in float64, scored for the product's own objectives; and two environments for it.

A row of the table is a state, a column is a token. `Tree` has one row for each prefix, as a language model does. In a
`Layered` MDP every response passes one of a few states at each step, so that prefixes share rows: there the
state-action distributions, which Theorem 2 asks the data to cover, differ from the distribution of whole trajectories.
Both are small enough to enumerate, so that every expectation is exact.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.scoring.batch import GroupStats, PackedBatch, Scores, Trajectory, lay_out

Response = tuple[int, ...]
PROMPT = (7, 8)


class Environment(Protocol):
    """Knows the row of the table for each token of a response."""

    def rows(self, response: Response) -> list[int]:
        """[T] rows, first token first."""
        ...

    def logprobs(self, table: Tensor, response: Response) -> Tensor:
        """[T] log-probs of the response's tokens under a table."""
        ...


@dataclass(frozen=True)
class Tree:
    """Responses of at most `horizon` tokens; with `stop`, token 0 ends one earlier."""

    actions: int
    horizon: int
    stop: bool = True

    def ends(self, response: Response) -> bool:
        """Whether this response is complete."""
        return len(response) == self.horizon or (self.stop and response[-1:] == (0,))

    @property
    def prefixes(self) -> list[Response]:
        """States, in a fixed order: the rows of a table."""
        every = (p for h in range(self.horizon) for p in itertools.product(range(self.actions), repeat=h))
        return [p for p in every if not (self.stop and 0 in p)]

    @property
    def responses(self) -> list[Response]:
        """All complete responses: the support of every policy."""
        return [(*p, a) for p in self.prefixes for a in range(self.actions) if self.ends((*p, a))]

    def random_table(self, seed: int) -> Tensor:
        """[states, actions] standard normal logits."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(len(self.prefixes), self.actions, dtype=torch.float64, generator=generator)

    def rows(self, response: Response) -> list[int]:
        """Row of the table for each token of the response."""
        place = {p: i for i, p in enumerate(self.prefixes)}
        return [place[response[:h]] for h in range(len(response))]

    def logprobs(self, table: Tensor, response: Response) -> Tensor:
        """[T] log-probs of the response's tokens."""
        return table.log_softmax(1)[self.rows(response), list(response)]

    def sample(self, table: Tensor, count: int, seed: int) -> list[Response]:
        """`count` responses of the policy with these logits."""
        weights = torch.stack([self.logprobs(table, r).sum() for r in self.responses]).exp()
        drawn = torch.multinomial(weights, count, replacement=True, generator=torch.Generator().manual_seed(seed))
        return [self.responses[i] for i in drawn.tolist()]


def optimal_table(tree: Tree, ref: Tensor, reward: Callable[[Response], float], beta: float) -> Tensor:
    """Q*(s,a) = r/β + log π_ref(a|s) + V*(s'), V* = logsumexp Q*, by backward induction."""
    table, ref_logprobs = torch.zeros_like(ref), ref.log_softmax(1)
    for i, prefix in reversed(list(enumerate(tree.prefixes))):
        for a in range(tree.actions):
            after = (*prefix, a)
            future = reward(after) / beta if tree.ends(after) else table[tree.prefixes.index(after)].logsumexp(0)
            table[i, a] = ref_logprobs[i, a] + future
    return table


def trajectories(
    environment: Environment,
    responses: Sequence[Response],
    reward: Callable[[Response], float],
    ref: Tensor,
    behavior: Tensor | None = None,
    beta: float = 1.0,
    prompts: int = 1,
) -> list[Trajectory]:
    """Responses shared out over `prompts` identical prompts, with the statistics of each prompt's group."""
    rows = [
        Trajectory(
            trajectory_id=f"t{i}",
            prompt_id=f"p{i % prompts}",
            prompt_ids=np.array(PROMPT, np.int32),
            response_ids=np.array(r, np.int32),
            response_mask=np.ones(len(r), bool),
            reward=reward(r),
            ref_logprobs=environment.logprobs(ref, r).numpy(),
            behavior_logprobs=None if behavior is None else environment.logprobs(behavior, r).numpy(),
            ref_value_first=float(ref[0].logsumexp(0)),
        )
        for i, r in enumerate(responses)
    ]
    stats = {p: _group([t.reward for t in rows if t.prompt_id == p], beta) for p in {t.prompt_id for t in rows}}
    return [replace(t, group=stats[t.prompt_id]) for t in rows]


@dataclass(frozen=True, eq=False)
class Cells:
    """Row and column of the table for each policy token of a pack."""

    rows: Tensor
    """[R]"""
    actions: Tensor
    """[R]"""


def cells(environment: Environment, batch: PackedBatch) -> Cells:
    """Where the tokens of `batch` stand in a table of `environment`."""
    rows, actions = list[int](), list[int]()
    for t in batch.trajectories:
        response = tuple(t.response_ids.tolist())
        rows += [row for row, kept in zip(environment.rows(response), t.response_mask, strict=True) if kept]
        actions += [a for a, kept in zip(response, t.response_mask, strict=True) if kept]
    return Cells(torch.tensor(rows), torch.tensor(actions))


def scores_at(at: Cells, table: Tensor, batch: PackedBatch) -> Scores:
    """What `pipeline.scoring.scoring.score` returns for a model, for a table."""
    logits = table[at.rows]
    value = logits.logsumexp(1)
    logprob = logits.gather(1, at.actions[:, None]).squeeze(1) - value
    p = logits.softmax(1)
    return Scores(logprob, value[batch.first], value, entropy=value - (p * logits).sum(1))


def tabular_scores(environment: Environment, table: Tensor, batch: PackedBatch) -> Scores:
    """`scores_at` for a pack that is scored once."""
    return scores_at(cells(environment, batch), table, batch)


def weighted(scores: Scores, batch: PackedBatch, weights: Tensor) -> tuple[Scores, PackedBatch]:
    """Scores and batch whose loss counts trajectory i `weights[i]` times ([B], at least 0, need not be whole).

    For the objectives whose loss is a sum of squares of terms linear in scores, reference and reward: scaling all of
    them by √w scales every square by w. So 10^5 stored trajectories cost as much as the distinct ones among them.
    """
    root = weights.double().sqrt()
    by_token = root[batch.seq]

    def scaled(values: Tensor | None, by: Tensor) -> Tensor | None:
        return None if values is None else values * by

    return (
        replace(
            scores,
            logprob=scores.logprob * by_token,
            value_first=scaled(scores.value_first, root),
            value=scaled(scores.value, by_token),
            target_value=scaled(scores.target_value, by_token),
        ),
        replace(
            batch,
            ref_logprobs=batch.ref_logprobs * by_token,
            reward=batch.reward * root,
            token_reward=batch.token_reward * by_token,
        ),
    )


def state_values(environment: Environment, values: Tensor, batch: PackedBatch) -> Tensor:
    """[R] of values [states], at the state before each token."""
    return values[cells(environment, batch).rows]


def _group(rewards: list[float], beta: float) -> GroupStats:
    std = float(np.std(rewards, ddof=1)) if len(rewards) > 1 else 0.0
    soft_value = float(np.logaddexp.reduce(np.array(rewards) / beta) - np.log(len(rewards)))
    return GroupStats(float(np.mean(rewards)), std, len(rewards), soft_value)


@dataclass(frozen=True, eq=False)
class Layered:
    """A deterministic MDP of `horizon` layers: `states` states each, `actions` tokens; responses start in state 0."""

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
