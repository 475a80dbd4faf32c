"""Fixtures of the orchestration tests."""

import pytest


@pytest.fixture
def no_dagster_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a Dagster home nor a store root from outside; both are restored afterwards."""
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv("TBRM_ROOT", "")
