"""The mirror of an object store's policies: one download for all who ask at once, and nothing left behind."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.policies.refs import POLICY_JSON, fetch, local_root
from pipeline.store import Store, open_store

FILES = ("config.json", "model.safetensors", POLICY_JSON)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An object store in memory that holds a policy; its mirror is in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = open_store(f"memory://{tmp_path.name}")
    fill(found, "first")
    return found


def fill(store: Store, content: str) -> None:
    for name in FILES:
        store.fs.pipe_file(store.join("small", "trained_policy", "generation=0000", name), content.encode())


def place(store: Store) -> Path:
    return local_root(store) / "small" / "trained_policy" / "generation=0000"


def counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Downloads from now on; each takes long enough for others to ask meanwhile."""
    got, get_file = list[str](), store.fs.get_file

    def slow(path: str, target: str, **options: Any) -> None:
        got.append(path)
        time.sleep(0.05)
        get_file(path, target, **options)

    monkeypatch.setattr(store.fs, "get_file", slow)
    return got


def folders(store: Store) -> list[str]:
    return sorted(path.name for path in place(store).parent.iterdir() if path.is_dir())


def test_several_who_ask_at_once_download_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    got = counted(store, monkeypatch)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(store, place(store)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [place(store)] * 4
    assert len(got) == len(FILES)
    assert folders(store) == ["generation=0000"]
    assert (place(store) / "model.safetensors").read_text() == "first"


def test_what_a_killed_one_left_is_deleted(store: Store) -> None:
    left = place(store).with_name("generation=0000.partial")
    left.mkdir(parents=True)
    (left / "model.safetensors").write_text("half")
    fetch(store, place(store))
    assert folders(store) == ["generation=0000"]


def test_another_policy_in_its_place_is_kept_once(store: Store) -> None:
    """It may have been trained here and not be in the store yet."""
    for _ in range(3):
        fill(store, "first")
        fetch(store, place(store))
        fill(store, "second")
        assert (fetch(store, place(store)) / POLICY_JSON).read_text() == "second"
    current, *aside = folders(store)
    assert current == "generation=0000"
    assert len(aside) == 2, "one of each content, however often they change places"
