"""The losses, one file for each family, as pure functions of the scores of one pack.

A new family is one more file, named here so that its objectives are registered.
"""

from trainer.objectives import actor_critic, alignment, imitation, policy_gradient, residuals, soft_q
from trainer.objectives.base import get, objective

FAMILIES = (residuals, soft_q, actor_critic, policy_gradient, alignment, imitation)
__all__ = ["FAMILIES", "get", "objective"]
