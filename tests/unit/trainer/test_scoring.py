"""Scoring a packed batch under a model: equal to one sequence at a time through the model's own logits."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import naive_scores, random_trajectories, tiny
from transformers import BloomConfig, Gemma2Config, Lfm2Config, LlamaConfig, MambaConfig, MistralConfig, MixtralConfig

from pipeline.config.training import TrainingConfig
from pipeline.errors import TbrmError
from pipeline.scoring.batch import lay_out, pack
from pipeline.scoring.scoring import check_scorable, score, score_trajectories
from trainer.objectives import get


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_of_all_weights(tied: bool) -> None:
    model, batch = tiny(dtype=torch.float64, tie_word_embeddings=tied), lay_out(random_trajectories(6))
    scores = score(model, batch, value="first", chunk_tokens=7)
    assert scores.value_first is not None
    (scores.logprob.square().sum() + scores.value_first.sum()).backward()
    packed = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for t in batch.trajectories:
        logprob, value = naive_scores(model, t)
        (logprob.square().sum() + value[0]).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(packed[name], parameter.grad, rtol=1e-9, atol=1e-10), name


def test_four_ways_of_packing_give_one_loss_and_one_gradient() -> None:
    model, data, options = tiny(), random_trajectories(24), TrainingConfig(beta=0.1)
    results: list[tuple[float, torch.Tensor]] = []
    for budget, order in ((1, 1), (100, 1), (100, -1), (10**6, 1)):
        model.zero_grad()
        loss = 0.0
        for batch in pack(data[::order], budget):
            part, _ = get("tbrm").loss(score(model, batch, value="first", chunk_tokens=32), batch, options)
            (part / len(data)).backward()
            loss += part.item() / len(data)
        results.append((loss, torch.cat([p.grad.flatten() for p in model.parameters()])))
    for loss, slope in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        assert float((slope - results[0][1]).norm() / results[0][1].norm()) < 1e-5


def test_activation_checkpointing_changes_nothing() -> None:
    model, batch = tiny().train(), lay_out(random_trajectories(6))
    slopes = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        score(model, batch).logprob.sum().backward()
        slopes.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(*slopes, rtol=1e-5, atol=1e-5)


def test_temperature_divides_the_logits() -> None:
    model, batch = tiny(), lay_out(random_trajectories(3))
    warm = score(model, batch, value="all", temperature=2.0)
    model.lm_head.weight.data /= 2.0
    assert torch.allclose(warm.logprob, score(model, batch).logprob, atol=1e-5)


def test_reference_scoring_is_training_scoring_however_it_is_batched() -> None:
    model, data = tiny(), random_trajectories()
    prompts, responses = [t.prompt_ids.tolist() for t in data], [t.response_ids.tolist() for t in data]
    one = score_trajectories(model, prompts, responses, 1)
    many = score_trajectories(model, prompts, responses, 10**6)
    batch = lay_out(data)
    trained = torch.split(score(model.train(), batch).logprob, batch.lengths)
    for (a, va), (b, vb), c in zip(one, many, trained, strict=True):
        assert a.dtype == np.float32
        assert abs(a.sum() - b.sum()) < 1e-4
        assert abs(a.sum() - c.sum().item()) < 1e-4
        assert va == pytest.approx(vb, abs=1e-4)
    assert model.training


def test_masked_and_empty_responses_have_a_value_and_zeros() -> None:
    model = tiny()
    mask = np.array([False, True, True])
    scored = score_trajectories(
        model, [[5], [5, 6], [5, 6]], [[1, 2, 3], [], [9]], 100, [mask, np.ones(0, bool), np.zeros(1, bool)]
    )
    row = replace(
        random_trajectories(1)[0], prompt_ids=np.array([5], np.int32), response_ids=np.array([1, 2, 3], np.int32)
    )
    logprob, value = naive_scores(model, row)
    assert scored[0][0].tolist() == pytest.approx([0.0, *logprob[1:].tolist()], abs=1e-4)
    assert scored[0][1] == pytest.approx(value[1].item(), abs=1e-4)
    assert [len(s[0]) for s in scored] == [3, 0, 1]
    assert scored[1][1] == pytest.approx(scored[2][1])
    assert scored[2][0].tolist() == [0.0]


def test_heads_that_are_not_plain_are_refused() -> None:
    model = tiny(Gemma2Config, attention="eager", head_dim=8)
    with pytest.raises(TbrmError, match=r"Gemma2ForCausalLM cannot be scored.*final_logit_softcapping"):
        score(model, lay_out(random_trajectories(1)))


RECURRENT = {"layer_types": ["conv", "full_attention"]}
EXPERTS = {"num_local_experts": 2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "options", "why"),
    [
        (Lfm2Config, RECURRENT, r"Lfm2ForCausalLM cannot be scored: its hidden states depend on the responses before"),
        (MambaConfig, {"attention": "eager"}, "its hidden states depend"),
        (BloomConfig, {"attention": "eager"}, "its hidden states depend"),  # positions by ALiBi
        (LlamaConfig, {}, ""),
        (MistralConfig, {"sliding_window": 4}, ""),
        (MixtralConfig, EXPERTS, ""),
    ],
)
def test_a_model_that_would_be_scored_wrongly_is_refused(
    family: type, options: dict[str, Any], why: str, dtype: torch.dtype
) -> None:
    model = tiny(family, dtype=dtype, **options)
    data = random_trajectories(2)
    asked = model, [t.prompt_ids.tolist() for t in data], [t.response_ids.tolist() for t in data], 100
    if not why:
        score_trajectories(*asked)
        return
    with pytest.raises(TbrmError, match=why):
        score_trajectories(*asked)


def test_logits_that_are_scaled_behind_the_head_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    forward = model.forward

    def scaled(**given: Any) -> Any:
        output = forward(**given)
        output.logits = output.logits * 0.5  # as Falcon-H1's `lm_head_multiplier`
        return output

    monkeypatch.setattr(model, "forward", scaled)
    with pytest.raises(
        TbrmError, match=r"its logits are not what its head makes of the last hidden state \(off by 100%"
    ):
        check_scorable(model)
