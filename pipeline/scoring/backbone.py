"""Hidden states of a packed batch: every sequence attends to itself alone, at the cost of the sequences one by one.

transformers masks a pack by itself, from positions that start again at 0, but with sdpa it does so with one mask of
[N, N] over the whole pack: for a pack of many short responses nearly all of that work is masked away. Models that
attend to everything before a token therefore run sequences of like length side by side instead; flash-attention does
the same in one kernel and is left as it is.

Several processes can share a pack (DeepSpeed-Ulysses): each holds a slice of its tokens, and in attention a slice of
the heads.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import TbrmError
from pipeline.scoring.batch import PackedBatch


@dataclass(frozen=True, eq=False)
class Share:
    """The processes that hold one pack together; `rank` of `size` in `group`."""

    group: Any
    rank: int
    size: int

    def slice_of(self, tokens: int) -> tuple[int, int]:
        """[start, stop) of this process in a pack of `tokens`; every slice has the same width, the last overhangs."""
        width = -(-tokens // self.size)
        return self.rank * width, (self.rank + 1) * width


def join_share(size: int) -> Share | None:
    """Join this process to its group of `size` consecutive ranks. None where a process holds its packs alone.

    Raises TbrmError where `size` does not divide the processes of the job.
    """
    world, rank = dist.get_world_size(), dist.get_rank()
    if size == 1:
        return None
    if world % size:
        raise TbrmError(
            f"training.sequence_parallel: {size} processes cannot share a pack where the job has {world}: "
            "`training.processes` (times the machines) must be a multiple of it"
        )
    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, world, size)]
    return Share(groups[rank // size], rank % size, size)


def check_heads(config: Any, share: Share) -> None:
    """Raises TbrmError for a model whose heads cannot be divided."""
    heads = config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    if heads % share.size or (shared % share.size and share.size % shared):
        raise TbrmError(
            f"training.sequence_parallel: {share.size} does not divide the model's {heads} attention heads, or neither "
            f"divides its {shared} key-value heads nor is a multiple of them"
        )


def own_tokens(tokens: Tensor, share: Share) -> Tensor:
    """[1, n] This process's slice of a pack's [1, N]; where the last slice overhangs, it is filled up with zeros."""
    start, stop = share.slice_of(tokens.shape[1])
    return torch.nn.functional.pad(tokens, (0, share.size * (stop - start) - tokens.shape[1]))[:, start:stop]


def to_heads(tokens: Tensor, share: Share, total: int) -> Tensor:
    """Turn [n, heads, D] of this process's tokens into [N, heads / size, D]: all tokens, its share of the heads."""
    width, heads, size = tokens.shape
    parts = tokens.view(width, share.size, heads // share.size, size).transpose(0, 1)
    return _exchange(parts, share.group).flatten(0, 1)[:total]


def to_tokens(heads: Tensor, share: Share) -> Tensor:
    """Turn [N, heads / size, D] back into [n, heads, D], the inverse of `to_heads`."""
    total = len(heads)
    start, stop = share.slice_of(total)
    filled = torch.nn.functional.pad(heads, (0, 0, 0, 0, 0, share.size * (stop - start) - total))
    return _exchange(filled.unflatten(0, (share.size, stop - start)), share.group).transpose(0, 1).flatten(1, 2)


def gather(own: Tensor, places: Tensor, total: int, share: Share) -> Tensor:
    """[total] on every process, from each one's `own` values at its `places`; all `places` together are 0 to total - 1.

    Every process then computes the same loss, so that each has the complete gradient of its own values.
    """
    return cast(Tensor, _Sum.apply(own.new_zeros(total).index_put((places,), own), share.group))


class _Exchange(torch.autograd.Function):
    """Block j of [size, …] goes to process j, which puts the blocks of all in order; its own inverse."""

    @staticmethod
    def forward(ctx: Any, blocks: Tensor, group: Any) -> Tensor:
        ctx.group = group
        blocks = blocks.contiguous()
        received = torch.empty_like(blocks)
        dist.all_to_all_single(received, blocks, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _exchange(grads[0], ctx.group), None


def _exchange(blocks: Tensor, group: Any) -> Tensor:
    return cast(Tensor, _Exchange.apply(blocks, group))


class _Sum(torch.autograd.Function):
    """Sum over the processes; each one's loss is the whole loss, so its gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        values = values.clone()
        dist.all_reduce(values, group=group)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


BLOCKWISE = "tbrm_blockwise"
_SHORT = 64
"""A sequence of up to this many tokens is padded into another block: that costs less than a call of its own."""
_ALIKE = 0.75
"""A longer sequence joins a block where it has at least this share of the length of the block's longest one."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """Sequences of a pack, arranged in rectangles by length."""

    rows: tuple[Tensor, ...]
    """Each [b, L]: positions in N of b sequences, padded on the right (where no token looks) to L by their last one."""
    order: Tensor
    """[N] Where each token of the pack lies in the rectangles, laid flat one after the other."""


def hidden_states(decoder: Any, batch: PackedBatch, share: Share | None = None) -> Tensor:
    """[N, H] last hidden states of a transformers decoder (`model.get_decoder()`), in the order of `batch.input_ids`.

    With `share`, [n, H] of this process's slice. The first call replaces the attention of a decoder that was loaded
    with sdpa; other callers of the decoder still get sdpa. Raises TbrmError where packs cannot be shared.
    """
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "use_cache": False}
    attention = decoder.config._attn_implementation
    if share is not None:
        _check_shareable(decoder, share)
        inputs |= {"input_ids": own_tokens(batch.input_ids, share), "share": share}
        inputs["position_ids"] = own_tokens(batch.position_ids, share)
    if (attention == "sdpa" or share is not None) and attention != BLOCKWISE and _attends_to_all(decoder):
        _register()
        decoder.set_attn_implementation(BLOCKWISE)
        attention = BLOCKWISE
    # An attention_mask of ones, or a cache, would silently switch off the masking between sequences.
    if attention == BLOCKWISE:
        lengths = [len(t.prompt_ids) + len(t.response_ids) for t in batch.trajectories]
        inputs["blocks"] = blocks(lengths, batch.input_ids.device)
        # An empty mask keeps transformers from making its own. An attention that read it would fail at its size.
        inputs["attention_mask"] = batch.input_ids.new_zeros((1, 1, 0, 0), dtype=torch.bool)
    elif attention.startswith("flash_attention"):
        inputs |= {"cu_seq_lens_q": batch.boundaries, "cu_seq_lens_k": batch.boundaries}
        inputs |= {"max_length_q": batch.longest, "max_length_k": batch.longest}
    return decoder(**inputs).last_hidden_state[0]


def blocks(lengths: Sequence[int], device: torch.device) -> Blocks:
    """Rectangles for sequences of these lengths that lie end to end; longest first."""
    starts = np.cumsum([0, *lengths[:-1]])
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        top = lengths[groups[-1][0]] if groups else 0
        if groups and (top <= _SHORT or lengths[i] >= _ALIKE * top):
            groups[-1].append(i)
        else:
            groups.append([i])
    order = np.empty(sum(lengths), dtype=np.int64)
    rows: list[Tensor] = []
    filled = 0
    for group in groups:
        width = lengths[group[0]]
        for i in group:
            order[starts[i] : starts[i] + lengths[i]] = np.arange(filled, filled + lengths[i])
            filled += width
        ends = np.array([lengths[i] - 1 for i in group])
        inside = np.minimum(np.arange(width)[None], ends[:, None])
        rows.append(torch.from_numpy(starts[group][:, None] + inside).to(device))
    return Blocks(tuple(rows), torch.from_numpy(order).to(device))


def _check_shareable(decoder: Any, share: Share) -> None:
    check_heads(decoder.config, share)
    if not _attends_to_all(decoder):
        raise TbrmError(
            f"training.sequence_parallel: {type(decoder).__name__} has layers that do not attend to all earlier tokens "
            "through transformers' interface; its packs cannot be shared"
        )


def _attends_to_all(decoder: Any) -> bool:
    """Whether every layer is causal attention over all earlier tokens, computed through transformers' interface."""
    config = decoder.config
    kinds = getattr(config, "layer_types", None)
    windowed = (
        getattr(config, "sliding_window", None) is not None if kinds is None else set(kinds) != {"full_attention"}
    )
    return getattr(decoder, "_supports_attention_backend", False) and not windowed


@functools.cache
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(BLOCKWISE, _blockwise_attention)
    AttentionMaskInterface.register(BLOCKWISE, sdpa_mask)


def _blockwise_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    blocks: Blocks | None = None,
    share: Share | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """sdpa over each rectangle of `blocks`, plain sdpa without them. `query` [1, heads, N, D] to [1, N, heads, D].

    With `share`, N is this process's slice outside and the whole pack inside, with a part of the heads.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if blocks is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    tokens = [part[0].transpose(0, 1) for part in (query, key, value)]  # each [N, heads, D]
    attention: Any = module
    if share is not None:
        groups = query.shape[1] // key.shape[1]
        if (copies := share.size // key.shape[1]) > 1:  # fewer key-value heads than processes: several have the same
            tokens = [tokens[0], *(part.repeat_interleave(copies, 1) for part in tokens[1:])]
            groups //= copies
        attention = SimpleNamespace(num_key_value_groups=groups)
        tokens = [to_heads(part, share, len(blocks.order)) for part in tokens]
    outputs: list[Tensor] = []
    for rows in blocks.rows:
        parts = [t.index_select(0, rows.flatten()).unflatten(0, rows.shape).transpose(1, 2) for t in tokens]
        output, _ = sdpa_attention_forward(
            attention, parts[0], parts[1], parts[2], None, dropout, scaling, is_causal=True
        )
        outputs.append(output.flatten(0, 1))
    attended = torch.cat(outputs).index_select(0, blocks.order)
    return (attended if share is None else to_tokens(attended, share))[None], None
