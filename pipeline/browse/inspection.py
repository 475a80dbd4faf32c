"""What a data set holds: counted shard by shard, and printed for people."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from rich.table import Table

from pipeline.console import PlainConsole
from pipeline.errors import StoreError
from pipeline.store import Partition, Store

_BINS = 10
_BAR_WIDTH = 30


def overview(store: Store) -> list[dict[str, Any]]:
    """Each data set with the rows of its tables, all versions (`rewards@v2`) of a table together.

    Raises StoreError when there is nothing at the store's root.
    """
    if not store.fs.exists(store.base):
        raise StoreError(f"there is no store at {store.root}: name its root with --root or TBRM_ROOT")
    found: list[dict[str, Any]] = []
    for dataset in store.datasets():
        rows = Counter[str]()
        for table in store.tables(dataset):
            rows[table.partition("@")[0]] += sum(p.manifest().rows for p in _committed(store, dataset, table))
        if +rows:  # an import that stopped leaves a folder with nothing committed
            found.append({"dataset": dataset, "rows": dict(+rows)})
    return found


def inspect_dataset(store: Store, dataset: str) -> dict[str, Any]:
    """Tables, lengths, finish reasons, rewards by version, and how versions agree. Raises StoreError.

    One shard is in memory at a time.
    """
    if dataset not in store.datasets():
        raise StoreError(
            f"there is no {dataset!r} in {store.root}; it holds {', '.join(store.datasets()) or 'nothing'}"
        )
    tables = [
        {
            "table": table,
            "generations": len(partitions := _committed(store, dataset, table)),
            "rows": sum(p.manifest().rows for p in partitions),
            "shards": sum(len(p.manifest().shards) for p in partitions),
            "bytes": sum(p.manifest().bytes for p in partitions),
        }
        for table in store.tables(dataset)
    ]
    versions = [str(t["table"]) for t in tables if str(t["table"]).partition("@")[0] == "rewards" and t["rows"]]
    generations = [_generation(store, dataset, p.generation, p) for p in _committed(store, dataset, "rollouts")]
    return {
        "dataset": dataset,
        "tables": [t for t in tables if t["generations"]],
        "generations": generations,
        "rewards": {version: _rewards(store, dataset, version) for version in versions},
        "agreement": [_agreement(store, dataset, versions[0], other) for other in versions[1:]],
        "quarantine": _quarantine(store, dataset),
    }


def _committed(store: Store, dataset: str, table: str) -> list[Partition]:
    return [store.partition(dataset, table, g) for g in store.generations(dataset, table)]


def _generation(store: Store, dataset: str, generation: int, rollouts: Partition) -> dict[str, Any]:
    lengths: list[Any] = []
    finish: Counter[str] = Counter()
    policies: Counter[str] = Counter()
    with_logprobs = 0
    for _, rows in rollouts.iter_shards(["response_token_ids", "finish_reason", "policy_id", "behavior_logprobs"]):
        lengths.append(pc.list_value_length(rows["response_token_ids"]).to_numpy())
        finish.update(str(reason) for reason in rows["finish_reason"].to_pylist())
        policies.update(str(policy) for policy in rows["policy_id"].to_pylist())
        with_logprobs += rows.num_rows - rows["behavior_logprobs"].null_count
    tokens = np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int64)
    quantiles = np.quantile(tokens, (0.5, 0.95)) if len(tokens) else (0.0, 0.0)
    return {
        "generation": generation,
        "trajectories": len(tokens),
        "response_tokens": int(tokens.sum()),
        "median_length": float(quantiles[0]),
        "p95_length": float(quantiles[1]),
        "longest": int(tokens.max(initial=0)),
        "finish_reasons": dict(finish),
        "behaviour_policies": dict(policies.most_common(5)),
        "with_behaviour_logprobs": with_logprobs,
    }


def _rewards(store: Store, dataset: str, version: str) -> dict[str, Any]:
    statuses: Counter[str] = Counter()
    values: list[Any] = []
    for partition in _committed(store, dataset, version):
        for _, rows in partition.iter_shards(["reward", "status"]):
            values.append(rows["reward"].to_numpy())
            statuses.update(str(status) for status in rows["status"].to_pylist())
    rewards = np.concatenate(values)
    counts, edges = np.histogram(
        rewards, bins=_BINS, range=(float(min(rewards.min(), 0)), float(max(rewards.max(), 1)))
    )
    histogram = [
        {"from": float(a), "to": float(b), "count": int(n)} for a, b, n in zip(edges, edges[1:], counts, strict=False)
    ]
    return {
        "mean": float(rewards.mean()),
        "std": float(rewards.std()),
        "statuses": dict(statuses),
        "histogram": histogram,
    }


def _agreement(store: Store, dataset: str, one: str, other: str) -> dict[str, Any]:
    """Rows by (success under `one`, success under `other`), a success being a reward of at least 0.5."""
    counts: Counter[tuple[bool, bool]] = Counter()
    examples: list[str] = []
    for generation in sorted(set(store.generations(dataset, one)) & set(store.generations(dataset, other))):
        second = store.partition(dataset, other, generation)
        for index, rows in store.partition(dataset, one, generation).iter_shards(["trajectory_id", "reward"]):
            a = rows["reward"].to_numpy() >= 0.5
            b = second.read_shard(index, ["reward"])["reward"].to_numpy() >= 0.5
            counts.update(zip(a.tolist(), b.tolist(), strict=True))
            examples += [str(rows["trajectory_id"][int(i)]) for i in np.flatnonzero(a != b)[: 5 - len(examples)]]
    return {
        "versions": [one, other],
        "both": counts[True, True],
        "neither": counts[False, False],
        f"only {one}": counts[True, False],
        f"only {other}": counts[False, True],
        "examples": examples,
    }


def _quarantine(store: Store, dataset: str) -> dict[str, int]:
    reasons: Counter[str] = Counter()
    for partition in _committed(store, dataset, "quarantine"):
        for _, rows in partition.iter_shards(["field", "reason"]):
            reasons.update(f"{row['field'] or 'row'}: {row['reason'][:80]}" for row in rows.to_pylist())
    return dict(reasons.most_common(20))


def print_overview(found: Sequence[Mapping[str, Any]]) -> None:
    """One line for each data set of the store."""
    table = Table("data set", "rows by table")
    for one in found:
        table.add_row(one["dataset"], ", ".join(f"{name} {rows:,}" for name, rows in one["rows"].items()))
    PlainConsole().print(table)


def print_inspection(found: Mapping[str, Any]) -> None:
    """Tables, generations, rewards as a histogram, agreement of label versions, quarantine."""
    console = PlainConsole()
    tables = Table("table", "generations", "rows", "shards", "MB", title=str(found["dataset"]), title_justify="left")
    for one in found["tables"]:
        size = f"{one['bytes'] / 1e6:.2f}"
        tables.add_row(one["table"], str(one["generations"]), f"{one['rows']:,}", str(one["shards"]), size)
    console.print(tables)
    _print_generations(console, found["generations"])
    for version, rewards in found["rewards"].items():
        _print_rewards(console, version, rewards)
    for one in found["agreement"]:
        first, second = one["versions"]
        table = Table(f"{first} \\ {second}", "success", "no success")
        table.add_row("success", f"{one['both']:,}", f"{one[f'only {first}']:,}")
        table.add_row("no success", f"{one[f'only {second}']:,}", f"{one['neither']:,}")
        console.print(table)
        if one["examples"]:
            console.print(f"where they differ: tbrm show {one['examples'][0]} (and {len(one['examples']) - 1} more)")
    if found["quarantine"]:
        table = Table("quarantined because", "rows")
        for reason, rows in found["quarantine"].items():
            table.add_row(reason, f"{rows:,}")
        console.print(table)


def _print_generations(console: PlainConsole, generations: Sequence[Mapping[str, Any]]) -> None:
    newest = max((one["generation"] for one in generations), default=0)
    table = Table(
        "generation", "age", "trajectories", "tokens", "median", "p95", "longest", "finish", "behaviour policy"
    )
    for one in generations:
        finish = ", ".join(f"{name} {count:,}" for name, count in one["finish_reasons"].items())
        table.add_row(
            str(one["generation"]),
            str(newest - one["generation"]),
            f"{one['trajectories']:,}",
            f"{one['response_tokens']:,}",
            f"{one['median_length']:.0f}",
            f"{one['p95_length']:.0f}",
            str(one["longest"]),
            finish,
            ", ".join(one["behaviour_policies"]),
        )
    console.print(table)


def _print_rewards(console: PlainConsole, version: str, rewards: Mapping[str, Any]) -> None:
    statuses = ", ".join(f"{name} {count:,}" for name, count in rewards["statuses"].items())
    console.print(f"{version}: mean {rewards['mean']:.4f}, standard deviation {rewards['std']:.4f}; {statuses}")
    most = max(one["count"] for one in rewards["histogram"])
    for one in rewards["histogram"]:
        if one["count"]:
            bar = "█" * max(1, round(_BAR_WIDTH * one["count"] / most))
            console.print(f"  {one['from']:6.2f} to {one['to']:5.2f} {bar} {one['count']:,}", highlight=False)
