"""Rewards: verifiers over model-written text, in workers that can be killed, so that every response gets a status."""

from pipeline.rewards.grader import Grader
from pipeline.rewards.types import GradeItem, RewardLabel, Status

__all__ = ["GradeItem", "Grader", "RewardLabel", "Status"]
