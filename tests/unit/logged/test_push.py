"""`tbrm export` of a policy, and `--push`: what the hub's own client sends to a server that speaks the hub's calls."""

import json
from collections.abc import Generator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli.main import tbrm
from pipeline.policies.refs import publish_policy, published, write_policy_json
from pipeline.policies.tiny import save_tiny_arith
from pipeline.store import Store, open_store
from tests.support.hub_server import COMMIT, Hub, hub_server
from tests.support.logs import imported, jsonl


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Generator[Hub]:
    with hub_server() as found:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        yield found


@pytest.fixture
def root(tmp_path: Path, tokenizer: str) -> Path:
    rows = [{"prompt": f"{n}+1=", "response": "2", "reward": 1.0} for n in range(4)]
    imported(tmp_path / "root", tokenizer, jsonl(tmp_path / "log.jsonl", rows))
    return tmp_path / "root"


def exported(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(tbrm, ["export", "--root", str(root), *arguments])


def test_a_data_set_is_pushed_with_its_card(hub: Hub, root: Path, tmp_path: Path) -> None:
    done = exported(root, "logged/log", str(tmp_path / "out"), "--push", "somebody/log")
    assert done.exit_code == 0, done.output
    assert f"pushed: {hub.url}/datasets/somebody/log/commit/{COMMIT}" in done.output
    (made,) = hub.made
    assert (made["name"], made["organization"], made["type"]) == ("log", "somebody", "dataset")
    assert made["visibility"] == "private"
    assert hub.commits == ["/api/datasets/somebody/log/commit/main"]
    out = tmp_path / "out"
    here = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert hub.files == here
    assert hub.tokens == {"Bearer hf_of_a_test"}


def test_public_is_asked_for(hub: Hub, root: Path, tmp_path: Path) -> None:
    assert exported(root, "logged/log", str(tmp_path / "out"), "--push", "somebody/log", "--public").exit_code == 0
    assert hub.made[0]["visibility"] == "public"
    refused = exported(root, "logged/log", str(tmp_path / "other"), "--public")
    assert (refused.exit_code, (tmp_path / "other").exists()) == (1, False)


def test_a_refused_push_leaves_the_folder_and_says_what_to_do(hub: Hub, root: Path, tmp_path: Path) -> None:
    hub.refuse = True
    done = exported(root, "logged/log", str(tmp_path / "out"), "--push", "somebody/log")
    assert done.exit_code == 1
    assert "hf upload somebody/log" in done.output
    assert "rights" in done.output
    assert (tmp_path / "out" / "README.md").exists()


@pytest.fixture
def policy(tmp_path: Path) -> Store:
    """policy[0] of `exp`, with a configuration that was kept, its training mix and its scores."""
    store = open_store(str(tmp_path / "root"))
    folder = tmp_path / "root" / "exp" / "weights"
    folder.mkdir(parents=True)
    save_tiny_arith(folder, seed=1)
    write_policy_json(folder, {"logged/mine/rollouts/generation=0000": "abc"})
    sources = [{"dataset": "logged/mine", "generation": 0, "kept": 90, "available": 100}]
    (folder / "training.json").write_text(json.dumps({"training": {"objective": "tbrm"}, "mix": {"sources": sources}}))
    kept = tmp_path / "root" / "exp" / "configurations" / "k.yaml"
    kept.parent.mkdir()
    kept.write_text("policy: {base: Qwen/Qwen2.5-Math-1.5B, revision: abcdef}\n")
    publish_policy(store, "exp", 1, folder, {}, configuration="exp/configurations/k.yaml")
    stats = {"math500_accuracy": 0.5, "math500_accuracy_low": 0.456, "math500_accuracy_high": 0.544}
    with store.partition("exp", "scores", 1).writer("key", {}) as writer:
        writer.commit(0, stats)
    return store


def test_a_policy_gets_a_model_card(hub: Hub, policy: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = exported(tmp_path / "root", "exp:1", str(out), "--push", "somebody/model")
    assert done.exit_code == 0, done.output
    card = (out / "README.md").read_text(encoding="utf-8")
    for told in (
        "base_model: Qwen/Qwen2.5-Math-1.5B\n",
        "license: other",
        "| math500 | 0.500 [0.456, 0.544] |",
        "- logged/mine generation 0: 90 of 100 trajectories",
        "Objective: `tbrm`",
        "tbrm run exp",
        str(published(policy, "exp", 1)["policy_id"]),
        "- logged/mine/rollouts/generation=0000: `abc`",
    ):
        assert told in card
    assert hub.commits == ["/api/models/somebody/model/commit/main"]
    assert {"model.safetensors", "config.json", "README.md"} <= set(hub.files)
    assert "training.json" not in hub.files


def test_the_exported_policy_loads(policy: Store, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = str(tmp_path / "out")
    assert exported(tmp_path / "root", "exp:1", out).exit_code == 0
    assert len(AutoTokenizer.from_pretrained(out)) <= AutoModelForCausalLM.from_pretrained(out).config.vocab_size


def test_scores_of_another_policy_are_not_shown(policy: Store, tmp_path: Path) -> None:
    parents = {"exp/policy/generation=0001": "of another"}
    with policy.partition("exp", "scores", 1).writer("key", parents, replace=True) as writer:
        writer.commit(0, {"math500_accuracy": 0.9, "math500_accuracy_low": 0.8, "math500_accuracy_high": 1.0})
    assert exported(tmp_path / "root", "exp:1", str(tmp_path / "out")).exit_code == 0
    assert "0.900" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("exp:7", "out"), "is not published yet"), (("exp:1", "out", "--as", "sft"), "exp:1 is a policy")],
)
def test_what_is_no_policy_to_export(
    policy: Store, tmp_path: Path, arguments: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = exported(tmp_path / "root", *arguments)
    assert done.exit_code == 1
    assert told in done.output
    assert not (tmp_path / "out").exists()
