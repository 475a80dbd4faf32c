"""What comes up at once: help, commands, validation, the code location and workers import no heavy library."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "vllm", "deepspeed", "transformers", "datasets", "matplotlib", "math_verify"}
HELP = """
from pipeline.cli.main import COMMANDS, tbrm
words = [["--help"], *([name, "--help"] for name in COMMANDS), ["rewards", "audit", "-h"], ["config", "show", "-h"]]
for each in words:
    tbrm(each, standalone_mode=False)
"""
NOT_FOR_HELP = HEAVY | {"pydantic", "numpy", "pyarrow", "fsspec", "yaml", "rich", "duckdb", "asyncio", "ssl", "email"}
"""What made help take 1.7 s of processor time: without it, a quarter of a second."""


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import pipeline.config, pipeline.store", set[str]()),
        ("import assets.processes.child", {"dagster_pipes"}),
        ("import assets.definitions", {"dagster", "dagster_pipes"}),
    ],
)
def test_no_heavy_import(code: str, allowed: set[str]) -> None:
    assert imported_by(code) & (HEAVY | {"dagster", "dagster_pipes"}) <= allowed


def test_help_imports_click_and_little_else() -> None:
    assert imported_by(HELP) & (NOT_FOR_HELP | {"dagster", "dagster_pipes"}) == set()


def test_verifier_workers_import_nothing_of_the_store_and_the_configuration() -> None:
    imported = imported_by("import pipeline.rewards.workers.worker")
    assert not imported & (HEAVY | {"pyarrow", "numpy", "pydantic", "fsspec", "yaml"})


def imported_by(code: str) -> set[str]:
    """Top-level names of what a new Python imports for the code."""
    report = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in report.stderr.splitlines()}
    assert "pipeline" in imported
    return imported
