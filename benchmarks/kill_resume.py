"""kill -9 at a random update of `tbrm train`, again and again: the weights that the resumed run ends with.

    python benchmarks/kill_resume.py --kills 20

A generation of the built-in tiny policy is made once; each trial copies it, starts `tbrm train` in a process group of
its own, kills the group at a random moment after a random update, starts it again, and compares the identity (SHA-256
over weights and tokenizer) of the policy with that of a run that nobody disturbed.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import yaml

UPDATES = 30
TREE: dict[str, Any] = {
    "name": "killed",
    "seed": 11,
    "generations": 1,
    "policy": {
        "base": "builtin:tiny-arith",
        "dtype": "float32",
        "warm_start": {"logged": "killed_behaviour", "trajectories": 2048, "steps": 60, "batch": 64},
    },
    "prompts": {"source": "arithmetic", "template": "raw", "per_generation": 128},
    "rollouts": {"engine": "transformers", "n": 2, "max_tokens": 5, "prompts_per_shard": 128, "batch_size": 256},
    "training": {
        "learning_rate": 3e-4,
        "prompt_batch": 32,
        "updates_per_generation": UPDATES,
        "checkpoint_every": 4,
        "micro_batch_tokens": 256,
    },
}


def start(folder: Path, command: str) -> subprocess.Popen[bytes]:
    """`tbrm COMMAND` on the experiment in `folder`, leader of a process group of its own."""
    arguments = [command, "--experiment", "killed.yaml", "--root", "data"]
    if command != "base-policy":
        arguments += ["--generation", "0"]
    return subprocess.Popen(
        [sys.executable, "-c", "from pipeline.cli.main import main; main()", *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(folder: Path, command: str) -> str:
    """Run the command to its end; returns what it wrote to stderr."""
    process = start(folder, command)
    _, err = process.communicate()
    if process.returncode:
        raise click.ClickException(f"tbrm {command} failed: {err.decode()[-2_000:]}")
    return err.decode()


def kill_after(folder: Path, update: int, delay_s: float) -> int:
    """SIGKILL the training `delay_s` after it reported `update`; returns the updates that it had reported by then."""
    metrics = folder / "data/killed/training_state/generation=0000/metrics.jsonl"
    process = start(folder, "train")
    while process.poll() is None and reported(metrics) < update:
        time.sleep(0.005)
    time.sleep(delay_s)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return reported(metrics)


def reported(metrics: Path) -> int:
    return metrics.read_text(encoding="utf-8").count("\n") if metrics.exists() else 0


def policy_id(folder: Path) -> str:
    path = folder / "data/killed/trained_policy/generation=0000/policy.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["policy_id"])


@click.command()
@click.option("--kills", default=20, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/kill_resume.json"))
def main(kills: int, seed: int, out: Path) -> None:
    """Kill and resume KILLS times; exit code 1 when any run ended with other weights."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as temp:
        made = Path(temp) / "made"
        made.mkdir()
        (made / "killed.yaml").write_text(yaml.safe_dump(TREE), encoding="utf-8")
        for command in ("base-policy", "rollouts", "rewards", "ref-logprobs"):
            finish(made, command)
        whole = Path(shutil.copytree(made, Path(temp) / "whole"))
        finish(whole, "train")
        expected = policy_id(whole)
        trials: list[dict[str, Any]] = []
        for trial in range(kills):
            folder = Path(shutil.copytree(made, Path(temp) / f"trial{trial}"))
            wanted, delay = draw.randint(1, UPDATES - 2), draw.uniform(0, 0.2)
            killed_at = kill_after(folder, wanted, delay)
            committed_early = (folder / "data/killed/trained_policy/generation=0000").exists()
            said = [line for line in finish(folder, "train").splitlines() if "goes on from" in line]
            same = policy_id(folder) == expected
            trials.append(
                {
                    "killed_after_update": killed_at,
                    "delay_s": round(delay, 3),
                    "finished_before_the_kill": committed_early,
                    "resumed_from": said[0].split("update-")[1][:8].lstrip("0") if said else "start",
                    "same_weights": same,
                }
            )
            click.echo(f"{trial + 1}/{kills}: {trials[-1]}")
            shutil.rmtree(folder)
    result = {
        "command": f"python benchmarks/kill_resume.py --kills {kills} --seed {seed}",
        "updates": UPDATES,
        "checkpoint_every": TREE["training"]["checkpoint_every"],
        "policy_id": expected,
        "kills": kills,
        "same_weights": sum(t["same_weights"] for t in trials),
        "trials": trials,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if result["same_weights"] != kills:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
