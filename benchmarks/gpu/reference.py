"""Part 7: scoring the reference, and what is left of Σ(lp - ref) at θ = θ_ref when packs differ."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.measure import device, free_memory, peak_gb, synchronize
from benchmarks.gpu.shapes import Sizes, model_folder, trajectories
from pipeline.config.policy import PolicyConfig
from pipeline.policies.load_save import load_model
from pipeline.scoring.scoring import score_trajectories


def reference(sizes: Sizes, work: Path) -> Iterator[dict[str, Any]]:
    """Tokens a second in packs of each size, and the log-ratio of a response between two packings, in bf16 (nats)."""
    config = PolicyConfig(base="random", dtype="bfloat16")
    model = load_model(str(model_folder(sizes.small, work)), config).to(device())
    rows = trajectories(sizes.small.vocabulary, sizes.trajectories // 4, 1, sizes.response_tokens)
    prompts, responses = [list(t.prompt_ids) for t in rows], [list(t.response_ids) for t in rows]
    tokens = sum(map(len, prompts)) + sum(map(len, responses))
    score_trajectories(model, prompts[:2], responses[:2], max(sizes.micro_tokens))
    first: list[Any] | None = None
    found: list[dict[str, Any]] = []
    for budget in sorted(sizes.micro_tokens):
        free_memory()
        synchronize()
        started = time.perf_counter()
        scores = score_trajectories(model, prompts, responses, budget)
        synchronize()
        taken = time.perf_counter() - started
        row: dict[str, Any] = {"pack_tokens": budget, "tokens_per_second": tokens / taken, "peak_gb": peak_gb()}
        if first is not None:
            sums = np.array([float(a[0].sum() - b[0].sum()) for a, b in zip(scores, first, strict=True)])
            each = np.concatenate([a[0] - b[0] for a, b in zip(scores, first, strict=True)])
            row["against_smallest_packs"] = {
                "mean_abs_logratio_of_response": float(np.abs(sums).mean()),
                "max_abs_logratio_of_response": float(np.abs(sums).max()),
                "mean_abs_difference_of_token": float(np.abs(each).mean()),
            }
        else:
            first = scores
        found.append(row)
        yield {"tokens": tokens, "trajectories": len(rows), "rows": found}
