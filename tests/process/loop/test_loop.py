"""`tbrm run` as a user runs it: strictly on-policy, and purely offline, from YAML alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline.policies.tiny import save_tiny_arith
from pipeline.store import Store, open_store
from tests.support.tiny import finish, tbrm

TREE: dict[str, Any] = {
    "name": "loop",
    "seed": 3,
    "generations": 2,
    "policy": {
        "base": "builtin:tiny-arith",
        "dtype": "float32",
        "warm_start": {"logged": "loop_behaviour", "trajectories": 512, "steps": 8, "batch": 64},
    },
    "prompts": {"source": "arithmetic", "arithmetic": {"heldout": 32}, "template": "raw", "per_generation": 16},
    "rollouts": {"engine": "transformers", "n": 2, "max_tokens": 5, "prompts_per_shard": 8, "batch_size": 64},
    "training": {"beta": 0.01, "learning_rate": 3e-4, "prompt_batch": 8, "updates_per_generation": 2},
    "evaluation": {"benchmarks": ["heldout", "heldout_sampled"]},
}


def run(folder: Path, **changes: Any) -> tuple[Store, str]:
    """`tbrm run` of the experiment with these changes; the store and what was printed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "loop.yaml").write_text(yaml.safe_dump(TREE | changes))
    output = finish(tbrm(folder, "run", "loop.yaml", "--root", "data"), timeout_s=600)
    return open_store(str(folder / "data")), output


def policy_ids(store: Store, generations: int) -> list[str]:
    paths = [store.join("loop", "policy", f"generation={g:04d}", "policy.json") for g in range(generations + 1)]
    return [json.loads(store.read_bytes(path))["policy_id"] for path in paths]


def test_strictly_on_policy(tmp_path: Path) -> None:
    on_policy = TREE["training"] | {"updates_per_generation": 1, "prompt_batch": 16}
    store, _ = run(tmp_path / "a", training=on_policy, rollouts=TREE["rollouts"] | {"n": 1}, evaluation=None)
    for generation in (0, 1):
        folder = Path(store.base) / "loop" / "trained_policy" / f"generation={generation:04d}"
        mix = json.loads((folder / "training.json").read_text())["mix"]
        assert {(p["generation"], p["lag"]) for p in mix["parts"]} == {(generation, 0)}
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1


def test_purely_offline(tmp_path: Path) -> None:
    replay = {"window": 0, "logged": [{"name": "loop_behaviour"}]}
    store, _ = run(tmp_path / "a", rollouts="none", replay=replay)
    assert store.generations("loop", "rollouts") == []
    mix = json.loads((Path(store.base) / "loop/trained_policy/generation=0000/training.json").read_text())["mix"]
    assert mix["rows"] == 512
    assert {part["source"] for part in mix["parts"]} == {"loop_behaviour"}
    assert len(set(policy_ids(store, 2))) == 3


def test_offline_on_a_log_that_another_policy_made(tmp_path: Path) -> None:
    """Import with one command, then train: rewards come with the log, reference log-probs are scored by the loop."""
    tokenizer = tmp_path / "tokenizer"
    save_tiny_arith(tokenizer, seed=0)
    rows = [
        {"prompt": f"{a}+{b}=", "response": str(a + b + (a + b) % 2), "answer": str(a + b), "reward": 1.0 - (a + b) % 2}
        for a in range(20, 60)
        for b in (13, 28)
    ]
    log = tmp_path / "ppo.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = tmp_path / "a" / "data"
    arguments = ["import", "--name", "ppo", str(log), "--tokenizer", str(tokenizer), "--policy", "my-ppo"]
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", *arguments, "--root", str(data)]
    subprocess.run(command, check=True, timeout=120)
    replay = {"window": 0, "logged": [{"name": "ppo"}]}
    store, _ = run(tmp_path / "a", rollouts="none", replay=replay, generations=1, evaluation=None)
    mix = json.loads((Path(store.base) / "loop/trained_policy/generation=0000/training.json").read_text())["mix"]
    assert mix["rows"] == len(rows)
    assert {part["rewards"] for part in mix["parts"]} == {"rewards"}
    lineage = ["lineage", "loop:1", "--root", str(data)]
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", *lineage]
    shown = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True).stdout
    assert "my-ppo" in shown
    assert "ppo.jsonl" in shown
