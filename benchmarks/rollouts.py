"""Tokens a second of the rollouts stage and of the engine called directly; seconds of a generation, cold and warm.

    python benchmarks/rollouts.py

The tiny policy with random weights answers shards of 1,024 prompts. In each round the stage runs whole (prompts drawn,
sampled, rows built, shards written and committed; start and end of the engine and the agreement check timed apart), and
then a new engine is called directly on the same prompts: with the stage's own sampling parameters (seeds, log-probs),
and as a user writes it (one `SamplingParams` for all, or `model.generate(do_sample=True)`, no log-probs, no seeds).
Seconds of throughput are of processor time; those of a small generation, whose engine is another process, of the clock.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import click
import yaml

from pipeline.config import Experiment, build_experiment
from pipeline.sampling import rollouts
from pipeline.sampling.engines import Request, Sampling
from pipeline.store import Store, open_store

SHARD = 1_024
SMALL = 128
MAX_TOKENS = 64
CLOCK = time.process_time
"""The engines work in this process: other work on the machine then counts little."""


def tree(engine: str, prompts: int, **changes: Any) -> dict[str, Any]:
    return {
        "name": "speed",
        "seed": 3,
        "generations": 1,
        "policy": {"base": "builtin:tiny-arith", "dtype": "float32"},
        "prompts": {"source": "arithmetic", "template": "raw", "per_generation": prompts},
        "rollouts": {
            "engine": engine,
            "max_tokens": MAX_TOKENS,
            "prompts_per_shard": SHARD,
            "batch_size": SHARD,
            **changes,
        },
        "training": {"prompt_batch": 8, "updates_per_generation": 2},
    }


def timed(seconds: dict[str, float], name: str, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `work` gives; its seconds are added to `seconds[name]`."""
    started = CLOCK()
    result = work(*args, **kwargs)
    seconds[name] = seconds.get(name, 0.0) + CLOCK() - started
    return result


TIMED = {"engine_start": "load_engine", "agreement": "measure_agreement", "prompts": "write_prompts"}


def stage(experiment: Experiment, store: Store) -> dict[str, float]:
    """Seconds and tokens of the whole stage, its parts told apart."""
    seconds = dict.fromkeys((*TIMED, "engine_end", "shards"), 0.0)
    originals = {name: getattr(rollouts, name) for name in TIMED.values()}
    make, close = rollouts.Sampler.make, rollouts.Sampler.close
    for part, name in TIMED.items():
        setattr(rollouts, name, partial(timed, seconds, part, originals[name]))
    rollouts.Sampler.make = lambda self, *shard: timed(seconds, "shards", make, self, *shard)
    rollouts.Sampler.close = lambda self: timed(seconds, "engine_end", close, self)
    try:
        report = timed(seconds, "all", rollouts.run_rollouts, experiment, store, 0, replace=True)
    finally:
        rollouts.Sampler.make, rollouts.Sampler.close = make, close
        for name, original in originals.items():
            setattr(rollouts, name, original)
    tokens = int(report.metrics["response_tokens"])
    left = seconds["all"] - seconds["engine_start"] - seconds["engine_end"] - seconds["agreement"]
    return {"tokens": tokens, "tokens_per_s": tokens / left, **seconds}


def requests_of(store: Store) -> list[list[Request]]:
    """What the stage asked of its engine, shard by shard: a direct call gets the same prompts and the same seeds."""
    shards = store.partition("speed", "rollouts", 0).iter_shards(["prompt_token_ids", "sampling"])
    return [[Request(r["prompt_token_ids"], r["sampling"]["seed"]) for r in table.to_pylist()] for _, table in shards]


def sampler(experiment: Experiment, store: Store) -> rollouts.Sampler:
    assert experiment.rollouts is not None
    policy = rollouts.behaviour_policy(store, experiment, experiment.rollouts, 0)
    return rollouts.Sampler(experiment, experiment.rollouts, store.base, 0, policy)


def direct_vllm(experiment: Experiment, store: Store, same: bool) -> float:
    """Tokens a second of `vllm.LLM.generate`, with the stage's sampling parameters or with plain ones."""
    from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

    with closing(sampler(experiment, store)) as work:
        engine: Any = work.engine
        shards = requests_of(store)
        tokens, started = 0, CLOCK()
        for shard in shards:
            plain = {"temperature": 1.0, "max_tokens": MAX_TOKENS, "stop_token_ids": engine.stop_ids}
            told = {"logprobs": 0, "flat_logprobs": True, "detokenize": False}
            seeded = [SamplingParams(**plain, **told, seed=request.seed) for request in shard]
            parameters = seeded if same else SamplingParams(**plain)
            outputs = engine.llm.generate(
                [{"prompt_token_ids": r.prompt_token_ids} for r in shard], parameters, use_tqdm=False
            )
            tokens += sum(len(output.outputs[0].token_ids) for output in outputs)
        return tokens / (CLOCK() - started)


