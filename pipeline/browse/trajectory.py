"""One trajectory with everything that is known about it, found by its id without reading whole tables."""

from typing import Any

import pyarrow.compute as pc

from pipeline.store import Partition, Store

_ROLLOUT = (
    *("trajectory_id", "prompt_id", "sample_index", "response_text", "finish_reason", "policy_id", "generation"),
    *("response_token_ids", "behavior_logprobs", "sampling"),
)


def find_trajectory(store: Store, trajectory_id: str) -> dict[str, Any] | None:
    """The trajectory as plain values, None when no committed rollouts hold it.

    `labels` lists every reward and reference log-prob of it, all versions. `residual` is not among them: it depends on
    a policy; training reports it.
    """
    everywhere = [
        store.partition(dataset, "rollouts", generation)
        for dataset in store.datasets()
        for generation in store.generations(dataset, "rollouts")
    ]
    # First the ids alone, which are a hundredth of a shard; what is shown is then read whole and compared with its
    # checksum. Where no id fits, a damaged shard may hold it: so all are read again, and damage is named.
    for ids_of in (Partition.glance, Partition.iter_shards):
        for partition in everywhere:
            for shard, ids in ids_of(partition, ["trajectory_id"]):
                row = pc.index(ids["trajectory_id"], trajectory_id).as_py()
                if row >= 0:
                    return _described(store, partition, shard, row)
    return None


def _described(store: Store, rollouts: Partition, shard: int, row: int) -> dict[str, Any]:
    found: dict[str, Any] = rollouts.read_shard(shard, _ROLLOUT).slice(row, 1).to_pylist()[0]
    tokens, logprobs = found.pop("response_token_ids"), found.pop("behavior_logprobs")
    sampling = {name: value for name, value in found.pop("sampling").items() if value is not None}
    labels = list(_labels(store, rollouts, shard, row))
    reward = next((label["value"] for label in labels if label["table"] == "rewards"), None)
    return {
        **_prompt(store, rollouts, found["prompt_id"]),
        **found,
        "dataset": rollouts.dataset,
        "shard": shard,
        "row": row,
        "response_tokens": len(tokens),
        "behavior_logprob_sum": None if logprobs is None else float(sum(logprobs)),
        "reward": reward,
        "sampling": ", ".join(f"{name} {value}" for name, value in sampling.items()),
        "labels": labels,
    }


def _prompt(store: Store, rollouts: Partition, prompt_id: str) -> dict[str, Any]:
    prompts = store.partition(rollouts.dataset, "prompts", rollouts.generation)
    if prompts.is_committed():
        for _, rows in prompts.iter_shards(["prompt_id", "prompt_text", "answer"]):
            at = pc.index(rows["prompt_id"], prompt_id).as_py()
            if at >= 0:
                row = rows.slice(at, 1).to_pylist()[0]
                return {"prompt_text": row["prompt_text"], "answer": row["answer"]}
    return {"prompt_text": "", "answer": None}


def _labels(store: Store, rollouts: Partition, shard: int, row: int) -> Any:
    for table in store.tables(rollouts.dataset):
        kind = table.partition("@")[0]
        if kind not in ("rewards", "ref_logprobs"):
            continue
        partition = store.partition(rollouts.dataset, table, rollouts.generation)
        if not partition.is_committed():
            continue
        label = partition.read_shard(shard).slice(row, 1).to_pylist()[0]
        if kind == "rewards":
            by = f"{label['verifier']} {label['verifier_version']}".strip()
            shown = (label["reward"], label["status"], label["extracted_answer"], by)
        else:
            shown = (label["ref_logprob_sum"], None, None, label["ref_policy_id"])
        yield dict(zip(("table", "value", "status", "answer", "by"), (table, *shown), strict=True))
