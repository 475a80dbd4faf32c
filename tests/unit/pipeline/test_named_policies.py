"""What a policy's name means: a folder, a repository of the hub at a commit, or a server; and who it then is."""

from pathlib import Path

import huggingface_hub.constants
import pytest

from pipeline.config import changed_experiment
from pipeline.config.policy import HubModel, PolicyFolder, ServerModel, named_policy
from pipeline.errors import TbrmError
from pipeline.policies.hub import local_folder
from pipeline.policies.refs import content_hash, foreign_policy
from pipeline.policies.tiny import save_tiny_arith
from pipeline.reference import reference_id, reference_policy
from pipeline.sampling.rollouts import behaviour_policy
from pipeline.store import Store, open_store
from tests.support.tiny_store import make_experiment

FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache on this machine, which is not connected: `org/teacher` at two commits, `main` is the first."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--org--teacher"
    for seed, commit in enumerate((FIRST, SECOND)):
        save_tiny_arith(repository / "snapshots" / commit, seed)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(FIRST)
    return repository


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "data"))


def test_each_name_means_one_thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "here").mkdir(parents=True)
    assert named_policy("http://localhost:8000/v1#m") == ServerModel("http://localhost:8000/v1#m")
    assert named_policy("org/here") == PolicyFolder(Path("org/here"))
    assert named_policy("org/there") == HubModel("org/there")
    assert named_policy("org/there", "v1") == HubModel("org/there", "v1")
    assert named_policy("org/there@v2", "v1") == HubModel("org/there", "v2")
    for folder in ("./org", "/srv/policy", "runs/a/policy"):
        assert named_policy(folder) == PolicyFolder(Path(folder))
    assert named_policy("~/policy") == PolicyFolder(Path.home() / "policy")


def test_a_hub_model_is_named_by_its_commit_and_loaded_from_a_folder(cache: Path) -> None:
    newest, pinned = foreign_policy(HubModel("org/teacher")), foreign_policy(HubModel("org/teacher", SECOND))
    assert newest.policy_id == f"org/teacher@{FIRST}"
    assert pinned.policy_id == f"org/teacher@{SECOND}"
    assert Path(pinned.path) == cache / "snapshots" / SECOND


def test_a_folder_is_named_by_its_content(cache: Path) -> None:
    folder = cache / "snapshots" / FIRST
    assert foreign_policy(PolicyFolder(folder)).policy_id == content_hash(folder)


@pytest.mark.usefixtures("cache")
def test_another_revision_is_another_reference_and_another_teacher(store: Store) -> None:
    experiment = make_experiment(reference={"policy": "org/teacher"})
    pinned = changed_experiment(experiment, [f"reference.revision={SECOND!r}"])
    assert reference_id(store, experiment) == f"org/teacher@{FIRST}"
    assert reference_id(store, pinned) == f"org/teacher@{SECOND}" == reference_policy(store, pinned).policy_id
    taught = changed_experiment(experiment, [f"rollouts.policy=org/teacher@{SECOND}"])
    assert taught.rollouts is not None
    assert behaviour_policy(store, taught, taught.rollouts, 0).policy_id == f"org/teacher@{SECOND}"


@pytest.mark.usefixtures("cache")
def test_what_cannot_be_had_is_said(store: Store) -> None:
    with pytest.raises(TbrmError, match="org/nothing is not in the cache"):
        foreign_policy(HubModel("org/nothing"))
    with pytest.raises(TbrmError, match=r"there is no folder /nowhere"):
        foreign_policy(PolicyFolder(Path("/nowhere")))
    with pytest.raises(TbrmError, match="is a server"):
        local_folder(ServerModel("http://localhost:1/v1#m"))
    with pytest.raises(TbrmError, match=r"reference\.policy: .* is a server"):
        reference_id(store, make_experiment(reference={"policy": "http://localhost:1/v1#m"}))
