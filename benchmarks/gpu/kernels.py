"""Parts 3 and 4: the head without logits, and attention over packs."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.measure import cosine, device, free_memory, peak_gb, seconds
from benchmarks.gpu.shapes import Sizes
from pipeline.scoring.backbone import blocks
from pipeline.scoring.scoring import head_scores


def head(sizes: Sizes, work: Path) -> Iterator[dict[str, Any]]:
    """log π and V of `head_tokens` tokens in bf16 against fp32 logits: error, seconds, peak memory.

    Beside it Liger's fused cross-entropy, where it is installed. It gives the mean of -log π only: no V, and no slope
    of its own for each token, so it cannot train a residual. It says what a kernel written for the GPU takes.
    """
    shape, at = sizes.small, device()
    torch.manual_seed(0)
    hidden = torch.randn(sizes.head_tokens, shape.hidden, device=at, dtype=torch.bfloat16)
    weight = (0.02 * torch.randn(shape.vocabulary, shape.hidden, device=at)).bfloat16()
    targets = torch.randint(0, shape.vocabulary, (sizes.head_tokens,), device=at)
    slopes = torch.randn(2, sizes.head_tokens, device=at)
    truth = _exact(hidden, weight, targets, slopes)
    rows: list[dict[str, Any]] = []
    for chunk in sizes.head_chunks:
        free_memory()
        before = torch.cuda.memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0

        def forward(chunk: int = chunk) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
            leaves = (hidden.detach().requires_grad_(), weight.detach().requires_grad_())
            logprob, value, _ = head_scores(leaves[0], leaves[1], None, targets, chunk_tokens=chunk)
            return logprob, value, leaves

        def both(chunk: int = chunk) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
            logprob, value, leaves = forward(chunk)
            (slopes[0] @ logprob + slopes[1] @ value).backward()
            return logprob, value, leaves

        logprob, value, leaves = both()
        rows.append(
            {
                "chunk": chunk,
                "max_error_logprob": float((logprob - truth[0]).abs().max()),
                "max_error_value": float((value - truth[1]).abs().max()),
                "cosine_grad_hidden": cosine(_grad(leaves[0]), truth[2]),
                "cosine_grad_weight": cosine(_grad(leaves[1]), truth[3]),
            }
        )
        del logprob, value, leaves
        free_memory()
        rows[-1] |= {"forward_s": seconds(forward), "both_s": seconds(both)}
        peak = peak_gb()
        rows[-1] |= {"extra_gb": None if peak is None else round(peak - before, 3)}
        yield {"tokens": sizes.head_tokens, "vocabulary": shape.vocabulary, "hidden": shape.hidden, "ours": rows}
    yield {"liger": _liger(hidden, weight, targets)}


def attention(sizes: Sizes, work: Path) -> Iterator[dict[str, Any]]:
    """Forward and backward of one layer's attention over a pack: ours by blocks, and torch's variable-length kernel."""
    shape, at = sizes.small, device()
    width = shape.hidden // shape.heads
    rows: list[dict[str, Any]] = []
    for total in sizes.attention_tokens:
        for kind, lengths in (("long tail", _long_tail(total)), ("one sequence", [total]), ("short", _short(total))):
            torch.manual_seed(0)
            parts = [
                torch.randn(total, heads, width, device=at, dtype=torch.bfloat16)
                for heads in (shape.heads, shape.kv_heads, shape.kv_heads)
            ]
            row: dict[str, Any] = {"tokens": total, "kind": kind, "sequences": len(lengths)}
            outputs: dict[str, Tensor] = {}
            for name, kernel in (("blocks", _by_blocks), ("varlen", _varlen)):
                call = kernel(parts, lengths)
                if call is None:
                    continue
                free_memory()
                with torch.no_grad():
                    outputs[name] = call(parts)

                def both(call: Any = call, parts: list[Tensor] = parts) -> None:
                    leaves = [part.detach().requires_grad_() for part in parts]
                    call(leaves).sum().backward()

                row |= {f"{name}_both_s": seconds(both), f"{name}_peak_gb": peak_gb()}
            if len(outputs) == 2:
                row["max_difference"] = float((outputs["blocks"] - outputs["varlen"]).abs().max())
            rows.append(row)
            yield {"heads": shape.heads, "kv_heads": shape.kv_heads, "head_size": width, "rows": rows}


def _exact(hidden: Tensor, weight: Tensor, targets: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log π, V and both gradients from fp32 logits, 512 tokens at a time so that they fit beside what is measured."""
    wide = weight.float().requires_grad_()
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    for start in range(0, len(hidden), 512):
        part = hidden[start : start + 512].float().requires_grad_()
        logits = part @ wide.T
        value = logits.logsumexp(1)
        logprob = logits.gather(1, targets[start : start + 512, None])[:, 0] - value
        own = slopes[:, start : start + 512]
        (own[0] @ logprob + own[1] @ value).backward()
        found.append((logprob.detach(), value.detach(), _grad(part)))
    torch.set_float32_matmul_precision(precision)
    logprob, value, grad = (torch.cat(column) for column in zip(*found, strict=True))
    return logprob, value, grad, _grad(wide)


