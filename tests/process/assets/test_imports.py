"""What comes up in about a second: commands, validation, the code location and workers import no heavy library."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "vllm", "deepspeed", "transformers", "datasets", "matplotlib", "math_verify"}
HELP = "from pipeline.cli.main import tbrm; tbrm(['--help'], standalone_mode=False)"


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import pipeline.config, pipeline.store", set[str]()),
        (HELP, set[str]()),
        ("import assets.processes.child", {"dagster_pipes"}),
        ("import assets.definitions", {"dagster", "dagster_pipes"}),
    ],
)
def test_no_heavy_import(code: str, allowed: set[str]) -> None:
    imported = imported_by(code)
    assert "pipeline" in imported
    assert imported & (HEAVY | {"dagster", "dagster_pipes"}) <= allowed


def test_verifier_workers_import_nothing_of_the_store_and_the_configuration() -> None:
    imported = imported_by("import pipeline.rewards.workers.worker")
    assert "pipeline" in imported
    assert not imported & (HEAVY | {"pyarrow", "numpy", "pydantic", "fsspec", "yaml"})


def imported_by(code: str) -> set[str]:
    """The packages that a new Python process imports to run `code`."""
    report = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True
    )
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in report.stderr.splitlines()}