def direct_transformers(experiment: Experiment, store: Store, same: bool) -> float:
    """Tokens a second of the engine itself, or of `model.generate` as a user writes it."""
    import torch

    with closing(sampler(experiment, store)) as work:
        engine: Any = work.engine
        shards = requests_of(store)
        tokens, started = 0, CLOCK()
        for shard in shards:
            if same:
                samples = engine.generate(shard, Sampling(1.0, 1.0, 0, MAX_TOKENS))
                tokens += sum(len(sample.token_ids) for sample in samples)
                continue
            prompts = [request.prompt_token_ids for request in shard]
            longest = max(map(len, prompts))
            padded = torch.tensor([[engine.pad_id] * (longest - len(ids)) + ids for ids in prompts])
            with torch.inference_mode():
                output = engine.model.generate(
                    input_ids=padded,
                    attention_mask=(padded != engine.pad_id).long(),
                    do_sample=True,
                    top_k=0,
                    max_new_tokens=MAX_TOKENS,
                    eos_token_id=engine.stop_ids,
                    pad_token_id=engine.pad_id,
                )
            responses = output[:, longest:]
            ended = torch.isin(responses, torch.tensor(engine.stop_ids)).cumsum(1)
            tokens += int((ended - torch.isin(responses, torch.tensor(engine.stop_ids)).long() == 0).sum())
        return tokens / (CLOCK() - started)


def throughput(engine: str, root: str, rounds: int, shards: int) -> dict[str, Any]:
    """Medians over `rounds` of the stage and the two direct calls, in turn."""
    from trainer.stages.base_policy import run_base_policy

    experiment = build_experiment(tree(engine, shards * SHARD), "benchmark")
    store = open_store(root)
    run_base_policy(experiment, store)
    direct = direct_vllm if engine == "vllm" else direct_transformers
    found: list[dict[str, float]] = []
    for _ in range(1 + rounds):  # the first is to warm up: kernels are chosen when they first run
        row = stage(experiment, store)
        row["direct_same"] = direct(experiment, store, same=True)
        row["direct_plain"] = direct(experiment, store, same=False)
        found.append(row)
        click.echo(f"{engine}: {row}")
    kept = found[1:]
    median = {name: round(statistics.median(row[name] for row in kept), 3) for name in kept[0]}
    ratios = {
        f"stage_over_{name}": round(statistics.median(row["tokens_per_s"] / row[name] for row in kept), 3)
        for name in ("direct_same", "direct_plain")
    }
    return median | ratios


def command_s(experiment: Path, root: str) -> dict[str, float]:
    """Wall seconds of `tbrm rollouts` as a process of its own, and of the stage in it."""
    arguments = ["rollouts", "-e", str(experiment), "--generation", "0", "--root", root, "--replace", "--json"]
    started = time.perf_counter()
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", *arguments]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    return {"wall": time.perf_counter() - started, "stage": float(json.loads(told)["seconds"])}


def small_generation(folder: Path, runs: int) -> dict[str, Any]:
    """Seconds of the rollouts of 128 prompts, each a process: with an engine of its own, and with the warm one."""
    from assets.processes.rollout_service import rollout_service
    from trainer.stages.base_policy import run_base_policy

    found: dict[str, Any] = {}
    for name, warm in (("cold", False), ("warm", True)):
        path, store = folder / f"{name}.yaml", open_store(str(folder / name))
        path.write_text(yaml.safe_dump(tree("vllm", SMALL, warm=warm)))
        experiment = build_experiment(tree("vllm", SMALL, warm=warm), "benchmark")
        run_base_policy(experiment, store)
        arguments = ["-e", str(path), "--root", store.root]
        with rollout_service(experiment, store, arguments, folder / "service.log") as service:
            if service is not None:
                service.ensure()
                found["first_warm"] = command_s(path, store.root)  # pays the start, once for an experiment
            rows = [command_s(path, store.root) for _ in range(runs)]
        found[name] = {key: round(statistics.median(row[key] for row in rows), 2) for key in rows[0]}
    return found


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--shards", default=3, show_default=True)
@click.option("--note", default="", help="What else ran on the machine.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/rollouts.json"))
def main(rounds: int, shards: int, note: str, out: Path) -> None:
    """Measure, print, and write OUT."""
    load = round(os.getloadavg()[0], 2)
    folder = Path(tempfile.mkdtemp())
    small = small_generation(folder, rounds)
    result: dict[str, Any] = {
        "command": f"python benchmarks/rollouts.py --rounds {rounds} --shards {shards}",
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "gpu": None,
            "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
            "python": platform.python_version(),
            "load_before": load,
            "note": note,
        },
        "prompts_per_shard": SHARD,
        "shards": shards,
        "max_tokens": MAX_TOKENS,
        "small_generation_s": {"prompts": SMALL} | small,
    }
    for engine in ("transformers", "vllm"):  # vLLM binds the threads of its process
        result[engine] = throughput(engine, str(folder / engine), rounds, shards)
    shutil.rmtree(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
