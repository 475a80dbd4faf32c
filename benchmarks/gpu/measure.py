"""Time and peak memory of a block, on the GPU or, for the rehearsal, on the CPU."""

import gc
import time
from collections.abc import Callable
from typing import Any

import torch


def device() -> torch.device:
    """`cuda` where there is a GPU, else `cpu`."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    """Wait until the GPU has done what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free_memory() -> None:
    """Give back what no tensor holds, and count peaks from here."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb() -> float | None:
    """Largest GPU memory allocated since `free_memory`, in GiB; None on a CPU."""
    return round(torch.cuda.max_memory_allocated() / 2**30, 3) if torch.cuda.is_available() else None


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """Median seconds of `repeats` calls after one that is not counted."""
    work()
    taken: list[float] = []
    for _ in range(repeats):
        synchronize()
        started = time.perf_counter()
        work()
        synchronize()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[len(taken) // 2]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Cosine of two tensors of one shape, in fp64."""
    x, y = a.double().flatten(), b.double().flatten()
    return float(x @ y / (x.norm() * y.norm()))
