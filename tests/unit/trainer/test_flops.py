"""The arithmetic of an update against the count that torch makes of a naive forward and backward pass."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import VOCABULARY, random_trajectories, tiny
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.training import LoraConfig, TrainingConfig
from trainer.loop.metrics import peak_flops, update_flops

EXPECTED_CAUSAL_SHARE = 0.5
"""torch counts attention to all tokens, the model needs only that to earlier ones."""


@pytest.mark.parametrize("tied", [True, False])
def test_as_many_as_torch_counts(tied: bool) -> None:
    model = tiny(tie_word_embeddings=tied, attention="eager")
    trajectory = random_trajectories(1, longest=3)[0]
    size = 64
    ids = torch.randint(0, VOCABULARY, (1, size + 1))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    response = ids[0, 1:].numpy().astype(np.int32)
    long = replace(
        trajectory, prompt_ids=np.zeros(1, np.int32), response_ids=response, response_mask=np.ones(size, bool)
    )
    config = model.config
    attention = 6 * config.num_hidden_layers * config.hidden_size * (size + 1) ** 2
    found = update_flops(model, [long], TrainingConfig())
    counted = counter.get_total_flops() - attention * (1 / EXPECTED_CAUSAL_SHARE - 1)
    head = 6 * VOCABULARY * config.hidden_size  # of the one prompt token, which torch projected too
    norms_and_input = 0.05
    assert found == pytest.approx(counted - head, rel=norms_and_input)


def test_a_critic_doubles_the_backbone_and_adapters_spare_a_third() -> None:
    model, batch = tiny(), random_trajectories(4)
    plain = update_flops(model, batch, TrainingConfig())
    assert update_flops(model, batch, TrainingConfig(objective="ppo")) > 1.5 * plain
    assert update_flops(model, batch, TrainingConfig(lora=LoraConfig())) < 0.75 * plain


def test_no_peak_is_claimed_for_a_cpu() -> None:
    if not torch.cuda.is_available():
        assert peak_flops() is None
