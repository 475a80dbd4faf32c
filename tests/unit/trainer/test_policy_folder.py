"""A policy folder that takes another's place: a reader finds one of them whole, and none is lost."""

import threading
from pathlib import Path

import pytest

from pipeline.config.policy import PolicyConfig
from pipeline.config.training import TrainingConfig
from trainer.job import TrainJob
from trainer.stages import policy_folder
from trainer.stages.policy_folder import place

TRAININGS = 200


def finished_job(state: Path, policy: str) -> TrainJob:
    """A job whose exported folder holds one file that says which policy it is."""
    training = TrainingConfig(beta=1.0, learning_rate=1e-3, prompt_batch=1, updates_per_generation=1)
    model = PolicyConfig(base="builtin:tiny-arith")
    job = TrainJob("train[0]", state / "start", state, model, training, updates=1, seed=0, config_hash="h")
    job.out.mkdir(parents=True)
    (job.out / "which").write_text(policy)
    return job


def policies(root: Path) -> dict[str, str]:
    return {path.name: (path / "which").read_text() for path in root.iterdir() if path.name != "state"}


def test_at_every_moment_there_is_a_policy(tmp_path: Path) -> None:
    folder = tmp_path / "generation=0000"
    place(finished_job(tmp_path / "state", "0"), folder)
    missing: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                (folder / "which").read_text()
            except FileNotFoundError:
                missing.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(1, TRAININGS):
            place(finished_job(tmp_path / "state", str(number)), folder)
    finally:
        done.set()
        reader.join()
    if not policy_folder.exchange(*_two_folders(tmp_path / "state")):
        pytest.skip("this file system cannot exchange two folders")
    assert not missing
    assert sorted(map(int, policies(tmp_path).values())) == list(range(TRAININGS))
    assert policies(tmp_path)["generation=0000"] == str(TRAININGS - 1)


def _two_folders(root: Path) -> tuple[Path, Path]:
    first, second = root / "first", root / "second"
    first.mkdir()
    second.mkdir()
    return first, second


def test_without_an_exchange_none_is_lost_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_folder, "exchange", lambda first, second: False)
    folder = tmp_path / "generation=0000"
    for number in range(3):
        place(finished_job(tmp_path / "state", str(number)), folder)
    assert policies(tmp_path) == {
        "generation=0000": "2",
        "generation=0000.replaced-0": "0",
        "generation=0000.replaced-1": "1",
    }


def test_killed_before_the_exchange_the_old_policy_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "generation=0000"
    place(finished_job(tmp_path / "state", "old"), folder)

    def killed(first: Path, second: Path) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(policy_folder, "exchange", killed)
    with pytest.raises(KeyboardInterrupt):
        place(finished_job(tmp_path / "state", "new"), folder)
    assert policies(tmp_path)["generation=0000"] == "old"
