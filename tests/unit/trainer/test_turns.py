"""How the packs of a batch go round among processes that may share them."""

from collections import Counter

import pytest
import torch

from pipeline.scoring.backbone import Share
from tests.unit.trainer.tiny_models import random_trajectories
from trainer.engine.deepspeed import World
from trainer.loop.scores import turns

ROWS = random_trajectories(13)


def world(rank: int, size: int, share: int) -> World:
    joined = Share(None, rank % share, share) if share > 1 else None
    return World(rank, size, torch.device("cpu"), joined)


@pytest.mark.parametrize(("size", "share"), [(1, 1), (3, 1), (2, 2), (4, 2), (6, 3)])
def test_every_trajectory_counts_once_and_all_processes_take_part_in_every_round(size: int, share: int) -> None:
    each = [list(turns(ROWS, 100, world(rank, size, share))) for rank in range(size)]
    assert len({len(rounds) for rounds in each}) == 1
    counted = Counter(row for rounds in each for turn in rounds if turn.counted for row in turn.rows)
    assert counted == Counter(range(len(ROWS)))
    for rounds in each:
        assert [turn.last for turn in rounds] == [False] * (len(rounds) - 1) + [True]
        for turn in rounds:
            assert [ROWS[row].trajectory_id for row in turn.rows] == [t.trajectory_id for t in turn.batch.trajectories]


@pytest.mark.parametrize(("size", "share"), [(2, 2), (4, 2), (6, 3)])
def test_processes_that_share_a_pack_get_the_same_one(size: int, share: int) -> None:
    each = [list(turns(ROWS, 100, world(rank, size, share))) for rank in range(size)]
    for first in range(0, size, share):
        for together in zip(*each[first : first + share], strict=True):
            assert len({tuple(turn.rows) for turn in together}) == 1
            assert len({turn.real for turn in together}) == 1
            assert [turn.counted for turn in together] == [together[0].real] + [False] * (share - 1)
