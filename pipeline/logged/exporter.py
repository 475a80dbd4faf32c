"""Trajectories of the store for other systems: a data set with its card, fine-tuning examples, preference pairs.

Files are written beside their place and moved there as a whole, so that an interrupted export leaves no half folder.
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import TbrmError
from pipeline.markdown import markdown_table
from pipeline.store import Manifest, Partition, Store, code_version
from pipeline.terminal import visible

Kind = Literal["dataset", "sft", "unpaired", "preference", "verl"]
COLUMNS = pa.schema(
    [
        ("trajectory_id", pa.string()),
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("response", pa.string()),
        ("response_token_ids", pa.list_(pa.int32())),
        ("response_mask", pa.list_(pa.bool_())),
        ("behavior_logprobs", pa.list_(pa.float32())),
        ("finish_reason", pa.string()),
        ("policy", pa.string()),
        ("reward", pa.float64()),
        ("components", pa.string()),
        ("answer", pa.string()),
        ("verifier", pa.string()),
        ("extra", pa.string()),
    ]
)
"""Columns of an exported data set. `components` and `extra` are JSON."""
_MOST_POLICIES, _MAX_NAME = 20, 200


@dataclass
class Exported:
    """What an export wrote."""

    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter[str])
    policies: Counter[str] = field(default_factory=Counter[str])
    rewards: list[float] = field(default_factory=list[float])


@dataclass(frozen=True)
class ExportSettings:
    """One export."""

    dataset: str
    """As in the store: `logged/<name>`, or an experiment."""
    folder: str
    """Made by the export; must not exist."""
    kind: Kind = "dataset"
    generation: int = 0
    rewards: str | None = None
    """Version of the rewards; None for those that came with the log or the experiment."""
    least_reward: float | None = None
    """Fine-tuning examples have at least this reward."""


def run_export(settings: ExportSettings, store: Store) -> Exported:
    """Write `settings.folder`. Raises TbrmError when it exists, or when the store lacks what the kind needs."""
    target = Path(settings.folder)
    if os.path.lexists(target):
        raise TbrmError(f"{target} exists already: name another folder, or remove it")
    rollouts = store.partition(settings.dataset, "rollouts", settings.generation)
    if not rollouts.is_committed():
        raise TbrmError(f"{rollouts.name} is not in {store.root}: `tbrm inspect` lists what is")
    rewards = _rewards_of(settings, store)
    with _new_folder(target) as made:
        done = Exported()
        rows = _counted(_rows(store, rollouts, rewards), done)
        if settings.kind == "dataset":
            _write_dataset(rows, made / "data", done)
        elif settings.kind == "verl":
            _write_dataset(_verl(rows, settings.dataset, done), made / "data", done, schema=None)
        else:
            _write_lines(_LINES[settings.kind](rows, settings, done), made / "data" / "train.jsonl", done)
        if not done.rows:
            raise TbrmError(f"{rollouts.name} gives nothing to export as {settings.kind}: {_told(done.left_out)}")
        (made / "README.md").write_text(_card(settings, rollouts.manifest(), rewards, done), encoding="utf-8")
    return done


@contextmanager
def _new_folder(target: Path) -> Generator[Path]:
    """A folder with an empty `data`, which becomes `target` when the block ends. Raises TbrmError where it cannot."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export.", dir=target.parent) as beside:
            made = Path(beside) / "made"
            (made / "data").mkdir(parents=True)
            yield made
            made.rename(target)
    except OSError as error:
        raise TbrmError(f"{str(target)[:200]} cannot be written: {error.strerror or error}") from error


def _rewards_of(settings: ExportSettings, store: Store) -> Partition | None:
    table = "rewards" if settings.rewards is None else f"rewards@{settings.rewards}"
    partition = store.partition(settings.dataset, table, settings.generation)
    if partition.is_committed():
        return partition
    if settings.rewards is not None or settings.kind in ("preference", "unpaired") or settings.least_reward is not None:
        raise TbrmError(
            f"{partition.name} is not in {store.root}, and {settings.kind} needs rewards: `tbrm rewards` makes them"
        )
    return None


