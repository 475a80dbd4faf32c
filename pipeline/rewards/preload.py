"""Imported by the fork server before its first worker: Math-Verify, prepared, so that every worker is born ready."""

from pipeline.rewards.worker import ready

ready("math_verify")
