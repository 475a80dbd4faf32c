"""Objectives against the numbers of verl, TRL, OREO and OpenRLHF on the same log-probs, rewards and values.

The expected numbers were computed by running those projects' own functions in float64 on the inputs below; nothing of
them is in this repository.

- verl, github.com/volcengine/verl at b178a3cd: `core_algos.compute_grpo_outcome_advantage`,
  `compute_gae_advantage_return` (before it whitens the advantages), `compute_policy_loss_vanilla` with clip 0.2 and
  clip_ratio_c 3, `kl_penalty_forward("low_var_kl")` and ("kl"), `compute_value_loss` without clip, aggregated by
  "seq-mean-token-mean" for GRPO and "token-mean" for PPO; `rollout_corr_helper.compute_rollout_correction_weights` by
  token with threshold 2.
- TRL, github.com/huggingface/trl at f2cd5771: `GRPOTrainer._compute_loss`, loss type grpo, epsilon 0.2, delta 3, beta
  0.05, importance ratio clipped at 3, advantages as here (TRL adds 1e-4 to the deviation, not 1e-6).
- OREO, github.com/jwhj/OREO at 6f7403b1: `loss`, `single_step_loss` and `traj_loss` of `PCLTrainer`, beta 0.3, with
  responses padded on the left. It writes residuals in units of the reward, so its losses are β² ours for V = v/β.
- OpenRLHF, as it is part of OREO: `DPOLoss(beta=0.3, ipo=True)`.
"""

from dataclasses import replace

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


def trajectories() -> list[Trajectory]:
    groups = Groups(PROMPTS, REWARDS, 1.0)
    return [
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


def batch() -> PackedBatch:
    return lay_out(trajectories())


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


BETA = 0.3
OREOS_VALUES: dict[str, Rows] = {
    "sac_multi": [
        [-0.0577777778, -0.05, -0.0044444444],
        [-0.0216666667, 0.0116666667],
        [0.0233333333, -0.02, -0.045, 0.0091666667],
        [-0.11],
        [0.0211111111, -0.0177777778, -0.0022222222],
        [-1.3333333333, -1.375],
    ],
    "sac_single": [
        [-0.0077777778, -0.0377777778, 0.0411111111],
        [-0.0333333333, 0.045],
        [0.0433333333, -0.0183333333, -0.0791666667, 0.0633333333],
        [-0.11],
        [0.0388888889, -0.0544444444, 0.0133333333],
        [0.0416666667, -1.4166666667],
    ],
    "tbrm": [
        [-0.1733333333, 0.0, 0.0],
        [-0.0433333333, 0.0],
        [0.0933333333, 0.0, 0.0, 0.0],
        [-0.11],
        [0.0633333333, 0.0, 0.0],
        [-2.6666666667, 0.0],
    ],
}
OREOS_POLICY: dict[str, Rows] = {
    "sac_multi": [
        [-0.0173333333, -0.0323333333, -0.0336666667],
        [-0.0065, -0.003],
        [0.007, 0.001, -0.0125, -0.00975],
        [-0.033],
        [0.0063333333, 0.001, 0.0003333333],
        [-0.4, -0.8125],
    ],
    "sac_single": [
        [-0.0023333333, -0.0136666667, -0.0013333333],
        [-0.01, 0.0035],
        [0.013, 0.0075, -0.01625, 0.00275],
        [-0.033],
        [0.0116666667, -0.0046666667, -0.0006666667],
        [0.0125, -0.4125],
    ],
    "tbrm": [[x] * len(row) for x, row in zip((-0.052, -0.013, 0.028, -0.033, 0.019, -0.8), NOW, strict=True)],
}


@pytest.mark.parametrize(
    ("objective", "expected"),
    [("sac_multi", 11.073306944444449), ("sac_single", 5.749716666666665), ("tbrm", 10.751783333333336)],
)
def test_residuals_are_oreos(objective: str, expected: float) -> None:
    """OREO takes the mean over the tokens of a response where `sac_*` take the sum. Its loss of whole trajectories is
    TBRM's for a value that is given.
    """
    logprob, values = flat(NOW).requires_grad_(), flat(VALUES).requires_grad_()
    lengths = [len(row) for row in NOW]
    loss = torch.zeros((), dtype=torch.float64)
    for one, now, value in zip(trajectories(), logprob.split(lengths), values.split(lengths), strict=True):
        given = Scores(now, value_first=value[:1] / BETA, critic_value=value / BETA)
        tokens = 1 if objective == "tbrm" else len(now)
        options = TrainingConfig.model_validate({"objective": objective, "beta": BETA})
        loss = loss + BETA**2 / tokens * get(objective).loss(given, lay_out([one]), options)[0] / 6
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    slopes = torch.autograd.grad(loss, (logprob, values))
    assert torch.allclose(slopes[0], flat(OREOS_POLICY[objective]), rtol=1e-6, atol=1e-9)
    assert torch.allclose(slopes[1], flat(OREOS_VALUES[objective]), rtol=1e-6, atol=1e-9)


def test_pairs_are_those_of_ipo() -> None:
    """IPO is `daa_pair` where the better response of each pair has ½ more reward."""
    rows = [0, 1, 3, 4]
    pairs = [replace(trajectories()[i], reward=reward) for i, reward in zip(rows, (0.5, 0.0, 0.5, 0.0), strict=True)]
    logprob = flat([NOW[i] for i in rows]).requires_grad_()
    options = TrainingConfig(objective="daa_pair", beta=BETA)
    loss = get("daa_pair").loss(Scores(logprob), lay_out(pairs, [(0, 1), (2, 3)]), options)[0] / 2
    assert loss.item() == pytest.approx(0.5694444444444449, rel=1e-12)
    slopes = torch.autograd.grad(loss, logprob)[0].split([len(NOW[i]) for i in rows])
    for slope, expected in zip(slopes, (1 / 30, -1 / 30, -16 / 15, 16 / 15), strict=True):
        assert torch.allclose(slope, torch.full_like(slope, expected))
