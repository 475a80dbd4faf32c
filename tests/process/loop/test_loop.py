"""`tbrm run` as a user runs it: strictly on-policy, and purely offline, from YAML alone."""

import json
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.policies.load_save import load_tokenizer
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


def verl(rows: list[dict[str, Any]], folder: Path) -> None:
    """A dump of verl, as `trainer.rollout_data_dir` writes it."""
    lines = [{"input": r["prompt"], "output": r["response"], "gts": r["answer"], "score": r["reward"]} for r in rows]
    (folder / "rollout_data").mkdir()
    text = "".join(json.dumps(line | {"step": 1}) + "\n" for line in lines)
    (folder / "rollout_data" / "1.jsonl").write_text(text)


def trl(rows: list[dict[str, Any]], folder: Path) -> None:
    """A completions table of TRL, with a column that is no reward."""
    columns = {
        **{"step": [1] * len(rows), "prompt": [r["prompt"] for r in rows], "completion": [r["response"] for r in rows]},
        **{
            "accuracy_reward": [r["reward"] for r in rows],
            "completion_length": [float(len(r["response"])) for r in rows],
        },
        **{"advantage": [0.0] * len(rows), "answer": [r["answer"] for r in rows]},
    }
    (folder / "completions").mkdir()
    pq.write_table(pa.table(columns), folder / "completions" / "completions_00001.parquet")


def verifiers(rows: list[dict[str, Any]], folder: Path) -> None:
    """Traces of verifiers, with token ids and log-probs."""
    tokenizer = load_tokenizer(str(folder / "MODEL"))
    with (folder / "traces.jsonl").open("w") as file:
        for row in rows:
            asked = tokenizer.encode(row["prompt"], add_special_tokens=False)
            said = [*tokenizer.encode(row["response"], add_special_tokens=False), tokenizer.eos_token_id]
            nodes = [
                {"parent": None, "message": {"role": "user", "content": row["prompt"]}, "sampled": False}
                | {"token_ids": asked, "mask": [False] * len(asked)},
                {"parent": 0, "message": {"role": "assistant", "content": row["response"]}, "sampled": True}
                | {"token_ids": said, "mask": [True] * len(said), "logprobs": [-1.0] * len(said)},
            ]
            task = {"type": "Sum", "data": {"answer": row["answer"]}}
            trace = {"task": task, "nodes": nodes, "rewards": {"correct": {"score": row["reward"], "weight": 1.0}}}
            file.write(json.dumps({"id": "e", "task": task, "ok": True, "traces": [trace | {"ok": True}]}) + "\n")


def commands_of_the_readme() -> list[list[str]]:
    """The lines of README's block that starts from a log, as words."""
    text = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    (block,) = [part for part in text.split("```sh\n")[1:] if part.startswith("tbrm import --name verl")]
    return [shlex.split(line, comments=True) for line in block.partition("```")[0].splitlines()]


def test_offline_by_the_commands_of_the_readme(tmp_path: Path) -> None:
    """Import each log with one command, then train: rewards come with the logs, the loop scores reference log-probs."""
    save_tiny_arith(tmp_path / "MODEL", seed=0)
    rows = [
        {"prompt": f"{a}+{b}=", "response": str(a + b + (a + b) % 2), "answer": str(a + b), "reward": 1.0 - (a + b) % 2}
        for a in range(20, 60)
        for b in (13, 28, 31)
    ]
    for number, write in enumerate((verl, trl, verifiers)):
        write(rows[number::3], tmp_path)
    replay = {"window": 0, "logged": [{"name": name} for name in ("verl", "trl", "traces")]}
    tree = TREE | {"rollouts": "none", "replay": replay, "generations": 1, "evaluation": None}
    (tmp_path / "offline.yaml").write_text(yaml.safe_dump(tree))
    commands = commands_of_the_readme()
    assert [words[:2] for words in commands] == [
        ["tbrm", name] for name in ("import", "import", "import", "doctor", "run")
    ]
    for _, *words in commands:
        finish(tbrm(tmp_path, *words), timeout_s=600)
    store = open_store(str(tmp_path / "data"))
    mix = json.loads((Path(store.base) / "loop/trained_policy/generation=0000/training.json").read_text())["mix"]
    assert mix["rows"] == len(rows)
    assert {part["rewards"] for part in mix["parts"]} == {"rewards"}
    assert {part["source"] for part in mix["parts"]} == {"verl", "trl", "traces"}
    shown = finish(tbrm(tmp_path, "lineage", "loop:1"), timeout_s=400)
    for told in ("unknown@step1", "1.jsonl", "completions_00001.parquet", "traces.jsonl"):
        assert told in shown
