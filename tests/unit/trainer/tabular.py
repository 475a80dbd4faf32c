"""A policy as a table of logits for each prefix, in float64, and the exact solution of its token tree."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trainer.types import GroupStats, PackedBatch, Scores, Trajectory

Response = tuple[int, ...]
PROMPT = (7, 8)


@dataclass(frozen=True)
class Tree:
    """Responses of at most `horizon` tokens; with `stop`, token 0 ends one earlier."""

    actions: int
    horizon: int
    stop: bool = True

    def ends(self, response: Response) -> bool:
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
        """[states, actions] logits."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(len(self.prefixes), self.actions, dtype=torch.float64, generator=generator)

    def rows(self, response: Response) -> list[int]:
        """Row of the table for each token of the response."""
        place = {p: i for i, p in enumerate(self.prefixes)}
        return [place[response[:h]] for h in range(len(response))]

    def logprobs(self, table: Tensor, response: Response) -> Tensor:
        return table.log_softmax(1)[self.rows(response), list(response)]

    def sample(self, table: Tensor, count: int, seed: int) -> list[Response]:
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
    tree: Tree,
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
            ref_logprobs=tree.logprobs(ref, r).numpy(),
            behavior_logprobs=None if behavior is None else tree.logprobs(behavior, r).numpy(),
            ref_value_first=float(ref[0].logsumexp(0)),
        )
        for i, r in enumerate(responses)
    ]
    stats = {p: _group([t.reward for t in rows if t.prompt_id == p], beta) for p in {t.prompt_id for t in rows}}
    return [replace(t, group=stats[t.prompt_id]) for t in rows]


def tabular_scores(tree: Tree, table: Tensor, batch: PackedBatch) -> Scores:
    """What `trainer.scoring.score` returns for a model, for a table."""
    states, actions = [], []
    for t in batch.trajectories:
        response = tuple(t.response_ids.tolist())
        states += [row for row, kept in zip(tree.rows(response), t.response_mask, strict=True) if kept]
        actions += [a for a, kept in zip(response, t.response_mask, strict=True) if kept]
    logits = table[states]
    value = logits.logsumexp(1)
    logprob = logits[range(len(actions)), actions] - value
    p = logits.softmax(1)
    return Scores(logprob, value[batch.first], value, entropy=value - (p * logits).sum(1))


def state_values(tree: Tree, values: Tensor, batch: PackedBatch) -> Tensor:
    """[R] of values [states], at the state before each token."""
    return values[[row for t in batch.trajectories for row in tree.rows(tuple(t.response_ids.tolist()))]]


def _group(rewards: list[float], beta: float) -> GroupStats:
    std = float(np.std(rewards, ddof=1)) if len(rewards) > 1 else 0.0
    soft_value = float(np.logaddexp.reduce(np.array(rewards) / beta) - np.log(len(rewards)))
    return GroupStats(float(np.mean(rewards)), std, len(rewards), soft_value)