def _rows(store: Store, rollouts: Partition, rewards: Partition | None) -> Iterator[dict[str, Any]]:
    """Rows with the columns of an exported data set, in the store's order."""
    prompts: dict[str, dict[str, Any]] = {}
    for _, shard in store.partition(rollouts.dataset, "prompts", rollouts.generation).iter_shards():
        prompts |= {row["prompt_id"]: row for row in shard.to_pylist()}
    for index, shard in rollouts.iter_shards():
        columns = ["trajectory_id", "reward", "components"]
        labels = (
            {} if rewards is None else {r["trajectory_id"]: r for r in rewards.read_shard(index, columns).to_pylist()}
        )
        for batch in shard.to_batches(max_chunksize=256):
            for row in batch.to_pylist():
                yield _row(row, prompts[row["prompt_id"]], labels.get(row["trajectory_id"]))


def _row(row: Mapping[str, Any], prompt: Mapping[str, Any], label: Mapping[str, Any] | None) -> dict[str, Any]:
    kept = (
        "trajectory_id",
        "prompt_id",
        "prompt_token_ids",
        "response_token_ids",
        "response_mask",
        "behavior_logprobs",
    )
    return {name: row[name] for name in (*kept, "finish_reason")} | {
        "prompt": prompt["prompt_text"],
        "response": row["response_text"],
        "policy": row["policy_id"],
        "reward": None if label is None else label["reward"],
        "components": json.dumps(dict((label or {}).get("components") or []), sort_keys=True),
        **{name: prompt[name] for name in ("answer", "verifier", "extra")},
    }


def _counted(rows: Iterator[dict[str, Any]], done: Exported) -> Iterator[dict[str, Any]]:
    for row in rows:
        done.policies[row["policy"]] += 1
        if row["reward"] is not None:
            done.rewards.append(row["reward"])
        yield row


def _write_dataset(
    rows: Iterator[dict[str, Any]], folder: Path, done: Exported, schema: pa.Schema | None = COLUMNS
) -> None:
    """`train-00000.parquet` and so on, 4,096 rows each."""
    held: list[dict[str, Any]] = []
    number = 0

    def write() -> None:
        nonlocal number
        pq.write_table(pa.Table.from_pylist(held, schema), folder / f"train-{number:05d}.parquet", compression="zstd")
        number += 1
        held.clear()

    for row in rows:
        held.append(row)
        done.rows += 1
        if len(held) == 4_096:
            write()
    if held:
        write()


def _write_lines(lines: Iterator[dict[str, Any]], path: Path, done: Exported) -> None:
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            done.rows += 1


def _whole(row: Mapping[str, Any], done: Exported) -> bool:
    """Whether a response is one text of the policy that ended by itself; what else there is would be learnt wrongly."""
    if row["response_mask"] is not None:
        done.left_out["responses of several turns, whose text is not all the policy's"] += 1
    elif row["finish_reason"] == "length":
        done.left_out["responses that were cut off"] += 1
    else:
        return True
    return False


def _sft(rows: Iterator[dict[str, Any]], settings: ExportSettings, done: Exported) -> Iterator[dict[str, Any]]:
    """TRL's prompt-completion examples for SFTTrainer."""
    least = settings.least_reward
    for row in rows:
        if least is not None and (row["reward"] is None or row["reward"] < least):
            done.left_out["responses below --least-reward"] += 1
        elif _whole(row, done):
            yield {"prompt": row["prompt"], "completion": row["response"]}


def _unpaired(rows: Iterator[dict[str, Any]], settings: ExportSettings, done: Exported) -> Iterator[dict[str, Any]]:
    """TRL's unpaired preferences for KTOTrainer: good where the reward is above a half."""
    bar = 0.5 if settings.least_reward is None else settings.least_reward
    for row in rows:
        if row["reward"] is not None and _whole(row, done):
            yield {"prompt": row["prompt"], "completion": row["response"], "label": row["reward"] >= bar}


