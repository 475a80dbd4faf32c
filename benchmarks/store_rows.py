"""Generated trajectories for the benchmarks of the store, and the machine that they run on."""

import contextlib
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Experiment, build_experiment
from pipeline.store import SCHEMAS, Store, trajectory_id

RESULTS = Path(__file__).parent / "results"
EXPERIMENT, REFERENCE = "bench", "feedfacefeedface"
SHARD_ROWS, PER_PROMPT = 4_096, 4
PROMPT_TOKENS, RESPONSE_TOKENS, VOCABULARY = 64, 128, 32_000
TOKEN_BUDGET = 16_384


def experiment() -> Experiment:
    return build_experiment(
        {
            "name": EXPERIMENT,
            "generations": 1,
            "policy": {"base": "builtin:tiny-arith"},
            "prompts": {"source": "arithmetic", "per_generation": 8},
            "rollouts": {"n": PER_PROMPT},
            "training": {"micro_batch_tokens": TOKEN_BUDGET},
        },
        "benchmark",
    )


def generated(shard: int, rows: int) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Rollouts, rewards and reference log-probs of one shard. Tokens follow Zipf's law, lengths are log-normal."""
    rng = np.random.default_rng(shard)
    lengths = np.clip(rng.lognormal(np.log(RESPONSE_TOKENS) - 0.18, 0.6, rows), 4, 2_048).astype(np.int32)
    prompts = -(-rows // PER_PROMPT)
    prompt_lengths = rng.integers(PROMPT_TOKENS // 2, PROMPT_TOKENS * 3 // 2, prompts)
    prompt_tokens = pa.ListArray.from_arrays(_offsets(prompt_lengths), _tokens(rng, int(prompt_lengths.sum())))
    prompt_of = np.arange(rows) // PER_PROMPT
    response_tokens = _tokens(rng, int(lengths.sum()))
    logprobs = -rng.exponential(0.4, len(response_tokens)).astype(np.float32)
    names = [f"p{shard:05d}-{p:05d}" for p in prompt_of]
    samples = np.arange(rows, dtype=np.int32) % PER_PROMPT
    ids = pa.array([trajectory_id(EXPERIMENT, 0, name, int(s)) for name, s in zip(names, samples, strict=True)])
    words = pa.array([_word(i) for i in range(VOCABULARY)]).take(pa.array(response_tokens))
    seeds = rng.integers(0, 2**62, rows)
    sampling = pa.StructArray.from_arrays(
        [
            pa.array(np.ones(rows)),
            pa.array(np.ones(rows)),
            pa.array(np.full(rows, 2_048, np.int32)),
            pa.array(seeds),
            pa.array(["vllm"] * rows),
            pa.array(["0.32.0"] * rows),
        ],
        fields=list(SCHEMAS["rollouts"].field("sampling").type),
    )
    rollouts = pa.table(
        {
            "trajectory_id": ids,
            "prompt_id": names,
            "sample_index": samples,
            "prompt_token_ids": prompt_tokens.take(pa.array(prompt_of)),
            "response_token_ids": pa.ListArray.from_arrays(_offsets(lengths), response_tokens),
            "response_text": pc.binary_join(pa.ListArray.from_arrays(_offsets(lengths), words), ""),
            "finish_reason": np.where(lengths < 2_048, "stop", "length"),
            "policy_id": ["0123456789abcdef"] * rows,
            "generation": np.zeros(rows, np.int32),
            "sampling": sampling,
            "behavior_logprobs": pa.ListArray.from_arrays(_offsets(lengths), logprobs),
        }
    )
    right = rng.random(rows) < 0.5
    rewards = pa.table(
        {
            "trajectory_id": ids,
            "reward": right.astype(np.float64),
            "status": np.where(right | (rng.random(rows) < 0.9), "ok", "wrong_format"),
            "verifier": ["math_verify"] * rows,
            "verifier_version": ["0.9.0"] * rows,
            "extracted_answer": [str(n) for n in rng.integers(0, 1_000, rows)],
        }
    )
    reference = (logprobs + rng.normal(0, 0.05, len(logprobs))).astype(np.float32)
    sums = np.add.reduceat(reference.astype(np.float64), np.cumsum(lengths) - lengths)
    scored = pa.table(
        {
            "trajectory_id": ids,
            "ref_logprob_sum": sums,
            "ref_token_logprobs": pa.ListArray.from_arrays(_offsets(lengths), reference),
            "ref_value_first": rng.normal(30, 2, rows),
            "ref_policy_id": [REFERENCE] * rows,
        }
    )
    return rollouts, rewards, scored


def _offsets(lengths: npt.NDArray[Any]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _tokens(rng: np.random.Generator, count: int) -> npt.NDArray[Any]:
    return (rng.zipf(1.3, count) % VOCABULARY).astype(np.int32)


def _word(i: int) -> str:
    return " " + "".join(chr(97 + (i * k) % 26) for k in (7, 11, 3, 5)[: 1 + i % 4])


def write_store(store: Store, rows: int) -> dict[str, float]:
    """The three tables; seconds and bytes of writing them, without those of generating the rows."""
    pointer = {"policy_id": REFERENCE, "folder": "nowhere", "parents": {}}
    store.write_atomic(store.join(EXPERIMENT, "policy/generation=0000/policy.json"), json.dumps(pointer).encode())
    rollouts = store.partition(EXPERIMENT, "rollouts", 0)
    shards = -(-rows // SHARD_ROWS)
    seconds = size = 0.0
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(rollouts.writer("bench", {}))
        for shard in range(shards):
            table = generated(shard, min(SHARD_ROWS, rows - shard * SHARD_ROWS))[0]
            size += table.nbytes
            begun = time.perf_counter()
            writer.write(shard, table)
            seconds += time.perf_counter() - begun
        begun = time.perf_counter()
        origin = writer.commit(shards).hash
        seconds += time.perf_counter() - begun
    for place, name in ((1, "rewards"), (2, "ref_logprobs")):
        parents = {rollouts.name: origin} | ({"reference policy": REFERENCE} if place == 2 else {})
        with store.partition(EXPERIMENT, name, 0).writer("bench", parents) as writer:
            for shard in range(shards):
                table = generated(shard, min(SHARD_ROWS, rows - shard * SHARD_ROWS))[place]
                size += table.nbytes
                begun = time.perf_counter()
                writer.write(shard, table)
                seconds += time.perf_counter() - begun
            writer.commit(shards)
    return {"seconds": seconds, "arrow_bytes": size}


def machine() -> dict[str, Any]:
    model = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "?"
    )
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "pyarrow": pa.__version__,
        "load_before": round(os.getloadavg()[0], 2),
    }
