"""The loop over a batch's packs that everything goes through which runs the policy: updates, scores, diagnostics."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.scoring.batch import PackedBatch, Trajectory
from pipeline.scoring.packing import pack
from trainer.engine.deepspeed import World


@dataclass(frozen=True, eq=False)
class Turn:
    """This process's pack of one round. All processes take part in every round, since a round has collectives."""

    batch: PackedBatch
    """On the process's device."""
    rows: list[int]
    """Place of each of its trajectories among those given."""
    real: bool
    """False where this process had no pack left and repeats one, whose results count nothing."""
    counted: bool
    """Whether this process adds the pack's results to a sum over all processes: one process does for each pack."""
    last: bool
    """Whether no round follows."""


def turns(trajectories: Sequence[Trajectory], token_budget: int, world: World, pairs: bool = False) -> Iterator[Turn]:
    """The packs of `trajectories`, cut by `pack`, spread over the processes; those of one `world.share` get the same.

    Whoever scores a turn passes `world.share` on.
    """
    packs = pack(trajectories, token_budget, pairs, multiple_of=world.groups)
    place = {id(t): i for i, t in enumerate(trajectories)}
    rounds = -(-len(packs) // world.groups)
    first = world.share is None or world.share.rank == 0
    for turn in range(rounds):
        index = turn * world.groups + world.group
        real = index < len(packs)
        batch = packs[index if real else 0]
        rows = [place[id(t)] for t in batch.trajectories]
        yield Turn(batch.to(world.device), rows, real, real and first, turn + 1 == rounds)
