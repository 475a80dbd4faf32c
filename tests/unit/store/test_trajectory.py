"""One trajectory out of many: found by its id without reading whole tables, shown only as its checksum says it is."""

from pathlib import Path

import pytest

from pipeline.browse.trajectory import find_trajectory
from pipeline.errors import StoreError
from pipeline.store import Store, open_store
from pipeline.store.files import Files
from tests.unit.replay.replay_store import write_generation


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = open_store(str(tmp_path))
    for generation in range(3):
        write_generation(found, "exp", generation)
    return found


def test_only_the_shards_of_the_trajectory_are_read_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read_checked, whole = Files.read_checked, list[str]()

    def noted(files: Files, path: str, size: int, expected: str) -> bytes:
        whole.append(path)
        return read_checked(files, path, size, expected)

    last = store.partition("exp", "rollouts", 2)
    ids = last.read_shard(len(last.manifest().shards) - 1)["trajectory_id"].to_pylist()
    monkeypatch.setattr(Files, "read_checked", noted)
    found = find_trajectory(store, ids[-1])
    assert found is not None
    assert (found["trajectory_id"], found["generation"]) == (ids[-1], 2)
    assert {path.rsplit("/", 2)[-2] for path in whole} == {"generation=0002"}
    assert sum("/rollouts/" in path for path in whole) == 1
    assert find_trajectory(store, "0" * 32) is None


def test_damage_is_named_wherever_it_lies(store: Store) -> None:
    first = store.partition("exp", "rollouts", 0)
    path, wanted = Path(first.shard_path(0)), first.read_shard(0)["trajectory_id"][0].as_py()
    data = bytearray(path.read_bytes())
    for broken in (data[:-9], data[:60] + bytes([data[60] ^ 4]) + data[61:]):
        path.write_bytes(broken)
        for asked in (wanted, "0" * 32):
            with pytest.raises(StoreError, match=r"shard-00000\.parquet is damaged"):
                find_trajectory(store, asked)
