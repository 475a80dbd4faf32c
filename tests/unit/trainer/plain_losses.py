"""Every objective once more, as a person would write it from the paper: float64, one response at a time, full logits,
explicit loops. Shares no code with the trainer, whose loss and gradient are compared with it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Row = Mapping[str, Any]
"""A stored trajectory, in the columns of the store."""


@dataclass(frozen=True)
class Token:
    """One token that the policy wrote."""

    lp: Tensor
    """log π_θ(a_h|s_h)"""
    v: Tensor
    """V_θ(s_h)"""
    entropy: Tensor
    ref: float
    behaviour: float
    reward: float
    """r_h"""
    critic: Tensor
    """V_φ(s_h)"""
    frozen: float
    """V_{θ_t}(s_h)"""
    old: float
    """log π_{θ_t}(a_h|s_h)"""


@dataclass(frozen=True)
class Response:
    """One response, and the rewards of all responses to its prompt."""

    tokens: list[Token]
    outcome: float
    prompt: str
    ref_value: float
    peers: list[float]


def responses(
    rows: Sequence[Row], model: Any, critic: Callable[[Tensor], Tensor], frozen: Any, temperature: float
) -> list[Response]:
    """`critic` maps the token ids of a sequence to a value after each of its tokens."""
    found: list[Response] = []
    for row in rows:
        prompt, response = row["prompt_token_ids"], row["response_token_ids"]
        ids = torch.tensor([*prompt, *response])
        logits = model(input_ids=ids[None]).logits[0] / temperature
        with torch.no_grad():
            before = frozen(input_ids=ids[None]).logits[0] / temperature
        values = critic(ids)
        mask = row["response_mask"] or [True] * len(response)
        rewards = token_rewards(row, mask)
        tokens: list[Token] = []
        for h in range(len(response)):
            if not mask[h]:
                continue
            at = len(prompt) + h - 1
            z = logits[at]
            p = torch.exp(z) / torch.exp(z).sum()
            tokens.append(
                Token(
                    lp=torch.log(p[response[h]]),
                    v=torch.log(torch.exp(z).sum()),
                    entropy=-(p * torch.log(p)).sum(),
                    ref=row["ref_token_logprobs"][h],
                    behaviour=row["behavior_logprobs"][h],
                    reward=rewards[h],
                    critic=values[at],
                    frozen=math.log(sum(math.exp(x) for x in before[at].tolist())),
                    old=before[at][response[h]].item() - math.log(sum(math.exp(x) for x in before[at].tolist())),
                )
            )
        peers = [other["reward"] for other in rows if other["group"] == row["group"]]
        found.append(Response(tokens, row["reward"], row["group"], row["ref_value_first"], peers))
    return found


def token_rewards(row: Row, mask: Sequence[bool]) -> dict[int, float]:
    """r_h by position: an environment's token pays to the policy token before it, the outcome to the last one."""
    own = [h for h in range(len(mask)) if mask[h]]
    rewards = dict.fromkeys(own, 0.0)
    if row["token_rewards"] is None:
        rewards[own[-1]] = row["reward"]
        return rewards
    for h, reward in enumerate(row["token_rewards"]):
        payee = [k for k in own if k <= h]
        if payee:
            rewards[payee[-1]] += reward
    return rewards


def plain_loss(objective: str, given: Sequence[Response], options: Mapping[str, Any]) -> Tensor:
    """The mean loss of the batch."""
    return LOSSES[objective](given, options)


