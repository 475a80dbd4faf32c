"""The store of `tests.support.report_store`, made once."""

import pytest

from pipeline.config import Experiment, build_experiment
from pipeline.store import Store
from tests.support.report_store import TREE, make_store


@pytest.fixture(scope="session")
def experiment() -> Experiment:
    return build_experiment(TREE, "test")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("report") / "root")
