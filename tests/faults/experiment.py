"""The experiment that the campaign disturbs: three generations of the built-in policy, every stage real."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

NAME = "faults"
GENERATIONS = 3
UPDATES = 2
TREE: dict[str, Any] = {
    "name": NAME,
    "seed": 3,
    "generations": GENERATIONS,
    "policy": {
        "base": "builtin:tiny-arith",
        "dtype": "float32",
        "warm_start": {"logged": "faults_behaviour", "trajectories": 64, "steps": 2, "batch": 32},
    },
    "prompts": {"source": "arithmetic", "template": "raw", "per_generation": 8},
    "rollouts": {"engine": "transformers", "n": 2, "max_tokens": 5, "prompts_per_shard": 4, "batch_size": 16},
    # One row to a worker: a killed worker takes exactly one label with it, the hardest case for labels to stay equal.
    "rewards": {"workers": 2, "batch": 1},
    "replay": {"window": 2},
    "training": {
        "beta": 0.01,
        "learning_rate": 3e-4,
        "prompt_batch": 4,
        "updates_per_generation": UPDATES,
        "checkpoint_every": 1,
    },
}
STAGES = ("rollouts", "rewards", "ref-logprobs", "train")


def write_experiment(folder: Path) -> Path:
    """`experiments/faults.yaml` in `folder`."""
    path = folder / "experiments" / f"{NAME}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(TREE), encoding="utf-8")
    return path


def all_stages() -> list[tuple[str, int]]:
    """(command, generation) of everything the loop does, in order."""
    return [("base-policy", 0), *((stage, g) for g in range(TREE["generations"]) for stage in STAGES)]


def run_stage(yaml_path: Path, root: str, stage: str, generation: int, *options: str) -> None:
    """One `tbrm` command in this process."""
    from pipeline.cli.main import tbrm

    arguments = [stage, "--experiment", str(yaml_path), "--root", root, *options]
    if stage != "base-policy":
        arguments += ["--generation", str(generation)]
    tbrm.main(["--errors-raised", *arguments], prog_name="tbrm", standalone_mode=False)


def run_loop(yaml_path: Path, root: str, announce: Callable[[str], None]) -> None:
    """Everything that is not done yet, to the end of the last generation. Raises what the commands raise."""
    for stage, generation in all_stages():
        announce(f"{stage} {generation}")
        run_stage(yaml_path, root, stage, generation)
