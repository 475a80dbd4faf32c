"""The evaluation stage on a real tiny policy: skipped when done, resumed when killed, extended and regraded."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from evals.report.leaderboard import standings
from evals.run.grading import run_regrade
from evals.run.plan import setting_of
from evals.run.responses import Sampler
from evals.run.stage import run_evaluate
from evals.statistics.compare import compare_policies
from evals.statistics.scores import read_scores
from pipeline.cli.main import tbrm
from pipeline.errors import StoreError, TbrmError
from pipeline.store import Store
from tests.support.evals_store import publish, tiny_experiment

KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
from tests.support.evals_store import tiny_experiment
from evals.run.responses import Sampler
from evals.run.stage import run_evaluate
from pipeline.store import open_store

sample, calls = Sampler.sample, []

def dying(self, entry, problems):
    calls.append(entry.name)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return sample(self, entry, problems)

Sampler.sample = dying
run_evaluate(tiny_experiment(), open_store({root!r}), 0)
"""


def shard_bytes(store: Store, dataset: str = "exp") -> dict[str, bytes]:
    """Every response shard of a dataset by path below the root."""
    base = Path(store.base)
    return {str(p.relative_to(base)): p.read_bytes() for p in base.glob(f"{dataset}/responses@*/*/shard-*.parquet")}


def test_greedy_and_sampled_in_one_experiment(store: Store) -> None:
    report = run_evaluate(tiny_experiment(), store, 0)
    assert (report.rows, report.skipped) == (16 + 64, False)
    scores = read_scores(store, "exp", 0)
    assert scores["heldout"].correct.shape == (16, 1)
    assert scores["heldout_sampled"].correct.shape == (16, 4)
    assert scores["heldout"].protocol["temperature"] == 0
    assert scores["heldout_sampled"].problem_ids == scores["heldout"].problem_ids
    for name in ("heldout", "heldout_sampled"):
        low, value, high = (report.metrics[f"{name}_accuracy{end}"] for end in ("_low", "", "_high"))
        assert 0 <= low <= value <= high <= 1


def test_a_second_run_is_skipped_and_an_added_benchmark_joins(store: Store) -> None:
    run_evaluate(tiny_experiment(benchmarks=["heldout"]), store, 0)
    before = read_scores(store, "exp", 0)["heldout"]
    assert run_evaluate(tiny_experiment(benchmarks=["heldout"]), store, 0).skipped
    report = run_evaluate(tiny_experiment(), store, 0, ["heldout_sampled"])
    assert not report.skipped
    after = read_scores(store, "exp", 0)
    assert list(after) == ["heldout", "heldout_sampled"]
    assert after["heldout"].extracted.tolist() == before.extracted.tolist()
    assert run_evaluate(tiny_experiment(), store, 0).skipped


def test_another_protocol_needs_replace(store: Store) -> None:
    run_evaluate(tiny_experiment(), store, 0)
    changed = tiny_experiment(protocols={"heldout_sampled": {"samples": 2, "benchmark": "heldout", "temperature": 1}})
    with pytest.raises(StoreError, match=r"heldout_sampled by another protocol.*--replace"):
        run_evaluate(changed, store, 0)
    report = run_evaluate(changed, store, 0, replace=True)
    assert report.metrics["heldout_sampled_samples"] == 2
    assert len(list(Path(store.base).glob("exp/scores/generation=0000.replaced-*"))) == 1


