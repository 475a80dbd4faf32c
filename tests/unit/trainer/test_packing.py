"""Packs: every trajectory whole and once, within the budget, balanced, pairs together."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import TbrmError
from pipeline.scoring.batch import Trajectory, lay_out, pack


def trajectory(index: int, prompt: int, response: int, group: int = 0) -> Trajectory:
    ids = np.arange(index * 100, index * 100 + prompt + response, dtype=np.int32)
    return Trajectory(
        trajectory_id=f"t{index}",
        prompt_id=f"p{group}",
        prompt_ids=ids[:prompt],
        response_ids=ids[prompt:],
        response_mask=np.ones(response, bool),
        reward=float(index),
        ref_logprobs=-np.arange(1, response + 1, dtype=np.float32),
    )


SIZES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 60), st.integers(0, 3)), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, budget=st.integers(1, 300), pairs=st.booleans(), multiple=st.integers(1, 4))
def test_any_batch(sizes: list[tuple[int, int, int]], budget: int, pairs: bool, multiple: int) -> None:
    rows = [trajectory(i, *size) for i, size in enumerate(sizes)]
    packs = pack(rows, budget, pairs=pairs, multiple_of=multiple)
    assert Counter(t.trajectory_id for p in packs for t in p.trajectories) == Counter(t.trajectory_id for t in rows)
    for p in packs:
        groups = Counter(t.prompt_id for t in p.trajectories)
        # Over the budget only where a unit that must not be cut is: one trajectory, or the two or three of a pair unit.
        assert p.input_ids.numel() <= budget or len(p.trajectories) <= (3 if pairs and len(groups) == 1 else 1)
    again = pack(rows, budget, pairs=pairs, multiple_of=multiple)
    assert [p.input_ids.tolist() for p in again] == [p.input_ids.tolist() for p in packs]
    met = Counter(p.trajectories[i].prompt_id for p in packs for pair in p.pairs.tolist() for i in pair[:1])
    sizes_of = Counter(t.prompt_id for t in rows)
    assert met == (Counter({g: (n + 1) // 2 for g, n in sizes_of.items() if n > 1}) if pairs else Counter())
    for p in packs:
        assert all(p.trajectories[a].prompt_id == p.trajectories[b].prompt_id for a, b in p.pairs.tolist())


def test_packs_are_balanced_and_few() -> None:
    rng = np.random.default_rng(0)
    rows = [trajectory(i, 20, int(n)) for i, n in enumerate(np.clip(rng.lognormal(5, 1, 256), 8, 1024))]
    packs = pack(rows, 8_192)
    loads = [p.input_ids.numel() for p in packs]
    assert len(packs) <= -(-sum(loads) // 8_192) + 1
    assert max(loads) - min(loads) < 64


def test_one_pack_for_each_process() -> None:
    rows = [trajectory(i, 4, 10) for i in range(9)]
    assert len(pack(rows, 10**6, multiple_of=4)) == 4
    assert len(pack(rows[:2], 10**6, multiple_of=4)) == 2


def test_layout_of_a_pack() -> None:
    batch = lay_out([trajectory(0, 2, 3), trajectory(1, 1, 2)])
    assert batch.input_ids.tolist() == [[0, 1, 2, 3, 4, 100, 101, 102]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert batch.boundaries.tolist() == [0, 5, 8]
    assert batch.input_ids[0, batch.predict + 1].tolist() == batch.targets.tolist() == [2, 3, 4, 101, 102]
    assert (batch.first.tolist(), batch.last.tolist(), batch.seq.tolist()) == ([0, 3], [2, 4], [0, 0, 0, 1, 1])
    assert batch.token_reward.tolist() == [0, 0, 0, 0, 1]
    assert batch.per_trajectory(batch.ref_logprobs).tolist() == [-6, -3]


def test_nothing_gives_no_pack() -> None:
    assert pack([], 100) == []


@pytest.mark.parametrize(("prompt", "response"), [(0, 3), (3, 0)])
def test_rows_without_prompt_or_policy_tokens_are_named(prompt: int, response: int) -> None:
    with pytest.raises(TbrmError, match=r"trajectory t1 of generation has no .* drop the row"):
        pack([trajectory(0, 2, 2), trajectory(1, prompt, response)], 100)


def test_columns_of_another_length_are_named() -> None:
    row = trajectory(5, 2, 4)
    object.__setattr__(row, "ref_logprobs", row.ref_logprobs[:3])
    with pytest.raises(TbrmError, match="t5 of generation: ref_logprobs has 3 entries for 4 response tokens"):
        pack([row], 100)
