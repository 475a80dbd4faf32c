"""Loss and gradient of every objective, through store, packing, backbone and head, against `plain_losses`; and the
cosine of two such gradients."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.config.training import OBJECTIVE_NEEDS, TrainingConfig
from pipeline.scoring.batch import pack
from pipeline.scoring.scoring import score
from tests.unit.trainer.plain_losses import Row, plain_loss, responses
from tests.unit.trainer.tiny_models import VOCABULARY, tiny
from trainer.data.trajectories import SCHEMA, TrajectoryTable, write_trajectories
from trainer.engine.deepspeed import World
from trainer.engine.models import CriticModule, Models, PolicyModule
from trainer.loop.scores import Batch
from trainer.loop.update import control_cosine
from trainer.objectives import get

OPTIONS = {"beta": 0.3, "clip_ratio": 0.2, "kl_coefficient": 0.05, "entropy_coefficient": 0.02, "gae_lambda": 0.8}
MASKS = (None, "101", "0110011", "1", "00101", "1100010", None, "011")
"""Tokens that the policy wrote; an environment may open a response, and may end it. None: all tokens, no mask."""
REWARDS = (0.0, 1.0, 0.5, 1.0, 1.0, 0.25, 0.0)


def model(seed: int) -> Any:
    made = tiny(dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return made


MODEL, FROZEN, BACKBONE = (model(seed) for seed in (1, 2, 3))


def stored() -> list[dict[str, Any]]:
    """11 responses to 3 prompts, 3 or 4 each; every other one that has several turns is rewarded token by token."""
    rng, rows = np.random.default_rng(5), list[dict[str, Any]]()
    for i in range(11):
        mask = MASKS[i % len(MASKS)]
        size = len(mask) if mask else int(rng.integers(1, 7))
        prompt, response = (rng.integers(0, VOCABULARY, k).tolist() for k in (int(rng.integers(1, 6)), size))
        ids = torch.tensor([prompt + response])
        with torch.no_grad():
            lp = MODEL(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(1)
        lp = lp.gather(1, ids[0, len(prompt) :, None])[:, 0].numpy()
        rows.append(
            {
                "trajectory_id": f"t{i}",
                "prompt_id": f"p{i % 3}",
                "prompt_token_ids": prompt,
                "response_token_ids": response,
                "response_mask": None if mask is None else [c == "1" for c in mask],
                "finish_reason": "stop",
                "behavior_logprobs": single(lp + rng.normal(0, 0.3, size)),
                "reward": REWARDS[i % len(REWARDS)],
                "token_rewards": single(rng.normal(0, 0.5, size)) if mask is not None and i % 2 else None,
                "ref_token_logprobs": single(lp + rng.normal(0, 0.5, size)),
                "ref_value_first": float(rng.normal(3, 1)),
                "source": "generation",
                "lag": 0,
                "group": f"0/p{i % 3}",
            }
        )
    return rows


def own_logprobs(row: Row) -> list[float]:
    ids = torch.tensor([row["prompt_token_ids"] + row["response_token_ids"]])
    with torch.no_grad():
        logprobs = MODEL(input_ids=ids).logits[0, :-1].log_softmax(1).gather(1, ids[0, 1:, None])[:, 0]
    return logprobs[len(row["prompt_token_ids"]) - 1 :].tolist()


def single(values: np.ndarray) -> list[float]:
    return values.astype(np.float32).tolist()


ROWS = stored()


def own_critic(config: TrainingConfig) -> CriticModule:
    critic = CriticModule(BACKBONE, config)
    generator = torch.Generator().manual_seed(4)
    for parameter in critic.head.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return critic


def trained(
    rows: Sequence[Row], config: TrainingConfig, folder: Path, budget: int
) -> tuple[float, list[torch.Tensor | None]]:
    """(mean loss, gradients of policy and critic) as a job computes them, pack by pack."""
    write_trajectories([pa.Table.from_pylist(list(rows), SCHEMA)], config, folder)
    table, objective, critic = TrajectoryTable(folder, config.beta), get(config.objective), own_critic(config)
    parameters = cleared(critic)
    batch, total = table.read(range(len(table))), 0.0
    for packed in pack(batch, budget, objective.needs.pairs):
        scores = score(
            MODEL,
            packed,
            objective.needs.value,
            objective.needs.entropy,
            config.temperature,
            config.head_chunk_tokens,
        )
        with torch.no_grad():
            start = score(FROZEN, packed, "all", temperature=config.temperature)
        values = critic(packed) if objective.needs.critic else None
        scores = replace(scores, critic_value=values, target_value=start.value, old_logprob=start.logprob)
        loss = objective.loss(scores, packed, config)[0] / objective.terms(batch)
        loss.backward()
        total += loss.item()
    return total, [p.grad for p in parameters]


def cleared(critic: CriticModule) -> list[torch.nn.Parameter]:
    parameters = [*MODEL.parameters(), *critic.parameters()]
    for parameter in parameters:
        parameter.grad = None
    return parameters


def plain(rows: Sequence[Row], config: TrainingConfig) -> tuple[float, list[torch.Tensor | None]]:
    critic = own_critic(config)
    parameters = cleared(critic)
    weight, bias = critic.head.weight[0], critic.head.bias[0]
    unit = config.beta if config.objective.startswith("sac") else 1.0

    def values(ids: torch.Tensor) -> torch.Tensor:
        return (BACKBONE.model(input_ids=ids[None]).last_hidden_state[0] @ weight + bias) / unit

    given = responses(rows, MODEL, values, FROZEN, config.temperature)
    loss = plain_loss(config.objective, given, config.model_dump())
    loss.backward()
    return loss.item(), [p.grad for p in parameters]


def check(config: TrainingConfig, folder: Path, budget: int = 40, rows: Sequence[Row] = ROWS) -> None:
    loss, slopes = trained(rows, config, folder, budget)
    expected, expected_slopes = plain(rows, config)
    assert loss == pytest.approx(expected, rel=1e-11)
    largest = max(float(g.abs().max()) for g in expected_slopes if g is not None)
    assert largest > 1e-3
    for slope, wanted in zip(slopes, expected_slopes, strict=True):
        zero = torch.zeros(())
        assert torch.allclose(
            zero if slope is None else slope, zero if wanted is None else wanted, 1e-8, 1e-10 * largest
        )


@pytest.mark.parametrize("objective", sorted(OBJECTIVE_NEEDS))
def test_loss_and_gradient_of(objective: str, tmp_path: Path) -> None:
    check(TrainingConfig.model_validate(OPTIONS | {"objective": objective, "head_chunk_tokens": 7}), tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"length_normalized": True},
        {"residual_clip": 1.5},
        {"value_offset": "reference"},
        {"temperature": 0.7},
        {"objective": "brm", "temperature": 1.6},
        {"objective": "daa_point", "residual_clip": 2.0, "length_normalized": True},
        {"objective": "grpo", "kl_coefficient": 0.0, "importance_cap": 1.1, "dual_clip": 1.3},
        {"objective": "grpo", "old_logprobs": "behaviour", "dual_clip": 1.3},
        {"objective": "grpo", "importance_cap": None, "dual_clip": None},
        {"objective": "ppo", "gae_lambda": 1.0, "importance_cap": 1.1, "dual_clip": 1.3},
        {"objective": "ppo", "old_logprobs": "behaviour"},
    ],
    ids=str,
)
def test_loss_and_gradient_with(options: dict[str, Any], tmp_path: Path) -> None:
    check(TrainingConfig.model_validate(OPTIONS | options), tmp_path, budget=10**6)


def test_grpo_far_from_the_reference(tmp_path: Path) -> None:
    """Where k3 is at its bound: on every other response, whose reference has each token e^5 times as likely."""
    far = [r | {"ref_token_logprobs": [x + 5 * (i % 2) for x in r["ref_token_logprobs"]]} for i, r in enumerate(ROWS)]
    check(TrainingConfig.model_validate(OPTIONS | {"objective": "grpo"}), tmp_path, rows=far)


def gradient(rows: Sequence[Row], config: TrainingConfig) -> torch.Tensor:
    """Of the policy alone, flat."""
    slopes = plain(rows, config)[1][: len(list(MODEL.parameters()))]
    return torch.cat([g.flatten() for g in slopes if g is not None])


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"control_sample": 100}, range(11)),
        ({"control_sample": 4}, (0, 2, 5, 8)),
        ({"control_sample": 4, "objective": "daa_pair"}, (0, 3, 1, 4)),
        (
            {"control_sample": 100, "objective": "ppo", "entropy_coefficient": 0.5, "old_logprobs": "behaviour"},
            range(11),
        ),
        ({"control_sample": 100, "objective": "filtered_imitation"}, range(11)),
    ],
    ids=str,
)
def test_cosine_with_the_control(options: dict[str, Any], rows: Sequence[int], tmp_path: Path) -> None:
    """On the sample asked for: the cosine of the two gradients of `plain_losses`. No gradient is left behind."""
    config = TrainingConfig.model_validate(OPTIONS | options | {"micro_batch_tokens": 30})
    write_trajectories([pa.Table.from_pylist(ROWS, SCHEMA)], config, tmp_path)
    batch = Batch(TrajectoryTable(tmp_path, config.beta).read(range(len(ROWS))), None)
    critic = own_critic(config)
    parameters = cleared(critic)
    models = Models(SimpleNamespace(module=PolicyModule(MODEL, config)), SimpleNamespace(module=critic))
    cosine = control_cosine(config, models, World(0, 1, torch.device("cpu")), batch)
    assert all(p.grad is None for p in parameters)
    # A group's statistics are those of all its rows, whatever is sampled; plain_losses knows the sampled ones.
    control = gradient([ROWS[i] for i in rows], config.model_copy(update={"objective": "filtered_imitation"}))
    own = gradient([ROWS[i] for i in rows], config)
    assert cosine == pytest.approx(float(own @ control / own.norm() / control.norm()), rel=1e-5)
    assert (cosine == pytest.approx(1)) == (config.objective == "filtered_imitation")


def test_with_a_small_beta_tbrm_clones_and_raises_v() -> None:
    """On responses of the reference: what README and docs/objectives.md say of the studies' β."""
    rows = [{**row, "ref_token_logprobs": own_logprobs(row), "token_rewards": None} for row in ROWS]
    given = responses(rows, MODEL, lambda ids: torch.zeros(len(ids)), MODEL, 1.0)
    clones = [-sum(token.lp for token in one.tokens) * one.outcome for one in given]
    raises = [-one.tokens[0].v * one.outcome for one in given]

    def cosine(*terms: Any) -> float:
        slopes = [
            torch.cat([g.flatten() for g in torch.autograd.grad(sum(t), MODEL.parameters(), retain_graph=True)])
            for t in ([plain_loss("tbrm", given, {"beta": 0.002})], terms)
        ]
        return float(slopes[0] @ slopes[1] / slopes[0].norm() / slopes[1].norm())

    assert cosine(*clones, *raises) > 0.9999
    assert cosine(*clones) < cosine(*clones, *raises)


def test_no_cosine_without_a_rewarded_response(tmp_path: Path) -> None:
    config = TrainingConfig(beta=0.3)
    write_trajectories([pa.Table.from_pylist([r | {"reward": 0.0} for r in ROWS], SCHEMA)], config, tmp_path)
    batch = Batch(TrajectoryTable(tmp_path, config.beta).read([0, 1]), None)
    models = Models(SimpleNamespace(module=PolicyModule(MODEL, config)), None)
    assert control_cosine(config, models, World(0, 1, torch.device("cpu")), batch) is None
    assert control_cosine(config, models, World(1, 2, torch.device("cpu")), batch) is None
