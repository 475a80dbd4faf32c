"""A checkpoint is data: DeepSpeed's files are pickles, and what a forged one names is never run."""

import hashlib
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from pipeline.errors import TbrmError
from tests.unit.trainer.jobs import job_of, mix, policy_folder
from trainer.job import TrainJob
from trainer.loop.worker import train_policy


class Code:
    """Unpickled without care, it makes the folder `mark`."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call, self.arguments


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy_folder(tmp_path_factory.mktemp("policies") / "policy")


@pytest.fixture(scope="module")
def table(policy: Path) -> pa.Table:
    return mix(policy, policy)


def stopped(table: pa.Table, policy: Path, state: Path, zero_stage: int) -> TrainJob:
    """A job of two updates that has done one, with the checkpoint it left."""
    job = job_of(table, policy, state, updates=1, zero_stage=zero_stage, checkpoint_every=1)
    train_policy(job)
    return replace(job, updates=2)


def forge(checkpoint: Path, name: str, content: bytes) -> None:
    """Replace a file, and its hash in `checkpoint.json` with it, as whoever can write the folder would."""
    (checkpoint / name).write_bytes(content)
    meta = json.loads((checkpoint / "checkpoint.json").read_text())
    meta["files"][name] = hashlib.sha256(content).hexdigest()
    (checkpoint / "checkpoint.json").write_text(json.dumps(meta))


def zipped(value: Any, folder: Path) -> bytes:
    path = folder / "zipped.pt"
    torch.save(value, path)
    return path.read_bytes()


def legacy(value: Any, folder: Path) -> bytes:
    path = folder / "legacy.pt"
    torch.save(value, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
@pytest.mark.parametrize("kind", ["model_states.pt", "optim_states.pt"])
def test_a_forged_file_runs_nothing(table: pa.Table, policy: Path, tmp_path: Path, zero_stage: int, kind: str) -> None:
    job = stopped(table, policy, tmp_path / "state", zero_stage)
    checkpoint = job.state / "update-00000001"
    files = sorted(str(path.relative_to(checkpoint)) for path in checkpoint.rglob(f"*{kind}"))
    assert files or (zero_stage, kind) == (0, "optim_states.pt")
    mark = tmp_path / "mark"
    for name in files:
        good = torch.load(checkpoint / name, weights_only=False)
        for code in (
            Code(os.mkdir, str(mark)),
            Code(eval, f"__import__('os').mkdir({str(mark)!r})"),
            Code(Path.mkdir, mark),
            Code(getattr, Path, "mkdir"),
        ):
            for content in (
                zipped(good | {"more": code}, tmp_path),
                legacy(good | {"more": code}, tmp_path),
                pickle.dumps(code),
            ):
                forge(checkpoint, name, content)
                with pytest.raises(
                    TbrmError, match=r"holds more than tensors and plain values .*Nothing of it was run"
                ):
                    train_policy(job)
                assert not mark.exists()


@pytest.mark.parametrize("switch", ["0", "1"])
def test_a_whole_one_is_gone_on_from(
    table: pa.Table, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    """Also converted to another ZeRO stage, and whatever torch's switch for trusted files says."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", switch)
    job = stopped(table, policy, tmp_path / "state", zero_stage=1)
    other = replace(job, training=job.training.model_copy(update={"zero_stage": 2}))
    result = train_policy(job if switch == "0" else other)
    assert result.resumed_from == 1
    assert len(result.metrics) == 2
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == switch


def test_a_forged_file_is_not_converted_either(table: pa.Table, policy: Path, tmp_path: Path) -> None:
    job = stopped(table, policy, tmp_path / "state", zero_stage=1)
    checkpoint = job.state / "update-00000001"
    mark = tmp_path / "mark"
    other = replace(job, training=job.training.model_copy(update={"zero_stage": 2}))
    for path in sorted(checkpoint.rglob("*_states.pt")):
        name, good = str(path.relative_to(checkpoint)), path.read_bytes()
        forged = torch.load(path, weights_only=False) | {"more": Code(os.mkdir, str(mark))}
        forge(checkpoint, name, zipped(forged, tmp_path))
        with pytest.raises(TbrmError, match="holds more than tensors and plain values"):
            train_policy(other)
        assert not mark.exists()
        forge(checkpoint, name, good)
    assert train_policy(other).resumed_from == 1
