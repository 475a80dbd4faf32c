"""`tbrm lineage` on what others wrote, or long runs left: a tree or one sentence."""

import json
import uuid
from collections.abc import Generator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.browse.lineage import Node, trace
from pipeline.cli.main import tbrm
from pipeline.errors import TbrmError
from pipeline.policies.refs import POLICY_JSON
from pipeline.store import Store, open_store
from tests.unit.replay.replay_store import write_table


@pytest.fixture
def store() -> Generator[Store]:
    store = open_store(f"memory://{uuid.uuid4().hex}")
    yield store
    if store.fs.exists(store.base):
        store.fs.rm(store.base, recursive=True)


def deepest(node: Node) -> Node:
    while node.parents:
        (node,) = node.parents
    return node


def test_a_run_of_hundreds_of_generations_is_walked_in_parts(store: Store) -> None:
    name, used = "", ""
    for generation in range(300):
        for table in ("rollouts", "rewards"):
            used = write_table(store, "exp", table, generation, [], {name: used} if name else {})
            name = f"exp/{table}/generation={generation:04d}"
    found = deepest(trace(store, name))
    assert found.facts == {"goes on with": f"tbrm lineage {found.name}"}
    steps = 0
    while found.facts.get("goes on with"):
        found, steps = deepest(trace(store, found.name)), steps + 1
    assert found.name == "exp/rollouts/generation=0000"
    assert steps == 5
    for options in ([], ["--json"]):
        result = CliRunner().invoke(tbrm, ["lineage", name, "--root", store.root, *options])
        assert result.exit_code == 0, result.exception
        assert "exp/rewards/generation=0299" in result.output


@pytest.mark.parametrize("what", ["exp:" + "9" * 5_000, "exp/rollouts/generation=" + "9" * 5_000, "exp:\u0663"])
def test_a_generation_that_is_none_is_told(store: Store, what: str) -> None:
    with pytest.raises(TbrmError, match="names nothing"):
        trace(store, what)


@pytest.mark.parametrize("content", ["{", "[]", '{"mix": {"sources": [{}]}}', '{"mix": {"sources": 3}}', "[" * 100_000])
def test_what_a_damaged_training_says_is_told(tmp_path: Path, content: str) -> None:
    store, folder = open_store(str(tmp_path)), tmp_path / "exp" / "trained"
    folder.mkdir(parents=True)
    (folder / POLICY_JSON).write_text(json.dumps({"policy_id": "abc", "parents": {}, "files": {}}))
    (folder / "training.json").write_text(content)
    pointer = store.join("exp", "policy", "generation=0000", POLICY_JSON)
    store.write_atomic(pointer, json.dumps({"policy_id": "abc", "folder": "exp/trained", "parents": {}}).encode())
    Path(store.base, "exp", "policy", "notes").mkdir()
    with pytest.raises(TbrmError, match=r"training\.json is damaged"):
        trace(store, "abc")
