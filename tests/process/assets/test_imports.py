"""What comes up in about a second: commands, validation and the code location import no heavy library."""

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
    report = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in report.stderr.splitlines()}
    assert "pipeline" in imported
    assert imported & (HEAVY | {"dagster", "dagster_pipes"}) <= allowed
