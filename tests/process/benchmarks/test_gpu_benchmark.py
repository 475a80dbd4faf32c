"""`python -m benchmarks.gpu` is rehearsed at toy sizes, survives parts that fail or hang, and its kit is complete."""

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.runner import PARTS, ROOT, Part, run_all
from benchmarks.gpu.tables import BEGIN, END, write_page

MODULE = "tests.process.benchmarks.gpu_parts"


def gpu_kit() -> Any:
    """scripts/gpu-kit as a module."""
    loader = importlib.machinery.SourceFileLoader("gpu_kit", str(ROOT / "scripts" / "gpu-kit"))
    spec = importlib.util.spec_from_loader("gpu_kit", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_every_part_answers_in_the_rehearsal_and_becomes_a_table(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--budget", "800", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(out.read_text())
    assert [row["state"] for row in result["parts"].values()] == ["ok"] * len(PARTS)
    page = tmp_path / "performance.md"
    page.write_text(f"# Before\n{BEGIN}\nan earlier result\n{END}\nafter\n")
    write_page(result, page)
    text = page.read_text()
    assert text.startswith("# Before\n")
    assert text.endswith("after\n")
    assert "an earlier result" not in text
    assert "no figure here says anything about a GPU" in text
    for heading in ("An update of", "Attention of one layer", "Longest response", "Scoring the reference", "with LoRA"):
        assert heading in text


def test_a_part_that_fails_or_hangs_is_recorded_and_the_next_one_runs(tmp_path: Path) -> None:
    names = ("fails", "hangs", "answers")
    parts = [Part(str(i), name, f"{MODULE}:{name}", 20.0, 1.0) for i, name in enumerate(names)]
    out = tmp_path / "gpu.json"
    run_all(parts, out, tmp_path, 400.0, False)
    rows = json.loads(out.read_text())["parts"]
    assert (rows["fails"]["state"], rows["fails"]["answer"]) == ("failed", {"first": 1})
    assert "out of luck" in rows["fails"]["log"][-1]
    assert rows["hangs"]["state"] == "out of time"
    with pytest.raises(ProcessLookupError):
        os.kill(rows["hangs"]["answer"]["child"], 0)
    assert (rows["answers"]["state"], rows["answers"]["answer"]) == ("ok", {"second": 2})


def test_a_part_for_which_no_time_is_left_is_left_out(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    run_all([Part("1", "answers", f"{MODULE}:answers", 20.0, 15.0)], out, tmp_path, 5.0, False)
    assert json.loads(out.read_text())["parts"]["answers"]["state"] == "left out"


def test_the_trainer_imports_from_the_kit_and_what_the_gpu_machine_has(tmp_path: Path) -> None:
    kit = gpu_kit()
    here = [name.partition("==")[0] for name in (*kit.CARRIED, *kit.BUILT)]
    site, machine = kit.links(here, tmp_path / "site"), kit.links(kit.HAS, tmp_path / "machine")
    kit.name_us(site)
    assert "modules of tbrm" in kit.import_all(ROOT, site, machine)
    (site / "hjson").unlink()
    with pytest.raises(SystemExit, match="No module named 'hjson'"):
        kit.import_all(ROOT, site, machine)
