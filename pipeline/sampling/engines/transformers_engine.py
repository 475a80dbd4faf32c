"""Sampling through transformers' own `generate`: no start-up cost, right for small models and for CPUs."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
import transformers
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pipeline.config.policy import PolicyConfig
from pipeline.policies.load_save import device, load_model
from pipeline.policies.refs import PolicyRef
from pipeline.run.progress import Task
from pipeline.sampling.engines.base import Request, Sample, Sampling


class _SeededChoice(LogitsProcessor):
    """Choose each row's token by its own random numbers, then leave that token alone finite for the greedy decoder.

    `generate` draws from one global generator, so a response would depend on its neighbours in the batch. Here row b
    at step t uses uniform u[b, t] and inverts the cumulative distribution: the response depends on its own seed only.
    """

    def __init__(self, requests: Sequence[Request], sampling: Sampling, prompt_length: int, at: str) -> None:
        self.prompt_length = prompt_length
        self.warpers = LogitsProcessorList()
        self.greedy = sampling.temperature == 0
        if not self.greedy and sampling.temperature != 1:
            self.warpers.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            self.warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self.warpers.append(TopPLogitsWarper(sampling.top_p))
        generators = [np.random.Generator(np.random.Philox(r.seed)) for r in requests]
        uniforms = np.stack([generator.random(sampling.max_tokens) for generator in generators])
        self.uniforms = torch.from_numpy(uniforms).to(at)  # [B, max_tokens], float64
        self.logprobs: list[torch.Tensor] = []  # one [B] a step

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        raw = scores.float()  # [B, V]
        if self.greedy:
            chosen = raw.argmax(-1, keepdim=True)
        else:
            step = input_ids.shape[1] - self.prompt_length
            cumulative = torch.softmax(self.warpers(input_ids, cast("torch.FloatTensor", raw)).double(), -1).cumsum(-1)
            drawn = self.uniforms[:, step : step + 1] * cumulative[:, -1:]
            chosen = torch.searchsorted(cumulative, drawn, right=True).clamp_max(raw.shape[-1] - 1)  # [B, 1]
        self.logprobs.append((raw.gather(-1, chosen) - raw.logsumexp(-1, keepdim=True)).squeeze(-1))
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)  # type: ignore[return-value]


class TransformersEngine:
    """See Engine. Decodes `batch_size` requests at a time, sorted by prompt length so that little is padding."""

    name = "transformers"
    version = transformers.__version__

    def __init__(
        self, policy: PolicyRef, config: PolicyConfig, batch_size: int, stop_ids: Sequence[int], pad_id: int
    ) -> None:
        self.batch_size, self.stop_ids, self.pad_id = batch_size, list(stop_ids), pad_id
        self.at = device()
        self.model: Any = load_model(policy.path, config).to(self.at)
        # `generate` would take from the folder's own settings whatever we leave open: a repetition penalty, for one.
        self.model.generation_config = transformers.GenerationConfig()

    def generate(self, requests: Sequence[Request], sampling: Sampling, progress: Task | None = None) -> list[Sample]:
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_token_ids))
        samples: dict[int, Sample] = {}
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            samples.update(zip(rows, self._batch([requests[i] for i in rows], sampling), strict=True))
            if progress is not None:
                progress.advance(len(rows))
        return [samples[i] for i in range(len(requests))]

    def close(self) -> None:
        del self.model
        if self.at == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _batch(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        longest = max(len(r.prompt_token_ids) for r in requests)
        ids = torch.full((len(requests), longest), self.pad_id)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            n = len(request.prompt_token_ids)
            ids[row, longest - n :] = torch.tensor(request.prompt_token_ids)
            mask[row, longest - n :] = 1
        choice = _SeededChoice(requests, sampling, longest, self.at)
        output = self.model.generate(
            input_ids=ids.to(self.at),
            attention_mask=mask.to(self.at),
            # The choice is made by the processor.
            generation_config=transformers.GenerationConfig(
                max_new_tokens=sampling.max_tokens,
                do_sample=False,
                eos_token_id=self.stop_ids,
                pad_token_id=self.pad_id,
            ),
            logits_processor=LogitsProcessorList([choice]),
        )
        tokens = output[:, longest:].cpu().numpy()
        logprobs = torch.stack(choice.logprobs, 1).cpu().numpy()
        return [self._sample(tokens[row], logprobs[row]) for row in range(len(requests))]

    def _sample(self, tokens: np.ndarray[Any, Any], logprobs: np.ndarray[Any, Any]) -> Sample:
        stops = np.flatnonzero(np.isin(tokens, self.stop_ids))
        n = int(stops[0]) + 1 if len(stops) else len(tokens)
        return Sample(tokens[:n].tolist(), logprobs[:n].tolist(), "stop" if len(stops) else "length")
