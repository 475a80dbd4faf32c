"""A field decides the bytes of its stage unless it says that it does not; and the hashes of what is stored stay."""

from typing import Any

import pytest

from pipeline.config import Config, build_experiment, stage_hash
from pipeline.config.base import DecidesByContent, DecidesNothing, DecidesOneGeneration
from pipeline.sampling.rollouts import DECIDES

SMALL: dict[str, Any] = {
    "name": "small",
    "generations": 2,
    "policy": {"base": "builtin:tiny-arith"},
    "prompts": {"source": "arithmetic", "per_generation": 8},
    "rollouts": {"n": 2, "max_tokens": 8},
    "training": {"objective": "tbrm"},
}
OTHER: dict[str, Any] = {
    "name": "other",
    "generations": 3,
    "seed": 5,
    "policy": {
        **{"base": "some/model", "revision": "abc", "dtype": "bfloat16", "attention": "sdpa"},
        "warm_start": {"logged": "l", "steps": 3},
    },
    "prompts": {"source": "file", "path": "p.jsonl", "per_generation": 8, "template": "raw"},
    "rollouts": {
        **{"engine": "vllm", "policy": "teacher", "adapter": "folder", "n": 4, "temperature": 0.5, "top_p": 0.9},
        **{"top_k": 7, "max_tokens": 64, "stop": ["</s>"], "max_model_len": 128, "prompts_per_shard": 2},
        **{"batch_size": 3, "eager": True, "agreement": {"sample": 0}},
    },
    "rewards": {
        **{"verifier": "plain", "cpu_s": 1.5, "workers": 3, "batch": 2, "token_rewards": True},
        "components": {"format": 0.5},
    },
    "training": {
        **{"objective": "tbrm", "processes": 2, "zero_stage": 2, "residual_clip": 3.0, "lora": {"rank": 2}},
        **{"checkpoint_every": 2, "max_residual": 5.0},
    },
}


@pytest.mark.parametrize(
    ("tree", "hashes"),
    [
        (SMALL, ["6969f8814c36919b", "78f22cf2876abb84", "ec386f2d0039c98b", "c0cdbf1c3abb0541"]),
        (OTHER, ["e26877f5ffd16e81", "fb208e5e8ba49de0", "abe016eb27b9037f", "ad6411d8d104ac03"]),
    ],
    ids=["defaults", "many fields"],
)
def test_hashes_of_existing_configurations_stay(tree: dict[str, Any], hashes: list[str]) -> None:
    """Taken from the code that had a list of names beside each stage. Another value makes every store out of date."""
    experiment = build_experiment(tree, "test")
    assert experiment.rollouts is not None
    parts = (experiment.rollouts, experiment.rewards, experiment.training, experiment.policy)
    assert [stage_hash(part.deciding()) for part in parts] == hashes


def test_a_new_field_decides_unless_it_says_that_it_does_not() -> None:
    class Part(Config):
        new: int = 1
        speed: DecidesNothing[int] = 2
        engine: DecidesOneGeneration[str | None] = "vllm"
        folder: DecidesByContent[str] = "adapter"

    assert Part().deciding() == {"new": 1, "engine": "vllm"}
    assert Part.alike_fields("part") == ("part.new", "part.folder")


def test_generations_agree_in_what_is_sampled_and_not_in_the_engine() -> None:
    fields = ["policy", "adapter", "n", "temperature", "top_p", "top_k", "max_tokens", "stop"]
    assert ("seed", "prompts", "policy.dtype", *(f"rollouts.{name}" for name in fields)) == DECIDES
