"""Files of ours that somebody damaged or wrote by hand: an experiment, a manifest, a policy's identity, a benchmark."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from assets.experiment.source import read_experiments
from evals.benchmarks.sources import read_jsonl
from evals.benchmarks.user import read_definition
from pipeline.config import load_experiment
from pipeline.config.load import build_experiment, find_experiment
from pipeline.errors import ConfigError, TbrmError
from pipeline.policies.refs import read_policy_json
from pipeline.store.partition import Manifest, ShardInfo, parse_manifest
from tests.property.mutation import SCALARS, TREES, mutated, tree_with_damage

YAML = find_experiment("arith_tiny").read_bytes()
TREE: dict[str, Any] = yaml.safe_load(YAML)
SHARDS = (ShardInfo("shard-00000.parquet", 5, 1_000, "xxh3:00"), ShardInfo("shard-00001.parquet", 4, 900, "xxh3:01"))
MANIFEST = Manifest(
    "tiny", "rollouts", 0, "abc", "0.1.0", {"tiny/prompts/generation=0000": "f" * 16}, SHARDS, {"a": 1.5}
)
POLICY = json.dumps(
    {"policy_id": "f" * 16, "parents": {"configuration": "abc"}, "files": {"model.safetensors": "xxh3:0"}}
)
PROBLEM = json.dumps({"id": "1", "problem": "What is 1+1?", "answer": "2"})
BENCHMARK = b"""
name: sums
problems: sums.jsonl
columns: {id: nr, problem: question, answer: gold}
protocol: {samples: 8}
rows: 200
"""


def read_as_file(data: bytes, name: str, read: Callable[[Path], object]) -> object:
    """What `read` makes of a file with these bytes; a TbrmError is an answer too, and has to say something."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            return read(path)
        except TbrmError as error:
            assert len(str(error)) > 10
            return None


@given(mutated(YAML))
def test_experiment_bytes(data: bytes) -> None:
    read_as_file(data, "fuzzed.yaml", lambda path: load_experiment(str(path)))


@given(tree_with_damage(TREE))
def test_experiment_values(tree: dict[str, Any]) -> None:
    try:
        build_experiment(tree, "fuzzed.yaml")
    except ConfigError as error:
        assert "fuzzed.yaml" in str(error)


@given(st.text(max_size=30), SCALARS)
def test_overrides(path: str, value: object) -> None:
    for text in (path, f"{path}={value}", f"training.{path}={value}", f"training.beta={value}"):
        try:
            load_experiment("arith_tiny", [text])
        except ConfigError as error:
            assert str(error)


@given(mutated(YAML))
def test_a_broken_experiment_does_not_take_the_others_down(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "experiments"
        folder.mkdir()
        (folder / "broken.yaml").write_bytes(data)
        (folder / "sound.yaml").write_bytes(YAML.replace(b"name: arith_tiny", b"name: sound"))
        good, broken = read_experiments(folder)
        assert "sound" in {source.name for source in good}
        assert len(good) + len(broken) == 2


@given(mutated(MANIFEST.to_json().encode()))
def test_manifest_bytes(data: bytes) -> None:
    try:
        manifest = parse_manifest(data.decode(errors="replace"), "_manifest.json")
    except TbrmError as error:
        assert "_manifest.json" in str(error)
    else:
        assert manifest.hash == MANIFEST.hash, "only statistics may change unseen"


@given(st.sampled_from(sorted(json.loads(MANIFEST.to_json()))), TREES)
def test_manifest_values(field: str, value: object) -> None:
    tree = json.loads(MANIFEST.to_json()) | {field: value}
    try:
        parse_manifest(json.dumps(tree), "_manifest.json")
    except TbrmError as error:
        assert "_manifest.json" in str(error)


@given(mutated(POLICY.encode()))
def test_policy_identity(data: bytes) -> None:
    read_as_file(data, "policy.json", lambda path: read_policy_json(path.parent))


@given(mutated("\n".join([PROBLEM] * 4).encode()))
def test_benchmark_rows(data: bytes) -> None:
    read_as_file(data, "sums.jsonl", lambda path: read_jsonl(path, "sums"))


@given(mutated(BENCHMARK))
def test_benchmark_definition(data: bytes) -> None:
    read_as_file(data, "sums.yaml", read_definition)
