"""Untrained tiny policies in a store, and an experiment to evaluate them."""

from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Experiment, build_experiment
from pipeline.policies.refs import publish_policy, write_policy_json
from pipeline.policies.tiny import save_tiny_arith
from pipeline.store import Store

EXPERIMENT = """
name: exp
seed: 3
generations: 3
policy: {base: "builtin:tiny-arith", dtype: float32}
prompts: {source: arithmetic, arithmetic: {low: 10, high: 19, heldout: 16}, template: raw, per_generation: 8}
rollouts: {engine: transformers, n: 2, max_tokens: 5}
rewards: {verifier: exact_integer, workers: 1}
training: {objective: tbrm}
evaluation:
  benchmarks: [heldout, heldout_sampled]
  responses_per_shard: 8
"""
"""Additions below 20, 16 of them held out, sampled with at most 5 tokens; 8 responses in a shard."""


def tiny_experiment(**evaluation: Any) -> Experiment:
    """EXPERIMENT with other fields of `evaluation`."""
    tree = yaml.safe_load(EXPERIMENT)
    tree["evaluation"] |= evaluation
    return build_experiment(tree, "test")


def publish(store: Store, generation: int, seed: int) -> Path:
    """Publish an untrained policy with its own weights as policy[`generation`]."""
    folder = Path(store.base) / "exp" / f"weights_{seed}"
    if not folder.exists():
        folder.mkdir(parents=True)
        save_tiny_arith(folder, seed=seed)
        write_policy_json(folder, {})
    publish_policy(store, "exp", generation, folder, {})
    return folder
