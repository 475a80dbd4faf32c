"""The losses, by name: pure functions of one pack's scores, summed, so that it does not matter how packs are cut."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pipeline.config.training import OBJECTIVE_NEEDS, ObjectiveName, ObjectiveNeeds, TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores, Trajectory
from pipeline.scoring.packing import pair_units, unit_pairs
from trainer.objectives.actor_critic import sac_single
from trainer.objectives.alignment import daa_point
from trainer.objectives.brm import brm
from trainer.objectives.daa_pair import daa_pair
from trainer.objectives.filtered_imitation import filtered_imitation
from trainer.objectives.imitation import imitation
from trainer.objectives.policy_gradient import grpo
from trainer.objectives.ppo import ppo
from trainer.objectives.residuals import tbrm
from trainer.objectives.sac_multi import sac_multi
from trainer.objectives.soft_q import sql_single
from trainer.objectives.sql_multi import sql_multi
from trainer.objectives.tbrm_iterative import tbrm_iterative

Term = Literal["trajectories", "pairs", "tokens"]
Loss = Callable[[Scores, PackedBatch, TrainingConfig], tuple[Tensor, Mapping[str, Tensor]]]
"""(scores, batch, options) to (the sum of the pack's terms, fp64; detached metrics, each [B])."""


@dataclass(frozen=True)
class Objective:
    """A loss, what it needs, and what its mean is taken over."""

    loss: Loss
    needs: ObjectiveNeeds
    mean_over: Term = "trajectories"

    def terms(self, trajectories: Sequence[Trajectory]) -> int:
        """Number that the sum of `loss` over all packs of a batch is divided by; at least 1."""
        match self.mean_over:
            case "trajectories":
                count = len(trajectories)
            case "pairs":
                count = sum(len(unit_pairs(unit)) for unit in pair_units(trajectories))
            case "tokens":
                count = sum(int(t.response_mask.sum()) for t in trajectories)
        return max(count, 1)


_LOSSES: dict[ObjectiveName, tuple[Loss, Term]] = {
    "tbrm": (tbrm, "trajectories"),
    "brm": (brm, "trajectories"),
    "tbrm_iterative": (tbrm_iterative, "trajectories"),
    "sql_single": (sql_single, "trajectories"),
    "sql_multi": (sql_multi, "trajectories"),
    "sac_single": (sac_single, "trajectories"),
    "sac_multi": (sac_multi, "trajectories"),
    "daa_point": (daa_point, "trajectories"),
    "daa_pair": (daa_pair, "pairs"),
    "grpo": (grpo, "trajectories"),
    "ppo": (ppo, "tokens"),
    "imitation": (imitation, "trajectories"),
    "filtered_imitation": (filtered_imitation, "trajectories"),
}


def get(name: ObjectiveName) -> Objective:
    """The objective of this name."""
    loss, mean_over = _LOSSES[name]
    return Objective(loss, OBJECTIVE_NEEDS[name], mean_over)
