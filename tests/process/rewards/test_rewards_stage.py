import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from pipeline.errors import StoreError, TbrmError
from pipeline.rewards.audit import audit_experiment
from pipeline.rewards.stage import run_rewards
from pipeline.store import Store, check_aligned, open_store
from tests.support.reward_store import experiment, fill

HERE = Path(__file__).parent


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "root"))


def labels(store: Store, table: str = "rewards") -> list[dict[str, object]]:
    partition = store.partition("toy", table, 0)
    return [row for _, rows in partition.iter_shards() for row in rows.to_pylist()]


def test_rollout_shards_become_aligned_reward_shards(store: Store) -> None:
    fill(store)
    report = run_rewards(experiment(), store, 0)
    assert (report.rows, report.skipped) == (36, False)
    for index, rollouts in store.partition("toy", "rollouts", 0).iter_shards():
        check_aligned(rollouts, store.partition("toy", "rewards", 0).read_shard(index), "test")
    rows = labels(store)
    # Shard 1 holds prompts 7 to 12: 7/7 is right as 1 as well, but nobody answered 1.
    assert [row["reward"] for row in rows] == [1.0, 0.0, 0.0] * 12
    assert [row["status"] for row in rows[:3]] == ["ok", "ok", "wrong_format"]
    assert dict(rows[0]["components"]) == {"correctness": 1.0, "format": 1.0, "length": 0.0}  # type: ignore[call-overload]
    assert {(row["verifier"], row["verifier_version"]) for row in rows} == {("math_verify", "0.9.0+2")}
    assert report.metrics["status_wrong_format"] == 12
    assert report.metrics["reward_mean"] == pytest.approx(1 / 3)
    assert report.metrics["undecided_share"] == 0.0
    assert report.metrics["audit_disagreement_share"] == 0.0


def test_a_second_run_is_skipped_and_another_verifier_refused_without_replace(store: Store) -> None:
    fill(store)
    run_rewards(experiment(), store, 0)
    assert run_rewards(experiment(workers=2, batch=3), store, 0).skipped
    with pytest.raises(StoreError, match="--replace"):
        run_rewards(experiment(verifier="exact_integer"), store, 0)
    assert not run_rewards(experiment(verifier="exact_integer"), store, 0, replace=True).skipped


def test_labels_can_be_redone_beside_the_old_ones(store: Store) -> None:
    fill(store, verifier="math_verify")
    run_rewards(experiment(), store, 0)
    report = run_rewards(experiment(), store, 0, label="v2", verifier="plain")
    assert not report.skipped
    assert {row["verifier"] for row in labels(store, "rewards@v2")} == {"plain"}
    assert {row["verifier"] for row in labels(store)} == {"math_verify"}


def test_undeclared_code_in_the_data_is_refused_before_any_work(store: Store) -> None:
    fill(store, verifier="user_verifiers:slow")
    with pytest.raises(TbrmError, match="does not declare"):
        run_rewards(experiment(), store, 0)
    assert not store.partition("toy", "rewards", 0).is_committed()


def test_token_rewards_of_a_declared_verifier_are_stored(store: Store) -> None:
    fill(store, verifier="user_verifiers:by_length")
    run_rewards(experiment(user_verifiers=["user_verifiers:by_length"], token_rewards=True), store, 0)
    assert all(row["token_rewards"] == [0.5, 0.5, 0.5] for row in labels(store))


def test_token_rewards_of_the_wrong_length_are_an_error_of_that_row(store: Store) -> None:
    fill(store, shards=1)
    report = run_rewards(experiment(verifier="user_verifiers:two_token_rewards"), store, 0)
    assert report.metrics["status_error"] == 18
    assert labels(store)[0]["detail"] == "2 token rewards for 3 response tokens"


