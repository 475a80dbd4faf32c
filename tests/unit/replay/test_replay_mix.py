"""Which rows a replay mix holds, in which order, and what stops it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from replay_store import make_experiment, make_store, reward_rows, rollout_rows, write_generation, write_table

from pipeline.errors import StoreError, TbrmError
from pipeline.replay.mix import Mix, resolve_mix, to_ranges
from pipeline.store import SCHEMAS, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path)


def ids(store: Store, mix: Mix) -> list[str]:
    return [i for _, table in mix.tables(store) for i in table["trajectory_id"].to_pylist()]


def test_window_takes_the_newest_generations_in_order(store: Store) -> None:
    made = {g: write_generation(store, "exp", g) for g in range(3)}
    mix = resolve_mix(store, make_experiment({"window": 2}), 2)
    expected = [row["trajectory_id"] for g in (2, 1) for shard in made[g] for row in shard]
    assert ids(store, mix) == expected
    assert [(p.generation, p.shard, p.lag) for p in mix.parts] == [(2, 0, 0), (2, 1, 0), (1, 0, 1), (1, 1, 1)]


def test_window_is_cut_at_the_first_generation(store: Store) -> None:
    write_generation(store, "exp", 0)
    assert {p.generation for p in resolve_mix(store, make_experiment({"window": 4}), 0).parts} == {0}


def test_a_lag_trains_behind_the_sampling(store: Store) -> None:
    for generation in range(4):
        write_generation(store, "exp", generation)
    replay = {"window": 2, "lag": 2}
    trained_on = [{p.generation for p in resolve_mix(store, make_experiment(replay), g).parts} for g in range(4)]
    assert trained_on == [{0}, {0}, {0}, {1, 0}]


def test_tables_carry_rewards_and_reference_of_the_same_row(store: Store) -> None:
    made = write_generation(store, "exp", 0)
    for part, table in resolve_mix(store, make_experiment(), 0).tables(store):
        for row, expected in zip(table.to_pylist(), made[part.shard], strict=True):
            assert row["reward"] == float(expected["response_token_ids"][0] % 2 == 0)
            assert len(row["ref_token_logprobs"]) == len(expected["response_token_ids"])


def test_label_versions_are_chosen_by_the_configuration(store: Store) -> None:
    rows = write_generation(store, "exp", 0)
    parents = {"exp/rollouts/generation=0000": store.partition("exp", "rollouts", 0).manifest().hash}
    write_table(store, "exp", "rewards@v2", 0, [reward_rows(s, lambda _: 0.25) for s in rows], parents)
    mix = resolve_mix(store, make_experiment({"rewards": "v2"}), 0)
    assert all(set(table["reward"].to_pylist()) == {0.25} for _, table in mix.tables(store))
    assert {part.rewards for part in mix.parts} == {"rewards@v2"}


@pytest.mark.parametrize(
    ("tables", "command"),
    [
        ((), "tbrm rewards --experiment exp --generation 0"),
        (("rewards",), "tbrm ref-logprobs --experiment exp --generation 0"),
    ],
)
def test_a_missing_table_names_the_command_that_makes_it(store: Store, tables: tuple[str, ...], command: str) -> None:
    write_generation(store, "exp", 0, tables=tables)
    with pytest.raises(StoreError, match=command):
        resolve_mix(store, make_experiment(), 0)


def test_pure_offline_reads_logged_data_only(store: Store) -> None:
    write_generation(store, "logged/ppo", 0, tables=("rewards", f"ref_logprobs@{'feedface' * 2}"))
    mix = resolve_mix(store, make_experiment({"logged": [{"name": "ppo"}]}, rollouts=None), 3)
    assert {part.source for part in mix.parts} == {"ppo"}
    assert mix.rows == 16


def test_missing_logged_data_set_lists_the_known_ones(store: Store) -> None:
    write_generation(store, "logged/ppo", 0)
    with pytest.raises(StoreError, match=r"'typo'.*known: ppo.*tbrm import --name typo"):
        resolve_mix(store, make_experiment({"logged": [{"name": "typo"}]}, rollouts=None), 0)


def test_another_reference_policy_is_refused(store: Store) -> None:
    write_generation(store, "exp", 0, reference="0123456789abcdef")
    with pytest.raises(StoreError, match="scored by reference 0123456789abcdef"):
        resolve_mix(store, make_experiment(), 0)


def test_logged_data_needs_scores_of_this_reference(store: Store) -> None:
    write_generation(store, "logged/ppo", 0, reference="0123456789abcdef")
    experiment = make_experiment({"logged": [{"name": "ppo"}]}, rollouts=None)
    with pytest.raises(StoreError, match=r"ref-logprobs .*--logged ppo --label feedface"):
        resolve_mix(store, experiment, 0)


def test_a_sidecar_of_other_rollouts_is_refused(store: Store) -> None:
    made = [rollout_rows("exp", 0, 0, 4, 2)]
    write_generation(store, "exp", 0, rollouts=made)
    with store.partition("exp", "rollouts", 0).writer("other", {}, replace=True) as writer:
        writer.write(0, pa.Table.from_pylist(made[0][::-1], SCHEMAS["rollouts"]))
        writer.commit(1)
    with pytest.raises(StoreError, match="made from other rollouts"):
        resolve_mix(store, make_experiment(), 0)


def test_a_partition_replaced_after_resolving_is_noticed(store: Store) -> None:
    write_generation(store, "exp", 0, shards=1)
    mix = resolve_mix(store, make_experiment(), 0)
    changed = [rollout_rows("exp", 0, 0, 4, 2, salt=1)]
    with store.partition("exp", "rollouts", 0).writer("other", {}, replace=True) as writer:
        writer.write(0, pa.Table.from_pylist(changed[0], SCHEMAS["rollouts"]))
        writer.commit(1)
    with pytest.raises(StoreError, match="replaced after the mix was resolved"):
        ids(store, mix)


FILTERS: list[tuple[dict[str, Any], Any, str]] = [
    ({"finish_reasons": ["stop"]}, lambda r: r["finish_reason"] == "stop", "finish_reason"),
    ({"max_response_tokens": 3}, lambda r: len(r["response_token_ids"]) <= 3, "length"),
    ({"min_response_tokens": 3}, lambda r: len(r["response_token_ids"]) >= 3, "length"),
]


@pytest.mark.parametrize(("filters", "wanted", "reason"), FILTERS)
def test_row_filters(store: Store, filters: dict[str, Any], wanted: Any, reason: str) -> None:
    made = write_generation(store, "exp", 0, prompts=10)
    mix = resolve_mix(store, make_experiment({"filters": filters}), 0)
    rows = [row for shard in made for row in shard]
    assert ids(store, mix) == [row["trajectory_id"] for row in rows if wanted(row)]
    assert mix.sources[0].dropped == {reason: len(rows) - mix.rows}


def test_success_rate_counts_every_response_to_the_prompt(store: Store) -> None:
    made = write_generation(store, "exp", 0, prompts=20, n=4)
    filters = {"success_rate": [0.25, 0.75], "finish_reasons": ["stop"]}
    mix = resolve_mix(store, make_experiment({"filters": filters}), 0)
    expected = []
    for shard in made:
        for row in shard:
            group = [r for r in shard if r["prompt_id"] == row["prompt_id"]]
            rate = np.mean([r["response_token_ids"][0] % 2 == 0 for r in group])
            if 0.25 <= rate <= 0.75 and row["finish_reason"] == "stop":
                expected.append(row["trajectory_id"])
    assert ids(store, mix) == expected


def test_status_filter(store: Store) -> None:
    write_generation(store, "exp", 0)
    with pytest.raises(TbrmError, match=r"empty.*status.*loosen `replay.filters`"):
        resolve_mix(store, make_experiment({"filters": {"statuses": ["timeout"]}}), 0)


def test_cap_per_prompt_is_seeded(store: Store) -> None:
    write_generation(store, "exp", 0, prompts=10, n=6)
    experiment = make_experiment({"max_per_prompt": 2})
    first = ids(store, resolve_mix(store, experiment, 0))
    assert len(first) == 2 * 10 * 2
    assert first == ids(store, resolve_mix(store, experiment, 0))
    assert first != ids(store, resolve_mix(store, make_experiment({"max_per_prompt": 2}, seed=4), 0))


def test_prompts_with_too_few_responses_left_are_left_out(store: Store) -> None:
    """After the other selections, which are what leaves a prompt with few."""
    write_generation(store, "exp", 0, prompts=10, n=6)
    assert resolve_mix(store, make_experiment({"min_per_prompt": 6}), 0).rows == 2 * 10 * 6
    with pytest.raises(TbrmError, match="min_per_prompt"):
        resolve_mix(store, make_experiment({"min_per_prompt": 4, "max_per_prompt": 3}), 0)

    def prompts(**replay: Any) -> list[str]:
        mix = resolve_mix(store, make_experiment({"filters": {"min_response_tokens": 3}} | replay), 0)
        return [prompt for _, table in mix.tables(store) for prompt in table["prompt_id"].to_pylist()]

    usual, left = prompts(), prompts(min_per_prompt=5)
    assert left == [prompt for prompt in usual if usual.count(prompt) >= 5]
    assert 0 < len(left) < len(usual)


def test_duplicates_stay_once_and_the_freshest_wins(store: Store) -> None:
    old = [rollout_rows("exp", 0, 0, 4, 2)]
    new = [[row | {"trajectory_id": f"new{i}", "generation": 1} for i, row in enumerate(old[0])] * 1]
    write_generation(store, "exp", 0, rollouts=old)
    write_generation(store, "exp", 1, rollouts=new)
    mix = resolve_mix(store, make_experiment({"window": 2, "dedup": True}), 1)
    distinct = {(tuple(r["prompt_token_ids"]), tuple(r["response_token_ids"])) for r in old[0]}
    assert len(ids(store, mix)) == len(distinct)
    assert all(i.startswith("new") for i in ids(store, mix))


def test_weights_bring_sources_into_proportion_without_repeating(store: Store) -> None:
    write_generation(store, "exp", 0, prompts=50, n=2)
    write_generation(store, "logged/ppo", 0, prompts=500, n=2)
    replay = {"generation_weight": 3, "logged": [{"name": "ppo", "weight": 1}]}
    mix = resolve_mix(store, make_experiment(replay), 0)
    kept = {s.source: s.kept for s in mix.sources}
    assert kept["generation"] == 200
    assert 65 <= kept["ppo"] <= 67
    assert len(set(ids(store, mix))) == mix.rows
    chosen = [row for _, t in mix.tables(store) for row in t.select(["prompt_id", "trajectory_id"]).to_pylist()]
    assert len(chosen) == mix.rows


def test_decay_weights_generations(store: Store) -> None:
    for g in range(3):
        write_generation(store, "exp", g, prompts=64, n=2)
    mix = resolve_mix(store, make_experiment({"window": 3, "generation_decay": 0.5}), 2)
    assert [s.kept for s in mix.sources] == [256, 128, 64]


def test_json_names_shards_rows_and_parents(store: Store) -> None:
    write_generation(store, "exp", 0)
    tree = resolve_mix(store, make_experiment(), 0).to_json()
    assert tree["rows"] == 16
    assert tree["parts"][0]["rows"] == [[0, 8]]
    assert set(tree["parents"]) == {f"exp/{t}/generation=0000" for t in ("rollouts", "rewards", "ref_logprobs")}


def test_imitation_needs_no_reference(store: Store) -> None:
    write_generation(store, "exp", 0, tables=("rewards",))
    mix = resolve_mix(store, make_experiment(training={"objective": "imitation"}), 0)
    assert all(t["ref_token_logprobs"].null_count == t.num_rows for _, t in mix.tables(store))


def test_ranges() -> None:
    assert to_ranges(np.array([0, 1, 2, 7, 9, 10], dtype=np.int32)) == [[0, 3], [7, 8], [9, 11]]
    assert to_ranges(np.array([], dtype=np.int32)) == []