def test_killed_evaluation_resumes_with_the_same_responses(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    script = KILLED.format(path=[str(Path.cwd())], root=store.root)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not store.partition("exp", "scores", 0).is_committed()
    kept = shard_bytes(store)
    assert len(kept) == 3

    calls: list[int] = []
    sample = Sampler.sample

    def counted(self: Sampler, entry: Any, problems: Any) -> Any:
        calls.append(len(problems))
        return sample(self, entry, problems)

    monkeypatch.setattr(Sampler, "sample", counted)
    run_evaluate(tiny_experiment(), store, 0)
    resumed = shard_bytes(store)
    assert len(calls) == 10 - 3
    assert kept.items() <= resumed.items()
    for path in Path(store.base).glob("exp/responses@*/*/_manifest.json"):
        path.unlink()
        for shard in path.parent.glob("shard-*"):
            shard.unlink()
    run_evaluate(tiny_experiment(), store, 0, replace=True)  # scored already: nothing is sampled
    assert len(calls) == 7


def test_uninterrupted_run_gives_the_same_bytes(store: Store, tmp_path: Path) -> None:
    from pipeline.store import open_store

    run_evaluate(tiny_experiment(), store, 0)
    other = open_store(str(tmp_path / "other"))
    publish(other, 0, seed=0)
    run_evaluate(tiny_experiment(), other, 0)
    assert shard_bytes(store) == shard_bytes(other)


def test_regrading_stands_beside_the_old_scores(store: Store) -> None:
    run_evaluate(tiny_experiment(), store, 0)
    before = store.partition("exp", "scores", 0).manifest()
    rewards = setting_of(tiny_experiment()).rewards
    report = run_regrade(store, "exp", 0, rewards, "math", "math_verify")
    assert (report.rows, report.skipped) == (80, False)
    old, new = read_scores(store, "exp", 0), read_scores(store, "exp", 0, "math")
    assert old["heldout"].verifier.startswith("exact_integer ")
    assert new["heldout"].verifier.startswith("math_verify ")
    assert new["heldout"].responses == old["heldout"].responses
    assert store.partition("exp", "scores", 0).manifest() == before
    assert run_regrade(store, "exp", 0, rewards, "math", "math_verify").skipped
    with pytest.raises(StoreError, match="replace"):
        run_regrade(store, "exp", 0, rewards, "math", "plain")


def test_two_policies_are_compared_problem_by_problem(store: Store) -> None:
    publish(store, 1, seed=1)
    for generation in (0, 1):
        run_evaluate(tiny_experiment(), store, generation)
    found = {one.benchmark: one for one in compare_policies(store, ("exp", 0), ("exp", 1))}
    assert found["heldout"].problems == 16
    assert found["heldout"].difference.low <= 0 <= found["heldout"].difference.high
    assert [standing.name for standing in standings(store)] in (["exp:0", "exp:1"], ["exp:1", "exp:0"])


def test_a_folder_is_evaluated_without_an_experiment(store: Store, tmp_path: Path) -> None:
    folder = publish(store, 0, seed=0)
    sums = [{"id": f"s{i}", "problem": f"{i}+12=", "answer": str(i + 12)} for i in range(10, 14)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums), encoding="utf-8")
    (tmp_path / "sums.yaml").write_text("name: sums\nproblems: sums.jsonl\n", encoding="utf-8")
    root = ["--root", store.root]
    arguments = ["evaluate", str(folder), "-b", "sums", "--source", str(tmp_path), "--template", "raw"]
    result = CliRunner().invoke(tbrm, [*arguments, "--max-tokens", "4", "--root", store.root])
    assert result.exit_code == 0, result.output
    assert "Avg@1 greedy, 4 tokens, raw" in result.output
    again = CliRunner().invoke(tbrm, [*arguments, "--max-tokens", "4", "--root", store.root, "--json"])
    assert '"skipped": true' in again.output
    graded = CliRunner().invoke(
        tbrm, ["regrade", str(folder), "--label", "exact", "--verifier", "exact_integer", *root]
    )
    assert graded.exit_code == 0, graded.output
    refused = CliRunner().invoke(tbrm, ["regrade", str(folder), "--label", "x", "--set", "rewards.workers=1", *root])
    assert "--set needs --experiment" in refused.output
    board = CliRunner().invoke(tbrm, ["leaderboard", "--root", store.root, "--json"])
    assert json.loads(board.output)[0]["accuracy"]["sums"]["low"] == 0


def test_commands_over_generations(store: Store, tmp_path: Path) -> None:
    publish(store, 1, seed=1)
    for generation in (0, 1):
        run_evaluate(tiny_experiment(), store, generation)
    root = ["--root", store.root]
    compared = CliRunner().invoke(tbrm, ["compare", "exp:0", "exp:latest", *root, "--json"])
    assert {one["benchmark"] for one in json.loads(compared.output)} == {"heldout", "heldout_sampled"}
    assert "told apart" in CliRunner().invoke(tbrm, ["compare", "exp:0", "exp:1", *root]).output
    board = CliRunner().invoke(tbrm, ["leaderboard", "--paper", *root])
    assert "exp:1" in board.output
    nothing = CliRunner().invoke(tbrm, ["leaderboard", "--root", str(tmp_path / "empty")])
    assert nothing.exit_code == 1
    assert "nothing is scored" in nothing.output


def test_errors_tell_the_next_step(store: Store) -> None:
    with pytest.raises(TbrmError, match="no benchmark 'nonsense'"):
        run_evaluate(tiny_experiment(), store, 0, ["nonsense"])
    with pytest.raises(TbrmError, match=r"2 samples at temperature 0"):
        run_evaluate(tiny_experiment(protocols={"heldout": {"samples": 2}}), store, 0)
    with pytest.raises(StoreError, match=r"policy\[2\].*tbrm run"):
        run_evaluate(tiny_experiment(), store, 2)
    with pytest.raises(TbrmError, match=r"is not there yet"):
        compare_policies(store, ("exp", 0), ("exp", 0))
