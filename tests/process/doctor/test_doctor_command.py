"""`tbrm doctor` as a user calls it, and NVML as a library that answers through its C interface."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from assets.doctor.machine import find_gpus
from tests.support.tiny import finish, tbrm, write_tiny

NVML = r"""
/* The calls of NVML that are made, with the signatures of nvml.h. */
#include <string.h>
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct device *nvmlDevice_t;
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 18 ? "Driver/library version mismatch" : "Unknown Error"; }
int nvmlSystemGetDriverVersion(char *text, unsigned int length) { strncpy(text, "580.65.06", length); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12080; return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
  *device = (nvmlDevice_t)(0x7f0000000000ull + index);
  return 0;
}
int nvmlDeviceGetName(nvmlDevice_t device, char *text, unsigned int length) {
  strncpy(text, (unsigned long long)device & 1 ? "NVIDIA B" : "NVIDIA A", length);
  return 0;
}
int nvmlDeviceGetUUID(nvmlDevice_t device, char *text, unsigned int length) {
  strncpy(text, (unsigned long long)device & 1 ? "GPU-bb" : "GPU-aa", length);
  return 0;
}
int nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
  memory->total = 85899345920ull; memory->free = 80000000000ull; memory->used = 5899345920ull;
  return (unsigned long long)device >> 40 == 0x7f ? 0 : 2;
}
int nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
  *major = 9; *minor = 0;
  return 0;
}
"""


def library(folder: Path, init: int) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, built = folder / "nvml.c", folder / f"libnvml-{init}.so"
    source.write_text(NVML)
    subprocess.run([compiler, "-shared", "-fPIC", f"-DINIT={init}", "-o", built, source], check=True)
    return str(built)


def test_nvml_is_asked_through_its_c_interface(tmp_path: Path) -> None:
    found = find_gpus(library(tmp_path, 0), {})
    assert [(g.name, g.uuid, g.free, g.total, g.capability) for g in found.visible] == [
        ("NVIDIA A", "GPU-aa", 80_000_000_000, 85_899_345_920, (9, 0)),
        ("NVIDIA B", "GPU-bb", 80_000_000_000, 85_899_345_920, (9, 0)),
    ]
    assert (found.driver, found.cuda, found.why_none) == ("580.65.06", (12, 8), "")
    hidden = find_gpus(library(tmp_path, 0), {"CUDA_VISIBLE_DEVICES": ""})
    assert "hides all 2 GPUs" in hidden.why_none
    broken = find_gpus(library(tmp_path, 18), {})
    assert "Driver/library version mismatch" in broken.why_none
    assert "reboot" in broken.next_step
    assert find_gpus("libno-such-nvml.so", {}).why_none


def test_an_experiment_that_runs_here(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    started = time.monotonic()
    found = json.loads(finish(tbrm(tmp_path, "doctor", "tiny", "--json")))
    assert not found["will_stop"]
    rows = {row["check"]: row for row in found["rows"]}
    expected = {"gpu", "versions", "nccl", "policy", "tokenizer", "memory", "disk", "store", "sandbox", "ports"}
    assert expected <= set(rows)
    assert not (tmp_path / "data").exists(), "looking changes nothing"
    assert time.monotonic() - started < 60, "a hanging check is left behind"


def test_an_experiment_that_would_stop(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    run = tbrm(tmp_path, "doctor", "tiny", "--set", "policy.base=/nonexistent/model", "--root", "/proc/nowhere")
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "there is no folder /nonexistent/model" in " ".join(output.replace("│", "").split())
    assert output.count("STOP") == 2, "policy and store"


def test_the_machine_alone(tmp_path: Path) -> None:
    found = json.loads(finish(tbrm(tmp_path, "doctor", "--json")))
    checks = [row["check"] for row in found["rows"]]
    assert {"gpu", "versions", "nccl", "memory", "disk", "store", "sandbox", "ports"} <= set(checks)
    assert "policy" not in checks
