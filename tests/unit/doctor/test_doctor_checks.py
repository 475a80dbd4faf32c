"""What the doctor finds on disks and networks: real folders, real sockets, and a hub on this machine."""

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from assets.doctor.checks import (
    check_benchmarks,
    check_logged,
    check_other_models,
    check_ports,
    check_postgres,
    check_prompts,
    check_sandbox,
    check_servers,
    check_store,
    policy_facts,
)
from assets.doctor.examination import _side_by_side
from pipeline.config import load_experiment
from pipeline.errors import TbrmError
from pipeline.policies.facts import model_facts
from pipeline.policies.hub import HubSilent
from pipeline.policies.tiny import save_tiny_arith
from pipeline.run.requirements import missing_requirements
from pipeline.sandbox import Protections
from pipeline.store import open_store

HUB = {
    "/api/models/org/good/revision/main": {
        "siblings": [{"rfilename": "model.safetensors"}, {"rfilename": "tokenizer.json"}],
        "safetensors": {"total": 12_345},
        "config": {"tokenizer_config": {"chat_template": "{{ messages }}"}},
    },
    "/org/good/resolve/main/config.json": {"hidden_size": 8, "num_hidden_layers": 2},
    "/api/models/org/pickles/revision/main": {"siblings": [{"rfilename": "pytorch_model.bin"}]},
    "/api/datasets/org/prompts/revision/abc": {"id": "org/prompts"},
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The part of the hub's API that is asked, at an address of this machine; an empty cache."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            tree = HUB.get(self.path)
            self.send_response(404 if tree is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(tree).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path))
        yield address
        server.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_tiny_arith(path, 1)
    return path


def test_a_folder_is_read_without_loading_it(folder: Path) -> None:
    facts = model_facts(str(folder))
    assert facts.parameters == 857_472
    assert facts.config["hidden_size"] == 128
    assert (facts.problem, facts.chat_template) == ("", False)


def test_a_broken_tokenizer_is_named(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert "has no tokenizer.json" in model_facts(str(tmp_path)).problem
    (tmp_path / "tokenizer.json").write_text("{")
    assert "cannot be read" in model_facts(str(tmp_path)).problem
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert "eos_token" in model_facts(str(tmp_path)).problem
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(TbrmError, match="safetensors"):
        model_facts(str(tmp_path))


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("/nonexistent/model", "no folder"),
        ("builtin:huge", "builtin:tiny-arith"),
        ("package:no_such_package", "absent"),
    ],
)
def test_a_model_that_does_not_exist(base: str, words: str) -> None:
    with pytest.raises(TbrmError, match=words):
        model_facts(base)


@pytest.mark.usefixtures("hub")
def test_the_hub_tells_size_and_template() -> None:
    facts = model_facts("org/good")
    assert (facts.parameters, facts.chat_template, facts.config["hidden_size"]) == (12_345, True, 8)
    with pytest.raises(TbrmError, match="safetensors"):
        model_facts("org/pickles")
    with pytest.raises(TbrmError, match="shows no org/nothing") as error:
        model_facts("org/nothing")
    assert not isinstance(error.value, HubSilent)


def test_a_silent_hub_is_told_from_a_model_that_is_not_there(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(HubSilent, match="did not answer"):
        model_facts("org/good")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubSilent, match="HF_HUB_OFFLINE"):
        model_facts("org/good")


