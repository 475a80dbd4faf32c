"""The evaluation harness on responses whose score is known: gold answers, shuffled ones, nothing, and logged rollouts.

    python -m benchmarks.harness_truth --data ../shared/data     # writes benchmarks/results/harness_truth.json

Every response takes the whole way: stored as a benchmark response, graded into `scores`, read back, summarized. Also
measured: how fast stored responses are graded again.
"""

import argparse
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evals.benchmarks.registry import SUITES
from evals.run.answers import Answer, Question
from evals.run.grading import run_regrade
from evals.run.plan import (
    Changes,
    Entry,
    FullProtocol,
    Setting,
    changed,
    plan_entries,
    setting_without_experiment,
)
from evals.run.stage import evaluate
from evals.run.targets import Target
from evals.statistics.metrics import summarize
from evals.statistics.scores import read_scores
from pipeline.config.rewards import RewardsConfig
from pipeline.policies.refs import PolicyRef
from pipeline.prompts import Problem
from pipeline.store import Store, open_store

GROUP = 8
ROUNDS = 3
_RUN = re.compile(r"/(grpo_on_policy_lr1e-5|question_only)/step(\d+)")


class Scripted:
    """Answers by a function of problem and sample."""

    name, version = "scripted", "1"

    def __init__(self, text: Callable[[Problem, int], str]) -> None:
        self.text = text

    def answer(self, questions: Sequence[Question], protocol: FullProtocol) -> list[Answer]:
        del protocol
        texts = [self.text(question.problem, question.sample_index) for question in questions]
        return [Answer("", [], text, None, len(text.split()), "stop") for text in texts]

    def close(self) -> None:
        """There is nothing to give back."""


def target(name: str) -> Target:
    return Target(PolicyRef(name, name), f"evaluated/{name}", 0)


def run(store: Store, setting: Setting, name: str, entries: list[Entry], text: Callable[[Problem, int], str]) -> Any:
    evaluate(setting, store, target(name), entries, answerer=Scripted(text))
    return read_scores(store, f"evaluated/{name}", 0)


def benchmark_rows(
    store: Store, setting: Setting, folder: Path, problems: int | None = None
) -> list[dict[str, object]]:
    """Accuracy of gold, of other problems', and of empty answers on each of the six (their first `problems`)."""
    entries = plan_entries(changed(setting, Changes(max_problems=problems)), SUITES["paper"], str(folder))
    # The paper's 32 samples would be 32 times the same text.
    entries = [replace(e, protocol=replace(e.protocol, samples=1, temperature=0.0)) for e in entries]
    wrong = {}
    for entry in entries:
        answers = [problem.answer for problem in entry.problems]
        for row, problem in enumerate(entry.problems):
            wrong[problem.id] = next(a for a in answers[row + 1 :] + answers[:row] if a != problem.answer)
    gold = run(store, setting, "gold", entries, lambda problem, _: f"The answer is \\boxed{{{problem.answer}}}.")
    other = run(
        store, setting, "shuffled", entries, lambda problem, _: f"The answer is \\boxed{{{wrong[problem.id]}}}."
    )
    empty = run(store, setting, "empty", entries, lambda problem, _: "")
    rows: list[dict[str, object]] = []
    for entry in entries:
        row: dict[str, object] = {"benchmark": entry.name, "problems": len(entry.problems)}
        for name, scores in (("gold", gold), ("shuffled", other), ("empty", empty)):
            found = summarize(scores[entry.name])
            row |= {name: found.accuracy.value, f"{name}_unparsed": found.unparsed.value}
        rows.append(row)
    return rows


def logged_rows(store: Store, setting: Setting, path: Path) -> list[dict[str, object]]:
    """Our labels beside the logged ones: each step of a run is a problem, its group of responses are the samples."""
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for line in path.open(encoding="utf-8"):
        row = json.loads(line)
        found = _RUN.search(row["policy"])
        assert found, row["policy"]
        runs.setdefault(found[1], {}).setdefault(f"step-{found[2]}", []).append(row)
    rows: list[dict[str, object]] = []
    for name, groups in runs.items():
        tagged = name.startswith("grpo_on_policy")
        verifier = "r1_format" if tagged else "math_verify"
        problems = [Problem(step, group[0]["prompt"], group[0]["answer"], name) for step, group in groups.items()]
        protocol = FullProtocol(name, GROUP, 1.0, 1.0, 1024, None, "raw")
        entry = Entry("logged_r1" if tagged else "logged_boxed", problems, protocol, name)
        graded = replace(setting, rewards=RewardsConfig(verifier=verifier, require_boxed=not tagged))
        scores = run(store, graded, entry.name, [entry], lambda p, s, groups=groups: groups[p.id][s]["response"])
        ours = scores[entry.name].correct > 0.5
        theirs = np.array([[row["is_correct"] for row in group] for group in groups.values()])
        rows.append(
            {
                "run": name,
                "verifier": verifier,
                "responses": int(ours.size),
                "logged_accuracy": float(theirs.mean()),
                "our_accuracy": float(ours.mean()),
                "agree": int((ours == theirs).sum()),
                "logged_right_ours_wrong": int((theirs & ~ours).sum()),
                "logged_wrong_ours_right": int((~theirs & ours).sum()),
            }
        )
    return rows


def regrade_rows(store: Store, setting: Setting) -> list[dict[str, object]]:
    """Seconds to grade stored responses again, processes and imports included."""
    rows: list[dict[str, object]] = []
    for name, verifier in (("gold", "math_verify"), ("logged_boxed", "math_verify"), ("logged_r1", "r1_format")):
        seconds: list[float] = []
        count = 0
        for attempt in range(ROUNDS):
            started = time.perf_counter()
            report = run_regrade(store, f"evaluated/{name}", 0, setting.rewards, f"again{attempt}", verifier)
            seconds.append(time.perf_counter() - started)
            count = report.rows
        best = sorted(seconds)[len(seconds) // 2]
        rows.append({"responses_of": name, "responses": count, "seconds": round(best, 2), "per_s": round(count / best)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with benchmarks/ and logged/")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "harness_truth.json")
    options = parser.parse_args()
    setting = setting_without_experiment()
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        result: dict[str, object] = {
            "what": "accuracy of responses with known scores; labels of logged rollouts; speed of grading again",
            "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()},
            "benchmarks": benchmark_rows(store, setting, options.data / "benchmarks"),
            "logged": logged_rows(store, setting, options.data / "logged" / "qwen25math1p5b_grpo_rollouts.jsonl"),
            "regrade": regrade_rows(store, setting),
        }
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
