"""log-softmax of a linear head at given targets, chunk by chunk, computed a second time in the backward pass.

Between the two passes only the inputs and [R] numbers are kept; at any time one chunk of logits exists. Logits, their
normalizer and every accumulated gradient are fp32 (fp64 for fp64 inputs), whatever the type of the weights.
"""

from typing import Any, cast

import torch
from torch import Tensor

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