def _mean(terms: Sequence[Tensor]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for term in terms:
        total = total + term
    return total / len(terms)


def _log_ratio(response: Response) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for token in response.tokens:
        total = total + token.lp - token.ref
    return total


def _bent(residual: Tensor, response: Response, options: Mapping[str, Any]) -> Tensor:
    if options.get("length_normalized"):
        residual = residual / len(response.tokens)
    clip = options.get("residual_clip")
    if clip is not None and abs(residual.item()) > clip:
        return 2 * clip * abs(residual) - clip**2
    return residual**2


def tbrm(given: Sequence[Response], options: Mapping[str, Any]) -> Tensor:
    terms: list[Tensor] = []
    for x in given:
        value = x.tokens[0].v - (x.ref_value if options.get("value_offset") == "reference" else 0.0)
        terms.append(_bent(value + _log_ratio(x) - x.outcome / options["beta"], x, options))
    return _mean(terms)


def tbrm_iterative(given: Sequence[Response], options: Mapping[str, Any]) -> Tensor:
    return _mean([_bent(x.tokens[0].frozen + _log_ratio(x) - x.outcome / options["beta"], x, options) for x in given])


def brm(given: Sequence[Response], options: Mapping[str, Any]) -> Tensor:
    terms: list[Tensor] = []
    for x in given:
        loss = torch.zeros((), dtype=torch.float64)
        for h, token in enumerate(x.tokens):
            after = x.tokens[h + 1].v if h + 1 < len(x.tokens) else 0.0
            q = token.lp + token.v
            loss = loss + (q - after - token.reward / options["beta"] - token.ref) ** 2
        terms.append(loss)
    return _mean(terms)


def _single_step(value: Callable[[Token], Any]) -> Callable[[Sequence[Response], Mapping[str, Any]], Tensor]:
    def loss(given: Sequence[Response], options: Mapping[str, Any]) -> Tensor:
        terms: list[Tensor] = []
        for x in given:
            total = torch.zeros((), dtype=torch.float64)
            for h, token in enumerate(x.tokens):
                after = value(x.tokens[h + 1]) if h + 1 < len(x.tokens) else 0.0
                total = total + (token.lp + value(token) - token.reward / options["beta"] - token.ref - after) ** 2
            terms.append(total)
        return _mean(terms)

    return loss


def _multi_step(value: Callable[[Token], Any]) -> Callable[[Sequence[Response], Mapping[str, Any]], Tensor]:
    def loss(given: Sequence[Response], options: Mapping[str, Any]) -> Tensor:
        terms: list[Tensor] = []
        for x in given:
            total = torch.zeros((), dtype=torch.float64)
            for h in range(len(x.tokens)):
                residual = torch.zeros((), dtype=torch.float64) + value(x.tokens[h])
                for later in x.tokens[h:]:
                    residual = residual + later.lp - later.ref - later.reward / options["beta"]
                total = total + residual**2
            terms.append(total)
        return _mean(terms)

    return loss


def daa_point(given: Sequence[Response], options: Mapping[str, Any]) -> Tensor:
    terms: list[Tensor] = []
    for x in given:
        value = math.log(sum(math.exp(r / options["beta"]) for r in x.peers) / len(x.peers))
        terms.append(_bent(value + _log_ratio(x) - x.outcome / options["beta"], x, options))
    return _mean(terms)


def daa_pair(given: Sequence[Response], options: Mapping[str, Any]) -> Tensor:
    """Responses two by two; of an odd number the last three make two pairs."""
    terms: list[Tensor] = []
    for prompt in dict.fromkeys(x.prompt for x in given):
        peers = [x for x in given if x.prompt == prompt]
        pairs = [(k, k + 1) for k in range(0, len(peers) - 1, 2)]
        if len(peers) % 2:
            pairs.append((len(peers) - 2, len(peers) - 1))
        for a, b in pairs:
            rewards = (peers[a].outcome - peers[b].outcome) / options["beta"]
            terms.append((_log_ratio(peers[a]) - _log_ratio(peers[b]) - rewards) ** 2)
    return _mean(terms)


def _surrogate(token: Token, advantage: float, options: Mapping[str, Any]) -> Tensor:
    """The clipped gain of a token, by cases of where its ratio lies, with its importance weight."""
    recomputed = options["old_logprobs"] == "recomputed"
    ratio = torch.exp(token.lp - (token.old if recomputed else token.behaviour))
    clip, worst = options["clip_ratio"], options["dual_clip"]
    if advantage >= 0:
        gain = ratio * advantage if ratio.item() <= 1 + clip else 0 * ratio + (1 + clip) * advantage
    elif ratio.item() < 1 - clip:
        gain = 0 * ratio + (1 - clip) * advantage
    elif worst is not None and ratio.item() > worst:
        gain = 0 * ratio + worst * advantage
    else:
        gain = ratio * advantage
    if recomputed and options["importance_cap"] is not None:
        gain = gain * min(math.exp(token.old - token.behaviour), options["importance_cap"])
    return gain


def grpo(given: Sequence[Response], options: Mapping[str, Any]) -> Tensor:
    terms: list[Tensor] = []
    for x in given:
        mean = sum(x.peers) / len(x.peers)
        deviation = math.sqrt(sum((r - mean) ** 2 for r in x.peers) / (len(x.peers) - 1))
        advantage = (x.outcome - mean) / (deviation + 1e-6)
        gain = torch.zeros((), dtype=torch.float64)
        for token in x.tokens:
            k3 = torch.exp(token.ref - token.lp) - (token.ref - token.lp) - 1
            k3 = k3 if k3.item() < 10 else 0 * k3 + 10
            gain = gain + _surrogate(token, advantage, options) - options["kl_coefficient"] * k3
        terms.append(-gain / len(x.tokens))
    return _mean(terms)


def ppo(given: Sequence[Response], options: Mapping[str, Any]) -> Tensor:
    terms: list[Tensor] = []
    for x in given:
        values = [token.critic.item() for token in x.tokens] + [0.0]
        deltas: list[float] = []
        for h, token in enumerate(x.tokens):
            old = token.old if options["old_logprobs"] == "recomputed" else token.behaviour
            reward = token.reward - options["kl_coefficient"] * (old - token.ref)
            deltas.append(reward + values[h + 1] - values[h])
        for h, token in enumerate(x.tokens):
            advantage = sum(options["gae_lambda"] ** (k - h) * deltas[k] for k in range(h, len(deltas)))
            value_loss = 0.5 * (token.critic - (values[h] + advantage)) ** 2
            bonus = options["entropy_coefficient"] * token.entropy
            terms.append(value_loss - _surrogate(token, advantage, options) - bonus)
    return _mean(terms)


def imitation(given: Sequence[Response], options: Mapping[str, Any]) -> Tensor:
    terms: list[Tensor] = []
    for x in given:
        total = torch.zeros((), dtype=torch.float64)
        for token in x.tokens:
            total = total - token.lp
        terms.append(total)
    return _mean(terms)


def filtered_imitation(given: Sequence[Response], options: Mapping[str, Any]) -> Tensor:
    terms: list[Tensor] = []
    for x in given:
        total = torch.zeros((), dtype=torch.float64)
        for token in x.tokens:
            total = total - x.outcome * token.lp
        terms.append(total)
    return _mean(terms)


LOSSES: dict[str, Callable[[Sequence[Response], Mapping[str, Any]], Tensor]] = {
    "tbrm": tbrm,
    "brm": brm,
    "tbrm_iterative": tbrm_iterative,
    "sql_single": _single_step(lambda token: token.frozen),
    "sql_multi": _multi_step(lambda token: token.frozen),
    "sac_single": _single_step(lambda token: token.critic),
    "sac_multi": _multi_step(lambda token: token.critic),
    "daa_point": daa_point,
    "daa_pair": daa_pair,
    "grpo": grpo,
    "ppo": ppo,
    "imitation": imitation,
    "filtered_imitation": filtered_imitation,
}