def _preference(rows: Iterator[dict[str, Any]], settings: ExportSettings, done: Exported) -> Iterator[dict[str, Any]]:
    """TRL's preference pairs for DPOTrainer: of each prompt the best response and the worst. Both are held."""
    best: dict[str, dict[str, Any]] = {}
    worst: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["reward"] is None or not _whole(row, done):
            continue
        name = row["prompt_id"]
        kept = {key: row[key] for key in ("prompt", "response", "reward")}
        if name not in best or kept["reward"] > best[name]["reward"]:
            best[name] = kept
        if name not in worst or kept["reward"] < worst[name]["reward"]:
            worst[name] = kept
    for name, chosen in best.items():
        rejected = worst[name]
        if chosen["reward"] > rejected["reward"]:
            yield {"prompt": chosen["prompt"], "chosen": chosen["response"], "rejected": rejected["response"]}
        else:
            done.left_out["prompts whose responses all have one reward"] += 1


def _verl(rows: Iterator[dict[str, Any]], dataset: str, done: Exported) -> Iterator[dict[str, Any]]:
    """verl's training prompts (verl/utils/dataset/rl_dataset.py): one row a prompt, its text as one user message.

    verl writes its own chat template around them, so a prompt that already holds one is left out.
    """
    seen: set[str] = set()
    for row in rows:
        if row["prompt_id"] in seen:
            continue
        seen.add(row["prompt_id"])
        if "<|" in row["prompt"]:
            done.left_out["prompts that hold a chat template already"] += 1
            continue
        yield {
            "data_source": dataset,
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "ability": row["verifier"] or "unknown",
            "reward_model": {"style": "rule", "ground_truth": row["answer"]},
            "extra_info": {"index": row["prompt_id"]},
        }


_LINES = {"sft": _sft, "unpaired": _unpaired, "preference": _preference}


def _card(settings: ExportSettings, manifest: Manifest, rewards: Partition | None, done: Exported) -> str:
    """A dataset card: what it holds, who made it, and where it came from."""
    files = "data/train-*.parquet" if settings.kind in ("dataset", "verl") else "data/train.jsonl"
    mean = sum(done.rewards) / len(done.rewards) if done.rewards else None
    policies = [f"- {_code(name)}: {count:,} trajectories" for name, count in done.policies.most_common(_MOST_POLICIES)]
    parents = [f"- {_code(name)}: {_code(hash_)}" for name, hash_ in sorted(manifest.parents.items())]
    schema = markdown_table(["column", "type"], ([f"`{column.name}`", str(column.type)] for column in COLUMNS))
    lines = [
        *("---", "license: other  # fill in: the licences of the prompts, of the policies and of their outputs"),
        *("license_name: unknown", "configs:", "- config_name: default", f"  data_files: {files}", "---", ""),
        *(f"# {settings.dataset}, generation {settings.generation}, as {settings.kind}", ""),
        f"{done.rows:,} rows. Licences: **fill in** those of the prompts, of the policies and of their outputs.",
        *("", "## Rewards", ""),
        "none" if mean is None else f"{rewards.name if rewards else ''}: mean {mean:.4f} of {len(done.rewards):,}",
        *("", "## Behaviour policies", "", *policies, ""),
        *(["## Columns", "", schema, ""] if settings.kind == "dataset" else []),
        *(
            ["## Left out", "", *(f"- {count:,} {why}" for why, count in done.left_out.items()), ""]
            if done.left_out
            else []
        ),
        *(
            "## Lineage",
            "",
            f"- {manifest.name}: `{manifest.hash}`",
            *parents,
            f"- exported by tbrm {code_version()}",
            "",
        ),
        *("```sh", f"tbrm export {settings.dataset} FOLDER --as {settings.kind} -g {settings.generation}", "```", ""),
    ]
    return "\n".join(lines)


def _code(text: str) -> str:
    """A name that a log made up as one span of code: no markup, and no line of its own."""
    return f"`{' '.join(visible(text[:_MAX_NAME]).split()).replace('`', chr(39))}`"


def _told(left_out: Mapping[str, int]) -> str:
    return "; ".join(f"{count:,} {why} are left out" for why, count in left_out.items()) or "it holds no trajectory"
