"""Checkpoints are whole or absent, and a damaged one is never used."""

import errno
import os
from pathlib import Path

import pytest

from pipeline.errors import TbrmError
from trainer.engine.checkpoint import (
    Checkpoint,
    checkpoint_path,
    mark_exported,
    newest_good,
    prune,
    read_checkpoint,
    write_checkpoint,
)


def write(root: Path, update: int, content: str = "weights", config_hash: str = "hash") -> None:
    def save(folder: Path) -> None:
        (folder / "policy").mkdir()
        (folder / "policy" / "weights.pt").write_text(content)

    write_checkpoint(Checkpoint(checkpoint_path(root, update), update, update, config_hash, 1, 1), save, leader=True)


def test_round_trip_and_identity_of_the_exported_policy(tmp_path: Path) -> None:
    write(tmp_path, 3)
    found = read_checkpoint(checkpoint_path(tmp_path, 3))
    assert (found.update, found.policy_id, list(found.files)) == (3, None, ["policy/weights.pt"])
    mark_exported(found, "abc")
    assert read_checkpoint(found.path).policy_id == "abc"


@pytest.mark.parametrize("damage", ["change", "truncate", "remove", "no_meta", "other_meta"])
def test_damaged_checkpoint_is_passed_over_with_a_message(tmp_path: Path, damage: str) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    newest = checkpoint_path(tmp_path, 2)
    weights = newest / "policy" / "weights.pt"
    if damage == "remove":
        weights.unlink()
    elif damage == "no_meta":
        (newest / "checkpoint.json").unlink()
    elif damage == "other_meta":
        meta = newest / "checkpoint.json"
        meta.write_text(meta.read_text().replace('"update": 2', '"update": "two"'))
    else:
        weights.write_text("Weights" if damage == "change" else "wei")
    said: list[str] = []
    found = newest_good(tmp_path, "hash", said.append)
    assert found is not None
    assert found.update == 1
    assert str(newest) in said[0]


def test_half_written_checkpoint_is_invisible_and_swept_up(tmp_path: Path) -> None:
    def die(folder: Path) -> None:
        (folder / "weights.pt").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write(tmp_path, 1)
    with pytest.raises(TbrmError, match=r"cannot write .*update-00000002: No space left on device"):
        write_checkpoint(Checkpoint(checkpoint_path(tmp_path, 2), 2, 2, "hash", 1, 1), die, leader=True)
    found = newest_good(tmp_path, "hash", print)
    assert found is not None
    assert found.update == 1
    prune(tmp_path, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["update-00000001"]


def test_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1, config_hash="other")
    with pytest.raises(TbrmError, match="another configuration"):
        newest_good(tmp_path, "hash", print)


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    for update in (1, 2, 10):
        write(tmp_path, update)
    prune(tmp_path, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["update-00000002", "update-00000010"]