def test_what_the_cache_has_is_not_asked_of_the_hub(hub: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Path(huggingface_hub.constants.HF_HUB_CACHE) / "models--org--cached"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / "abc").symlink_to(folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert model_facts("org/cached").parameters == 857_472


@pytest.mark.usefixtures("hub")
def test_prompts_and_benchmarks_of_the_hub() -> None:
    source = ["prompts.source=hf", "prompts.path=org/prompts", "prompts.revision=abc"]
    assert check_prompts(load_experiment("arith_tiny", source))[0].state == "ok"
    (row,) = check_prompts(load_experiment("arith_tiny", [*source, "prompts.revision=main"]))
    assert row.state == "stop"
    (row,) = check_benchmarks(load_experiment("arith_tiny", ["evaluation.benchmarks=[heldout, amc23]"]))
    assert row.state == "stop"
    assert "math-ai/amc23" in row.found
    assert check_benchmarks(load_experiment("arith_tiny"))[0].state == "ok"
    (row,) = check_benchmarks(load_experiment("arith_tiny", ["evaluation.benchmarks=[amc24]"]))
    assert "there is no benchmark 'amc24'" in row.found


def test_benchmarks_of_a_folder(tmp_path: Path) -> None:
    asked = ["evaluation.benchmarks=[amc23]", f"evaluation.source={tmp_path}"]
    (row,) = check_benchmarks(load_experiment("arith_tiny", asked))
    assert row.state == "stop"
    assert str(tmp_path / "amc23.jsonl") in row.found
    rows = (json.dumps({"id": str(i), "problem": "1+1", "answer": "2"}) for i in range(40))
    (tmp_path / "amc23.jsonl").write_text("\n".join(rows))
    assert check_benchmarks(load_experiment("arith_tiny", asked))[0].state == "ok"


def test_a_prompt_file_that_is_not_there() -> None:
    (row,) = check_prompts(load_experiment("arith_tiny", ["prompts.source=file", "prompts.path=/nowhere.jsonl"]))
    assert (row.state, "prompts.path" in row.next_step) == ("stop", True)


def test_the_store_is_written_and_left_as_it_was(tmp_path: Path) -> None:
    assert check_store(open_store(str(tmp_path)))[0].state == "ok"
    assert not list(tmp_path.iterdir())
    assert check_store(open_store(str(tmp_path / "new" / "data")))[0].state == "ok"
    assert not list(tmp_path.iterdir()), "a store that is not there is not made by looking"
    assert check_store(open_store("memory://doctor"))[0].state == "ok"
    (row,) = check_store(open_store("/proc/store"))
    assert row.state == "stop"


def test_a_published_policy_is_looked_at_in_place_of_its_base(tmp_path: Path, folder: Path) -> None:
    from pipeline.policies.refs import publish_policy, write_policy_json

    store = open_store(str(tmp_path))
    mine = tmp_path / "arith_tiny" / "base_policy" / "base"
    mine.mkdir(parents=True)
    for path in folder.iterdir():
        (mine / path.name).write_bytes(path.read_bytes())
    write_policy_json(mine, {})
    publish_policy(store, "arith_tiny", 0, mine, {})
    assert policy_facts(store, load_experiment("arith_tiny", ["policy.base=/nonexistent/base"])).where == str(mine)


def test_a_teacher_or_reference_that_does_not_exist(folder: Path) -> None:
    assert check_other_models(load_experiment("arith_tiny", ["policy.base=/nonexistent/base"])) == []
    assert check_other_models(load_experiment("arith_tiny", [f"reference.policy={folder}"])) == []
    (row,) = check_other_models(load_experiment("arith_tiny", ["rollouts.policy=/nonexistent/teacher"]))
    assert (row.state, "rollouts.policy" in row.found) == ("stop", True)


def test_logged_data_that_nobody_has_imported(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert check_logged(store, load_experiment("arith_tiny"))[0].state == "ok", "the warm start writes it"
    (row,) = check_logged(store, load_experiment("arith_tiny", ["replay.logged=[{name: mine}]"]))
    assert (row.state, "tbrm import --name mine" in row.next_step) == ("stop", True)


def test_ports_and_servers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (row,) = check_ports(port)
        assert (row.state, f"--port {port + 1}" in row.next_step) == ("warning", True)
        teacher = [f"rollouts.policy='http://127.0.0.1:{port}/v1#m'", "rollouts.engine=auto"]
        assert check_servers(load_experiment("arith_tiny", teacher))[0].state == "ok"
        assert check_postgres({"TBRM_POSTGRES_URL": f"postgresql://u:p@127.0.0.1:{port}/db"})[0].state == "ok"
    assert check_ports(port)[0].state == "ok"
    (row,) = check_servers(load_experiment("arith_tiny", teacher))
    assert row.state == "stop"
    (row,) = check_postgres({"TBRM_POSTGRES_URL": f"postgresql://u:p@127.0.0.1:{port}/db"})
    assert row.state == "stop"
    assert "u:p" not in row.found, "no password in what is shown"


def test_gaps_of_the_sandbox_are_named() -> None:
    assert (
        check_sandbox(lambda: Protections("empty", "none", "user", "read-only", "version 7", "filter"))[0].state == "ok"
    )
    (row,) = check_sandbox(lambda: Protections("empty"))
    assert row.state == "warning"
    assert "reach the network" in row.found


def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    experiment = load_experiment(
        "arith_tiny", ["policy.attention=flash_attention_3", "launch={by: slurm, stages: {rewards: []}}"]
    )
    told = missing_requirements(experiment)
    assert [line.partition(":")[0] for line in told] == ["launch.by", "policy.attention"]
    assert missing_requirements(load_experiment("arith_tiny")) == []


def test_a_check_that_hangs_costs_the_deadline_and_no_more() -> None:
    def fails() -> None:
        raise RuntimeError("broken")

    started = time.monotonic()
    done, silent = _side_by_side({"quick": lambda: 1, "slow": lambda: time.sleep(30), "bad": fails}, 0.2)
    assert time.monotonic() - started < 10
    assert done == {"quick": 1}
    assert silent == {"slow": "no answer within 0.2 s", "bad": "RuntimeError: broken"}
