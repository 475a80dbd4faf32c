"""What vLLM is started under: its processes are spawned, and the look for a GPU leaves CUDA alone."""

import os

import pytest
import torch

from pipeline.config.rollouts import RolloutsConfig
from pipeline.sampling.engines.vllm_start import set_environment

PROCESS, METHOD, NVML = (
    "VLLM_ENABLE_V1_MULTIPROCESSING",
    "VLLM_WORKER_MULTIPROC_METHOD",
    "PYTORCH_NVML_BASED_CUDA_CHECK",
)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A CUDA build of torch on a machine with one GPU; the questions that were put to the driver itself."""
    for name in (PROCESS, METHOD, NVML):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    questions: list[str] = []

    def count() -> int:
        questions.append("device count")
        return 1

    monkeypatch.setattr(torch.cuda, "_is_compiled", lambda: True)
    monkeypatch.setattr(torch.cuda, "_device_count_nvml", lambda: 1)
    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", count, raising=False)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: questions.append("init"))
    return questions


def test_the_engine_is_spawned_and_the_driver_is_not_asked(driver: list[str]) -> None:
    set_environment(RolloutsConfig())
    assert (os.environ[METHOD], os.environ[PROCESS]) == ("spawn", "1")
    assert driver == []


def test_without_nvml_the_driver_would_be_asked(driver: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what the test above watches is what a look at CUDA without NVML touches."""
    monkeypatch.setenv(NVML, "0")
    set_environment(RolloutsConfig())
    assert driver == ["device count"]


def test_what_a_user_has_set_stays(driver: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(METHOD, "fork")
    monkeypatch.setenv(PROCESS, "0")
    set_environment(RolloutsConfig())
    assert (os.environ[METHOD], os.environ[PROCESS]) == ("fork", "0")