def test_an_orphan_rollout_is_named(store: Store) -> None:
    fill(store, shards=1)
    prompts = store.partition("toy", "prompts", 0)
    fewer = prompts.read_shard(0).slice(1)
    with prompts.writer("other", {}, replace=True) as writer:
        writer.write(0, fewer)
        writer.commit(1)
    with pytest.raises(StoreError, match="shard 0 row 0: prompt 'p1' is not in shard 0"):
        run_rewards(experiment(), store, 0)


def test_a_killed_stage_repeats_at_most_one_shard_and_ends_with_the_same_bytes(tmp_path: Path, store: Store) -> None:
    fill(store, shards=4)
    config = "verifier='user_verifiers:slow', audit_sample=0"
    script = tmp_path / "label.py"
    script.write_text(
        f"import sys\nsys.path[:0] = [{str(HERE)!r}, {str(Path.cwd())!r}]\n"
        "from tests.support.reward_store import experiment\nfrom pipeline.rewards.stage import run_rewards\n"
        "from pipeline.store import open_store\n"
        f"if __name__ == '__main__':\n    run_rewards(experiment({config}), open_store({store.root!r}), 0)\n"
    )
    folder = Path(store.partition("toy", "rewards", 0).path)
    with subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL) as process:
        while not (folder / "_shard-00001.json").exists() and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    done = {path.name: path.stat().st_mtime_ns for path in sorted(folder.glob("shard-*.parquet"))[:2]}
    assert 2 <= len(done) < 4
    label = experiment(verifier="user_verifiers:slow", audit_sample=0)
    assert run_rewards(label, store, 0).rows == 72
    assert all((folder / name).stat().st_mtime_ns == written for name, written in done.items())

    whole = open_store(str(tmp_path / "whole"))
    fill(whole, shards=4)
    run_rewards(label, whole, 0)
    assert (
        whole.partition("toy", "rewards", 0).manifest().shards == store.partition("toy", "rewards", 0).manifest().shards
    )


def test_the_audit_lists_rewarded_responses_that_a_second_method_calls_wrong(store: Store) -> None:
    fill(store, shards=1)
    label = experiment(audit_sample=0)
    run_rewards(label, store, 0)
    rewards = store.partition("toy", "rewards", 0)
    shard = rewards.read_shard(0)
    rows = shard.to_pylist()
    rows[1] = rows[1] | {"reward": 1.0, "components": [("correctness", 1.0)]}  # as if the verifier had been fooled
    rows[3] = rows[3] | {"reward": 0.0, "components": [("correctness", 0.0)]}
    with rewards.writer("fooled", {}, replace=True) as writer:
        writer.write(0, pa.Table.from_pylist(rows, shard.schema))
        writer.commit(1)
    (found,) = audit_experiment(label, store, [], None, 500)
    assert [line.trajectory_id for line in found.rewarded] == [rows[1]["trajectory_id"]]
    assert [line.trajectory_id for line in found.unrewarded] == [rows[3]["trajectory_id"]]
    assert found.disagreement_share == pytest.approx(2 / 18)
    assert found.rewarded[0].second_detail == "as numbers: 1, 1/7"


def test_audit_command_prints_false_positives_first(store: Store) -> None:
    from pipeline.cli.main import tbrm

    fill(store, shards=1)
    run_rewards(experiment(), store, 0)
    result = CliRunner().invoke(tbrm, ["rewards", "audit", "arith_tiny", "--dataset", "toy", "--root", store.root])
    assert result.exit_code == 0, result.output
    assert "generation 0: 18 sampled, 0 rewarded but called wrong" in result.output
    as_json = CliRunner().invoke(
        tbrm, ["rewards", "audit", "arith_tiny", "--dataset", "toy", "--root", store.root, "--json"]
    )
    assert json.loads(as_json.output)[0]["sampled"] == 18


def test_rewards_command_asks_for_what_it_needs(store: Store) -> None:
    from pipeline.cli.main import tbrm

    result = CliRunner().invoke(tbrm, ["rewards", "--experiment", "arith_tiny"])
    assert result.exit_code == 2
    assert "--generation" in result.output