def _grad(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


def _liger(hidden: Tensor, weight: Tensor, targets: Tensor) -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"left out": "its kernels are written in Triton and need a GPU"}
    try:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy
    except ImportError as error:
        return {"left out": str(error)}

    def both() -> None:
        leaves = (hidden.detach().requires_grad_(), weight.detach().requires_grad_())
        liger_fused_linear_cross_entropy(leaves[0], leaves[1], targets).backward()

    free_memory()
    before = torch.cuda.memory_allocated() / 2**30
    taken = seconds(both)
    return {"both_s": taken, "extra_gb": round(torch.cuda.max_memory_allocated() / 2**30 - before, 3)}


def _long_tail(total: int) -> list[int]:
    """Lengths that add up to `total`, as responses of a reasoning model have them: many short, a few of a quarter."""
    rng, lengths = np.random.default_rng(0), list[int]()
    while sum(lengths) < total:
        drawn = int(np.clip(rng.lognormal(np.log(total / 32), 0.8), 16, total // 4))
        lengths.append(min(drawn, total - sum(lengths)))
    return lengths


def _short(total: int) -> list[int]:
    return [64] * (total // 64)


def _by_blocks(parts: list[Tensor], lengths: list[int]) -> Any:
    from pipeline.scoring.backbone import _blockwise_attention

    laid = blocks(lengths, parts[0].device)

    class Layer(torch.nn.Module):
        num_key_value_groups = parts[0].shape[1] // parts[1].shape[1]

    layer = Layer()

    def call(tokens: list[Tensor]) -> Tensor:
        query, key, value = (part.transpose(0, 1)[None] for part in tokens)
        return _blockwise_attention(layer, query, key, value, None, scaling=query.shape[-1] ** -0.5, blocks=laid)[0][0]

    return call


def _varlen(parts: list[Tensor], lengths: list[int]) -> Any:
    """torch's kernel, or None where there is none (on CPUs)."""
    if not torch.cuda.is_available():
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    ends = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32, device=parts[0].device)
    repeated = parts[0].shape[1] // parts[1].shape[1]
    options: dict[str, Any] = {}
    accepted = inspect.signature(varlen_attn).parameters
    if "is_causal" in accepted:
        options["is_causal"] = True
    elif "window_size" in accepted:
        options["window_size"] = (-1, 0)
    if "enable_gqa" in accepted:
        options["enable_gqa"], repeated = True, 1

    def call(tokens: list[Tensor]) -> Tensor:
        query, key, value = tokens
        if repeated > 1:
            key, value = (part.repeat_interleave(repeated, dim=1) for part in (key, value))
        found = varlen_attn(query, key, value, ends, ends, max(lengths), max(lengths), **options)
        return found[0] if isinstance(found, tuple) else found

    return call
