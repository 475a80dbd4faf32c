"""One pack over several processes (DeepSpeed-Ulysses): each has a slice of the tokens, in attention one of the heads.

Before attention an all-to-all turns slices of tokens with all heads into all tokens with a slice of the heads; after it
another one turns them back. Everything else of a decoder works token by token. So the longest response that fits into
memory grows with the number of processes, and the numbers are those of one process. DeepSpeed's own layer expects one
sequence a row, whereas this one works on packs.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import TbrmError


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
    if heads % share.size or shared % share.size:
        raise TbrmError(
            f"training.sequence_parallel: {share.size} does not divide the model's {heads} attention heads and "
            f"{shared} key-value heads"
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
