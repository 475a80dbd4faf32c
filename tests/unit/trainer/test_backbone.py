"""Attention of packs: sequences side by side by length, without a mask of the whole pack."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from largest_tensor import LargestTensor
from tiny_models import naive_scores, random_trajectories, tiny
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from pipeline.scoring.backbone import blocks
from pipeline.scoring.batch import lay_out
from pipeline.scoring.scoring import score

CPU = torch.device("cpu")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=30))
def test_blocks_hold_every_token_once_in_order(lengths: list[int]) -> None:
    made = blocks(lengths, CPU)
    flat = torch.cat([rows.flatten() for rows in made.rows])
    assert flat[made.order].tolist() == list(range(sum(lengths)))
    assert sum(len(rows) for rows in made.rows) == len(lengths)
    for rows in made.rows:
        assert (rows.diff(dim=1) >= 0).all()


def test_long_sequences_are_padded_little() -> None:
    lengths = [32 * 2**k for k in range(6)] * 4
    made = blocks(lengths, CPU)
    assert len(made.rows) == 5
    assert sum(rows.numel() for rows in made.rows) < 1.2 * sum(lengths)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        (LlamaConfig, {"tie_word_embeddings": False}),
        (LlamaConfig, {"tie_word_embeddings": True}),
        (Qwen2Config, {}),
        (Qwen2Config, {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}),
        (Qwen3Config, {"head_dim": 8}),
        (MistralConfig, {"sliding_window": 8}),
    ],
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_sequences_do_not_see_each_other(family: type, config: dict[str, Any], attention: str) -> None:
    model, batch = tiny(family, attention, **config), lay_out(random_trajectories(longest=120))
    apart = [naive_scores(model, t) for t in batch.trajectories]
    scores = score(model, batch, value="all", chunk_tokens=50)
    assert scores.value is not None
    assert scores.value_first is not None
    assert torch.allclose(scores.logprob, torch.cat([lp for lp, _ in apart]), atol=5e-4)
    assert torch.allclose(scores.value, torch.cat([v for _, v in apart]), atol=5e-4)
    assert torch.equal(scores.value_first, scores.value[batch.first])


def test_no_tensor_of_tokens_by_tokens_exists() -> None:
    model, batch = tiny(), lay_out(random_trajectories(200, longest=30))
    tokens = batch.input_ids.numel()
    with LargestTensor() as seen:
        score(model, batch).logprob.sum().backward()
    assert seen.elements < tokens * tokens / 16


def test_a_scored_model_serves_others_as_before(tmp_path: Path) -> None:
    model = tiny()
    ids = torch.randint(3, 60, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0  # a padded batch, whose mask the model has to honour
    before = model(input_ids=ids, attention_mask=mask).logits
    written = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
    score(model, lay_out(random_trajectories(4)))
    assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, before)
    assert torch.equal(
        model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0), written
    )
    model.save_pretrained(tmp_path)
    assert "attn" not in " ".join(json.loads((tmp_path / "config.json").read_text()))
