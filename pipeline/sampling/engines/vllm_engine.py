"""Sampling through vLLM: continuous batching of whole shards, one version for GPUs and CPUs.

The scheduler sees a whole shard before its first step and finds its cache empty: then equal shards are batched equally,
and a resumed one has equal bytes.
"""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.policies.refs import PolicyRef
from pipeline.sampling.engines.base import Request, Sample, Sampling
from pipeline.sampling.engines.vllm_start import VllmStart, arguments, in_own_process, reasons, set_environment


class VllmEngine:
    """See Engine. Raises TbrmError with the reason and the last lines of vLLM's log when it cannot start.

    With `stays` it can `rest` between generations, and `load` the weights of the next one.
    """

    name = "vllm"

    def __init__(self, start: VllmStart, stays: bool = False) -> None:
        set_environment(start.engine)
        settings = arguments(start, stays)
        with reasons(start.policy.path):
            import vllm  # pyright: ignore[reportMissingImports]

            self.llm: Any = vllm.LLM(**settings)
        self.version, self.stop_ids = str(vllm.__version__), list(start.stop_ids)
        self.adapter = _adapter(start.policy)
        self._resting = False

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        """One sample for each request, in order; all are submitted before the first is worked on."""
        from vllm import RequestOutput, SamplingParams  # pyright: ignore[reportMissingImports]

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
                flat_logprobs=True,  # two lists instead of an object a token
                stop_token_ids=self.stop_ids,
                stop=list(sampling.stop) or None,
                include_stop_str_in_output=True,
                detokenize=bool(sampling.stop),
                skip_special_tokens=False,
            )
            for request in requests
        ]
        prompts = [{"prompt_token_ids": request.prompt_token_ids} for request in requests]
        # The core in a process of its own would begin with the first request while the others are still being sent.
        pause = in_own_process()
        if pause:
            self.llm.sleep(level=0, mode="wait")
        self.llm.enqueue(prompts, parameters, use_tqdm=False, lora_request=self.adapter)
        if pause:
            self.llm.wake_up(tags=["scheduling"])
        outputs = self.llm.wait_for_completion(RequestOutput, use_tqdm=False)
        return [_sample(output.outputs[0]) for output in outputs]

    def rest(self) -> None:
        """Give GPU memory back until the next `load`. Where there is no GPU, memory stays."""
        import torch

        if torch.cuda.is_available() and not self._resting:
            self.llm.sleep(level=2)
            self._resting = True

    def load(self, policy: PolicyRef) -> None:
        """Take the weights of another policy of the same architecture in place. Raises TbrmError."""
        with reasons(policy.path):
            if self._resting:
                self.llm.wake_up(tags=["weights"])
            self.llm.collective_rpc("reload_weights", kwargs={"weights_path": policy.path})
            if self._resting:
                self.llm.wake_up(tags=["kv_cache"])
        self._resting = False

    def close(self) -> None:
        """End the engine and its workers, and free GPU memory."""
        import torch

        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _sample(output: Any) -> Sample:
    ids, logprobs = list(output.token_ids), list(output.logprobs.logprobs)
    if len(ids) != len(logprobs):
        raise AssertionError(f"vLLM told {len(logprobs)} log-probs for {len(ids)} tokens")
    return Sample(ids, logprobs, "stop" if output.finish_reason == "stop" else "length")


def _adapter(policy: PolicyRef) -> Any:
    if policy.adapter is None:
        return None
    from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]

    return LoRARequest("adapter", 1, str(Path(policy.adapter).resolve()))
