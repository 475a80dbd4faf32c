"""GRPO and PPO against the numbers of verl and TRL on the same log-probs, rewards and values.

The expected numbers were computed by running those projects' own functions in float64 on the inputs below; nothing of
them is in this repository.

- verl, github.com/volcengine/verl at b178a3cd: `core_algos.compute_grpo_outcome_advantage`,
  `compute_gae_advantage_return` (before it whitens the advantages), `compute_policy_loss_vanilla` with clip 0.2 and
  clip_ratio_c 3, `kl_penalty_forward("low_var_kl")` and ("kl"), `compute_value_loss` without clip, aggregated by
  "seq-mean-token-mean" for GRPO and "token-mean" for PPO; `rollout_corr_helper.compute_rollout_correction_weights` by
  token with threshold 2.
- TRL, github.com/huggingface/trl at f2cd5771: `GRPOTrainer._compute_loss`, loss type grpo, epsilon 0.2, delta 3, beta
  0.05, importance ratio clipped at 3, advantages as here (TRL adds 1e-4 to the deviation, not 1e-6).
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores, Trajectory, lay_out
from trainer.data.trajectories import Groups
from trainer.objectives import get

Rows = list[list[float]]
PROMPTS = np.array([0, 0, 0, 1, 1, 1], dtype=np.uint64)
REWARDS = np.array([1.0, 0.0, 0.25, 1.0, 0.0, 0.0])
NOW: Rows = [[-0.5, -1.2, -0.1], [-2.0, -0.3], [-1.0, -0.7, -2.5, -0.2], [-0.9], [-0.4, -3.0, -1.5], [-1.1, -30.0]]
OLD: Rows = [[-0.9, -1.1, -0.1], [-3.6, -0.35], [-0.8, -0.95, -2.4, -0.6], [-1.3], [-0.1, -4.8, -1.5], [-1.1, -2.0]]
SAMPLER: Rows = [[-1.0, -1.0, -0.15], [-3.4, -0.3], [-0.9, -1.9, -2.4, -0.5], [-1.3], [-0.2, -4.7, -2.9], [-1.0, -2.1]]
REFERENCE: Rows = [[-0.6, -1.5, -0.3], [-1.0, -0.2], [-1.4, -0.7, -2.0, -0.4], [-0.8], [-0.9, -2.2, -1.1], [-1.6, -2.5]]
VALUES: Rows = [[0.3, 0.4, 0.9], [0.2, 0.1], [0.5, 0.1, -0.2, 0.3], [0.7], [0.4, 0.2, 0.1], [0.1, 0.0]]


def flat(rows: Rows) -> Tensor:
    return torch.tensor([x for row in rows for x in row], dtype=torch.float64)


def batch() -> PackedBatch:
    groups = Groups(PROMPTS, REWARDS, 1.0)
    return lay_out(
        [
            Trajectory(
                trajectory_id=f"t{i}",
                prompt_id=f"p{PROMPTS[i]}",
                prompt_ids=np.ones(1, np.int32),
                response_ids=np.ones(len(NOW[i]), np.int32),
                response_mask=np.ones(len(NOW[i]), bool),
                reward=float(REWARDS[i]),
                ref_logprobs=np.array(REFERENCE[i]),
                behavior_logprobs=np.array(SAMPLER[i]),
                group=groups.stats(int(groups.of_row[i])),
            )
            for i in range(6)
        ]
    )


def scores(now: Rows) -> tuple[Tensor, Tensor, Scores]:
    logprob, values = flat(now).requires_grad_(), flat(VALUES).requires_grad_()
    zeros = torch.zeros_like(logprob)
    return logprob, values, Scores(logprob, entropy=zeros, critic_value=values, old_logprob=flat(OLD))


def test_grpo_is_verls() -> None:
    logprob, _, given = scores(NOW)
    options = TrainingConfig(objective="grpo", kl_coefficient=0.05)
    loss = get("grpo").loss(given, batch(), options)[0] / 6
    assert loss.item() == pytest.approx(0.19027565005439084, rel=1e-7)  # verl adds 1e-8 to the lengths
    slope: Rows = [
        [0.000264340505, -0.050264002904, -0.064961164898],
        [-0.007159507583, 0.066281723391],
        [0.012760972108, 0.034268037303, 0.010722636229, 0.018390142836],
        [-0.000876424309],
        [0.001092970386, -0.003404280346, 0.062783738874],
        [0.045173390529, 0.0],
    ]
    assert torch.allclose(torch.autograd.grad(loss, logprob)[0], flat(slope), rtol=1e-6, atol=1e-9)


def test_ppo_is_verls() -> None:
    logprob, values, given = scores(NOW)
    options = TrainingConfig(objective="ppo", kl_coefficient=0.05, gae_lambda=0.8, entropy_coefficient=0.0)
    loss = get("ppo").loss(given, batch(), options)[0] / 15
    assert loss.item() == pytest.approx(-0.07681599417994675 + 0.040351348079999995, rel=1e-7)
    policy: Rows = [
        [0.0, -0.030129291713, -0.006307626578],
        [0.0, 0.006166666667],
        [0.0209729249, 0.0, -0.029437377333, 0.003599623487],
        [0.0],
        [0.0, 0.0, 0.010666666667],
        [0.008746761708, 0.0],
    ]
    critic: Rows = [
        [-0.037106666667, -0.0368, -0.006],
        [0.002933333333, 0.006166666667],
        [0.023178666667, -0.00686, -0.032533333333, 0.002666666667],
        [-0.021666666667],
        [0.017813333333, 0.002266666667, 0.005333333333],
        [0.009666666667, 0.001666666667],
    ]
    slopes = torch.autograd.grad(loss, (logprob, values))
    assert torch.allclose(slopes[0], flat(policy), rtol=1e-6, atol=1e-9)
    assert torch.allclose(slopes[1], flat(critic), rtol=1e-6, atol=1e-9)


def test_grpo_is_trls() -> None:
    """TRL bounds neither the ratio nor k3; the response that would show it is replaced."""
    _, _, given = scores([*NOW[:5], [-1.1, -3.5]])
    options = TrainingConfig(objective="grpo", kl_coefficient=0.05, importance_cap=3.0)
    loss = get("grpo").loss(given, batch(), options)[0] / 6
    assert loss.item() == pytest.approx(0.1937123436250087, rel=1e-9)
