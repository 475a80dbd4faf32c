"""`tbrm run arith_tiny`, smaller: every table, hash and policy is what it was when `frozen_store.json` was written.

A change of the code that is to change none of them is held to it. One that means to change them writes the list anew:
`python -m tests.process.loop.test_frozen_store STORE`, and says so in its commit.
"""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from tests.support.tiny import SMALLER, finish, set_options, tbrm

FROZEN = Path(__file__).with_name("frozen_store.json")
WITHOUT_SUMS = ("configurations/", "prompts/", "quarantine/", "logged/")
"""Parts of a store that no sum of floating-point numbers decides: these are alike on every machine."""


def sums() -> str:
    """What decides how sums are rounded. Machines that say the same make the same trajectories and policies."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform.startswith("linux") else []
    said = {name.strip(): value.split() for name, _, value in (line.partition(":") for line in lines)}
    vectors = sorted(flag for flag in said.get("flags", ()) if flag.startswith(("avx", "amx", "fma")))
    processor = " ".join([*said.get("model name", ()), *vectors])
    return f"torch {torch.__version__}, pyarrow {pa.__version__}, {processor}"


def listed(root: Path) -> dict[str, str]:
    """Each committed table, data set and policy below `root`, with the hashes that name its content."""
    found: dict[str, str] = {}
    for path in sorted(root.rglob("_manifest.json")):
        manifest = json.loads(path.read_text())
        found[str(path.parent.relative_to(root))] = f"{manifest['config_hash']} {manifest['hash']}"
    for path in sorted(root.rglob("policy.json")):
        found[str(path.relative_to(root))] = json.loads(path.read_text())["policy_id"]
    for path in sorted(root.rglob("configurations/*.yaml")):
        found[str(path.relative_to(root))] = ""
    return {name: hashes for name, hashes in found.items() if "training_state" not in name}


def test_two_runs_end_alike_and_as_before(tmp_path: Path) -> None:
    changes = set_options(SMALLER)
    experiment = Path(__file__).parents[3] / "experiments" / "arith_tiny.yaml"
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    runs = [tbrm(folder, "run", str(experiment), "--root", "data", *changes) for folder in folders]
    output, _ = [finish(run, timeout_s=600) for run in runs]
    assert "tbrm ui" in output
    assert list((folders[0] / "data" / "arith_tiny").glob("*.png")), "the curves"
    now, again = [listed(folder / "data") for folder in folders]
    assert now == again
    assert len({hashes for name, hashes in now.items() if name.startswith("arith_tiny/policy/")}) == 3
    frozen = json.loads(FROZEN.read_text())
    for part in WITHOUT_SUMS:
        there = {name: hashes for name, hashes in frozen["store"].items() if part in name}
        assert {name: hashes for name, hashes in now.items() if part in name} == there
    if sums() != frozen["sums"]:
        pytest.skip(f"the list was made with {frozen['sums']}; here sums are rounded as by {sums()}")
    assert now == frozen["store"]


if __name__ == "__main__":
    FROZEN.write_text(json.dumps({"sums": sums(), "store": listed(Path(sys.argv[1]))}, indent=1) + "\n")
