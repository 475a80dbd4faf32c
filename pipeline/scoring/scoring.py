"""log π_θ and V_θ of the tokens a policy wrote, from hidden states, without ever holding [tokens, vocabulary].

The same code scores θ in training and the reference in the data plane, so that every log-ratio is 0 at θ = θ_ref.

The head is a log-softmax at given targets, chunk by chunk, computed a second time in the backward pass. Between the two
passes only the inputs and [R] numbers are kept; at any time one chunk of logits exists. Logits, their normalizer and
every accumulated gradient are fp32 (fp64 for fp64 inputs), whatever the type of the weights.
"""

import weakref
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.errors import TbrmError
from pipeline.scoring.backbone import Share, gather, hidden_states
from pipeline.scoring.batch import PackedBatch, Scores, Trajectory, ValueAt, lay_out, pack

_VOCABULARY_TILE = 16_384


def head_scores(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float = 1.0,
    chunk_tokens: int = 1_024,
    entropy: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """(log π, V, entropy), each [R], of z = (hidden weightᵀ + bias) / temperature.

    `hidden` is [R, H], `weight` [vocabulary, H], `targets` [R]. log π = z[target] - V with V = logsumexp(z). Without
    `entropy` the third is zeros. Differentiable in `hidden`, `weight` and `bias`.
    """
    return cast(
        tuple[Tensor, Tensor, Tensor],
        _HeadScores.apply(hidden, weight, bias, targets, temperature, chunk_tokens, entropy),
    )


class _HeadScores(torch.autograd.Function):
    """With p = softmax(z) and H the entropy, per token: dlogπ/dz = onehot - p, dV/dz = p, dH/dz = -p (log p + H)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk_tokens: int,
        entropy: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        picked, soft_value, spread = (hidden.new_zeros(len(hidden), dtype=_wide(hidden.dtype)) for _ in range(3))
        for rows in _chunks(len(hidden), chunk_tokens):
            logits = _logits(hidden[rows], weight, bias, temperature)
            picked[rows] = logits.gather(1, targets[rows, None])[:, 0]
            if entropy:
                soft_value[rows] = torch.logsumexp(logits, dim=1)
                log_p = logits.sub_(soft_value[rows, None])
                spread[rows] = -log_p.exp().mul_(log_p).sum(dim=1)
            else:
                top = logits.amax(dim=1)
                soft_value[rows] = logits.sub_(top[:, None]).exp_().sum(dim=1).log_().add_(top)
        ctx.save_for_backward(hidden, weight, bias, targets, soft_value, spread)
        ctx.options = temperature, chunk_tokens, entropy
        return picked.sub_(soft_value), soft_value, spread

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, soft_value, spread = ctx.saved_tensors
        temperature, chunk_tokens, entropy = ctx.options
        to_logprob, to_value, to_entropy = grads
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=soft_value.dtype) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=soft_value.dtype) if need_bias else None
        for rows in _chunks(len(hidden), chunk_tokens):
            log_p = _logits(hidden[rows], weight, bias, temperature).sub_(soft_value[rows, None])
            slope = (to_value - to_logprob)[rows, None]
            if entropy:
                p = log_p.exp()
                slope = slope - to_entropy[rows, None] * log_p.add_(spread[rows, None])
                grad = p.mul_(slope)
            else:
                grad = log_p.exp_().mul_(slope)
            grad.scatter_add_(1, targets[rows, None], to_logprob[rows, None]).div_(temperature)
            if grad_bias is not None:
                grad_bias += grad.sum(dim=0)
            if grad_hidden is not None:
                grad_hidden[rows] = grad.to(weight.dtype) @ weight
            if grad_weight is not None:
                _add_outer(grad_weight, grad, hidden[rows])
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            *(None,) * 4,
        )


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """[chunk, vocabulary] in fp32 or wider."""
    wide = _wide(hidden.dtype)
    if hidden.is_cuda and wide != hidden.dtype:
        logits = torch.mm(hidden, weight.T, out_dtype=wide)  # the accumulator as it is, not rounded to bf16
    else:
        logits = (hidden @ weight.T).to(wide)
    if bias is not None:
        logits += bias
    return logits if temperature == 1.0 else logits.div_(temperature)


def _add_outer(total: Tensor, grad: Tensor, hidden: Tensor) -> None:
    """total [vocabulary, H] += gradᵀ hidden, in the type of `total`."""
    if not hidden.is_cuda or hidden.dtype == total.dtype:
        total.addmm_(grad.T, hidden.to(total.dtype))
        return
    # Tensor cores need inputs of one narrow type; by tiles, the product needs no second buffer of the weight's size.
    narrow = grad.to(hidden.dtype)
    for start in range(0, len(total), _VOCABULARY_TILE):
        tile = slice(start, start + _VOCABULARY_TILE)
        total[tile] += torch.mm(narrow[:, tile].T, hidden, out_dtype=total.dtype)


def _chunks(size: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, size)) for start in range(0, size, chunk)]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def score(
    model: Any,
    batch: PackedBatch,
    value: ValueAt = "none",
    entropy: bool = False,
    temperature: float = 1.0,
    chunk_tokens: int = 1_024,
    share: Share | None = None,
) -> Scores:
    """Score a pack under a causal language model of transformers (its backbone and its head, on the batch's device).

    The head sees only the positions that predict policy tokens, `chunk_tokens` of them at a time. `temperature` divides
    the logits before log π, V and the entropy. V costs nothing beside log π; `value` says which of it is returned.
    With `share` the pack is spread over processes, each of which calls this and gets the whole result.
    Raises TbrmError for a model whose logits are not a plain linear map of its last hidden state.
    """
    head = plain_head(model)
    hidden, predict, targets = hidden_states(model.get_decoder(), batch, share), batch.predict, batch.targets
    own: torch.Tensor | None = None
    if share is not None:
        start, stop = share.slice_of(batch.input_ids.shape[1])
        own = torch.nonzero((predict >= start) & (predict < stop)).squeeze(1)
        predict, targets = predict[own] - start, targets[own]
    selected = hidden.index_select(0, predict)
    logprob, soft_value, spread = head_scores(
        selected, head.weight, head.bias, targets, temperature, chunk_tokens, entropy
    )
    if share is not None and own is not None:
        total = len(batch.predict)
        logprob, soft_value, spread = (gather(part, own, total, share) for part in (logprob, soft_value, spread))
    return Scores(
        logprob=logprob,
        value_first=soft_value.index_select(0, batch.first) if value != "none" else None,
        value=soft_value if value == "all" else None,
        entropy=spread if entropy else None,
    )


def score_trajectories(
    model: Any,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    token_budget: int,
    masks: Sequence[npt.NDArray[np.bool_]] | None = None,
    temperature: float = 1.0,
    chunk_tokens: int = 1_024,
) -> list[tuple[npt.NDArray[np.float32], float]]:
    """For each response of T tokens: log-probs [T], and V(s_1), at the first policy token. No gradient, no dropout.

    `masks` mark the tokens that the policy wrote (None: all); the others get 0. Without any such token V is taken right
    after the prompt. A reference for training at another `temperature` has to be scored at that temperature. Results do
    not depend on `token_budget` beyond rounding (1e-4 summed over a response in fp32). Raises TbrmError for a model
    that cannot be scored.
    """
    masks = masks if masks is not None else [np.ones(len(r), dtype=np.bool_) for r in responses]
    rows = [_unlabelled(str(i), *row) for i, row in enumerate(zip(prompts, responses, masks, strict=True))]
    place = {id(row): i for i, row in enumerate(rows)}
    results: list[tuple[npt.NDArray[np.float32], float]] = [(np.zeros(len(r), np.float32), 0.0) for r in responses]
    training = model.training
    model.eval()
    check_scorable(model)
    with torch.no_grad():
        for batch in pack(rows, token_budget):
            scores = score(model, batch.to(model.device), "first", False, temperature, chunk_tokens)
            logprobs = scores.logprob.float().cpu().numpy()
            values = cast(torch.Tensor, scores.value_first).tolist()
            parts = np.split(logprobs, np.cumsum(batch.lengths)[:-1])
            for row, part, value in zip(batch.trajectories, parts, values, strict=True):
                at = place[id(row)]
                tokens = results[at][0]
                tokens[masks[at]] = part[: int(masks[at].sum())]
                results[at] = (tokens, value)
    model.train(training)
    return results


_PROBE = 12
_SEEN, _OTHER = 0.05, 0.15
"""Largest difference, relative to the largest value, that is rounding: of hidden states whose neighbours in the pack
changed (0 but for experts that are shared), and of logits (0.01 in bfloat16). Models that cannot be scored have more.
"""
_scorable = weakref.WeakSet[Any]()


@torch.no_grad()
def check_scorable(model: Any) -> None:
    """Try `score` out on a few tokens, once for each model: raise TbrmError where it would give wrong numbers.

    Recurrent layers, and attention that does not go by `position_ids`, see the sequences that lie before one in a pack.
    Some models scale their logits after the head.
    """
    if model in _scorable:
        return
    head = plain_head(model)

    def tokens(step: int) -> list[int]:
        return [(step * i + step) % len(head.weight) for i in range(_PROBE)]

    def beside(step: int) -> Tensor:
        """Hidden states of the probe behind other tokens."""
        rows = [_unlabelled("", one[:1], one[1:], np.ones(_PROBE - 1, np.bool_)) for one in (tokens(step), tokens(13))]
        return hidden_states(model.get_decoder(), lay_out(rows).to(head.weight.device))[_PROBE:].float()

    hidden = beside(7)
    seen = float((hidden - beside(11)).abs().max() / hidden.abs().max())
    logits = model(input_ids=torch.tensor([tokens(13)], device=head.weight.device)).logits[0].float()
    own = head(hidden.to(head.weight.dtype)).float()
    other = float((own - logits).abs().max() / logits.abs().max())
    if not (seen <= _SEEN and other <= _OTHER):
        why = (
            f"its hidden states depend on the responses before one in a pack (by {seen:.0%})"
            if seen > _SEEN
            else f"its logits are not what its head makes of the last hidden state (off by {other:.0%})"
        )
        raise TbrmError(
            f"{type(model).__name__} cannot be scored: {why}. Choose a model of attention layers, with rotary or "
            "learned positions and a plain head (Qwen2, Llama)"
        )
    _scorable.add(model)


def plain_head(model: Any) -> torch.nn.Linear:
    """The linear map from hidden states to logits. Raises TbrmError for a model that does more than that."""
    head = model.get_output_embeddings()
    extras = {
        name: factor
        for name, neutral in (("final_logit_softcapping", None), ("logits_scaling", 1), ("logit_scale", 1))
        if (factor := getattr(model.config, name, neutral)) not in (None, neutral)
    }
    if extras or not isinstance(head, torch.nn.Linear):
        raise TbrmError(
            f"{type(model).__name__} cannot be scored: its logits are not a plain linear map of the last hidden state "
            f"(head {type(head).__name__}, {extras or 'no scaling'}). Choose one with a linear head (Qwen2, Llama)"
        )
    return head


def _unlabelled(name: str, prompt: Sequence[int], response: Sequence[int], mask: npt.NDArray[np.bool_]) -> Trajectory:
    """A row to score; one without policy tokens gets an arbitrary first token, so that it has a V(s_1)."""
    tokens = np.asarray(response if mask.any() else [0], dtype=np.int32)
    return Trajectory(
        trajectory_id=name,
        prompt_id=name,
        prompt_ids=np.asarray(prompt, dtype=np.int32),
        response_ids=tokens,
        response_mask=mask if mask.any() else np.ones(1, dtype=np.bool_),
        reward=0.0,
        ref_logprobs=np.zeros(len(tokens), dtype=np.float32),
    )
