"""Random models of a few thousand weights, trajectories for them, and their scores the slow way."""

from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from pipeline.scoring.batch import Trajectory

VOCABULARY = 61
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def tiny(family: type = LlamaConfig, attention: str = "sdpa", dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(family(**SHAPE | config), attn_implementation=attention, dtype=dtype)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(6)  # far from uniform, so that a token seen by mistake shows
    return model.eval()


def random_trajectories(count: int = 20, seed: int = 0, longest: int = 40) -> list[Trajectory]:
    rng = np.random.default_rng(seed)
    made: list[Trajectory] = []
    for i in range(count):
        size = int(rng.integers(1, longest))
        made.append(
            Trajectory(
                trajectory_id=f"t{i}",
                prompt_id=f"p{i // 4}",
                prompt_ids=rng.integers(0, VOCABULARY, rng.integers(1, 8)).astype(np.int32),
                response_ids=rng.integers(0, VOCABULARY, size).astype(np.int32),
                response_mask=np.ones(size, bool),
                reward=float(i % 2),
                ref_logprobs=-rng.random(size).astype(np.float32) * 8,
            )
        )
    return made


def naive_scores(model: Any, t: Trajectory) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probs [T], V [T]) of one response from the full logits."""
    ids = torch.from_numpy(np.concatenate([t.prompt_ids, t.response_ids])).long()
    logits = model(input_ids=ids[None]).logits[0, len(t.prompt_ids) - 1 : -1]
    return logits.log_softmax(1).gather(1, ids[len(t.prompt_ids) :, None])[:, 0], logits.logsumexp(1)
