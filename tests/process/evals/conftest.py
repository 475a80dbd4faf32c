"""A store with an untrained tiny policy published as policy[0]."""

from pathlib import Path

import pytest

from pipeline.store import Store, open_store
from tests.support.evals_store import publish


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "root"))
    publish(store, 0, seed=0)
    return store
