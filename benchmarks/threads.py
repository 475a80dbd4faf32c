"""Threads and how they wait: what they give on idle cores, and what is left of it beside one busy core.

    python benchmarks/threads.py          # writes benchmarks/results/threads.json

Each row of `settings` runs, alone and beside a process that computes without end on one core: `tbrm base-policy -e
arith_tiny` (its updates a second, after the first), sampling from and scoring under the same model, and scoring under a
wider one (hidden 576, vocabulary 8,192), where a second thread has more to do. A second part runs `tbrm run arith_tiny`
to its end both ways, with what the product itself chooses. Two cores are used, whatever the machine has.
"""

import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import click

SETTINGS: dict[str, dict[str, str]] = {
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "2 threads, passive": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
    "2 threads, active": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "ACTIVE"},
    "2 threads, OpenMP's default": {"OMP_NUM_THREADS": "2"},
    "2 threads, a short spin": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "1000"},
    "what tbrm chooses": {},
}
CORES = 2
TBRM = [sys.executable, "-c", "from pipeline.cli.main import main; main()"]
CLOCK = time.perf_counter


def surroundings(own: Mapping[str, str]) -> dict[str, str]:
    """Our environment without a word about threads, and `own`."""
    from pipeline.run.threads import OURS, THREADS, WAITING

    return {k: v for k, v in os.environ.items() if k not in (OURS, THREADS, *WAITING)} | dict(own)


@contextlib.contextmanager
def neighbours(count: int) -> Generator[None]:
    """So many cores compute for somebody else meanwhile."""
    busy = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def updates_per_second(own: Mapping[str, str], seconds: float) -> float:
    """Of the warm start, for `seconds` from its first update on."""
    with tempfile.TemporaryDirectory() as root:
        rows = Path(root) / "arith_tiny" / "training_state" / "imitation" / "metrics.jsonl"
        sets = ("--set", "policy.warm_start.steps=100000", "--set", "policy.warm_start.trajectories=4096")
        command = [*TBRM, "base-policy", "-e", "arith_tiny", "--root", root, *sets]
        process = subprocess.Popen(command, env=surroundings(own), stderr=subprocess.DEVNULL)
        try:
            while not (first := _lines(rows)) and process.poll() is None:
                time.sleep(0.01)
            started = CLOCK()
            time.sleep(seconds)
            return (_lines(rows) - first) / (CLOCK() - started)
        finally:
            process.kill()
            process.wait()


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def rate(work: Callable[[], int], seconds: float) -> float:
    """What `work` counts, a second, after a first call that warms up."""
    work()
    count, started = 0, CLOCK()
    while CLOCK() - started < seconds:
        count += work()
    return count / (CLOCK() - started)


def model_rates(seconds: float) -> dict[str, float]:
    """Sampling and scoring under the model of arith_tiny, and scoring under a wider one; in a process of its own."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipeline.config.policy import PolicyConfig
    from pipeline.policies.refs import PolicyRef
    from pipeline.policies.tiny import save_tiny_arith
    from pipeline.sampling.engines.base import Request, Sampling
    from pipeline.sampling.engines.transformers_engine import TransformersEngine
    from pipeline.scoring.scoring import score_trajectories

    with tempfile.TemporaryDirectory() as folder:
        save_tiny_arith(Path(folder), seed=0)
        policy = PolicyConfig(base="builtin:tiny-arith", dtype="float32")
        engine = TransformersEngine(PolicyRef("", folder, 0), policy, 1024, [2], 2)
    requests = [Request([3 + i % 10, 13, 3 + i // 10 % 10, 14], seed=i) for i in range(1024)]
    responses = [[3, 4, 2]] * len(requests)
    prompts = [request.prompt_token_ids for request in requests]
    wide = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8192,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=6,
            num_attention_heads=9,
            num_key_value_heads=3,
        )
    )

    def sample() -> int:
        return len(engine.generate(requests, Sampling(1.0, 1.0, 0, 5)))

    def score() -> int:
        return len(score_trajectories(engine.model, prompts, responses, 2048))

    def score_wide() -> int:
        return len(score_trajectories(wide, [[5] * 64] * 2, [[7] * 192] * 2, 512)) * 256

    return {
        "sampled responses/s": rate(sample, seconds),
        "scored responses/s": rate(score, seconds),
        "scored tokens/s, wide": rate(score_wide, seconds),
    }


def setting_rates(own: Mapping[str, str], seconds: float) -> dict[str, float]:
    """Every rate under one setting."""
    settle = "from pipeline.run.threads import settle; settle(); " if not own else ""
    code = f"{settle}import json; from benchmarks.threads import model_rates; print(json.dumps(model_rates({seconds})))"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=surroundings(own),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    rates = {"updates/s": updates_per_second(own, seconds)} | json.loads(told.stdout.splitlines()[-1])
    return {name: float(f"{value:.3g}") for name, value in rates.items()}


def whole_run(generations: int) -> dict[str, Any]:
    """`tbrm run arith_tiny` with what the product chooses: seconds by the clock and of processors, and what it made."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*TBRM, "run", "arith_tiny", "--root", folder, "--set", f"generations={generations}"]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), CLOCK()
        done = subprocess.run(
            command, env=surroundings({}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        wall, after = CLOCK() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:])
        last = Path(folder) / "arith_tiny" / "policy" / f"generation={generations:04d}" / "policy.json"
        policy = json.loads(last.read_text(encoding="utf-8"))
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1), "last_policy": policy["policy_id"]}


@click.command()
@click.option("--seconds", default=5.0, show_default=True, help="Of each measurement.")
@click.option("--rounds", default=1, show_default=True, help="Of all settings; the best rate of each counts.")
@click.option("--generations", default=7, show_default=True, help="Of the whole run; 0: leave it out.")
@click.option("--part", type=click.Choice(["all", "settings", "run"]), default="all", show_default=True)
@click.option("--note", default="", help="What else ran on the machine.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/threads.json"))
def main(seconds: float, rounds: int, generations: int, part: str, note: str, out: Path) -> None:
    """Measure, print, and write OUT; a part that is not measured now stays as it is there."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "nice": os.nice(0),
        "note": note,
    }
    if part in ("all", "settings"):
        rows: dict[str, dict[str, dict[str, float]]] = {name: {} for name in SETTINGS}
        for _ in range(rounds):
            for name, own in SETTINGS.items():
                for where in ("idle", "beside a busy core"):
                    with neighbours(int(where != "idle")):
                        found = setting_rates(own, seconds)
                    before = rows[name].get(where, {})
                    rows[name][where] = {key: max(value, before.get(key, 0.0)) for key, value in found.items()}
                    click.echo(f"{name}, {where}: {found}", err=True)
        result["settings"] = {"machine": machine, "seconds": seconds, "rounds": rounds, "rates": rows}
    if part in ("all", "run"):
        runs: dict[str, Any] = {}
        for where in ("idle", "beside a busy core"):
            with neighbours(int(where != "idle")):
                runs[where] = whole_run(generations)
            click.echo(f"tbrm run arith_tiny, {where}: {runs[where]}", err=True)
        ratio = round(runs["beside a busy core"]["wall_s"] / runs["idle"]["wall_s"], 2)
        result["run"] = {"machine": machine, "generations": generations, **runs, "ratio": ratio}
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
