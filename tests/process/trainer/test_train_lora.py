"""Low-rank adapters: only they are trained, and the published policy is an ordinary model with them merged."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import TbrmError
from trainer.job import TrainJob
from trainer.loop.worker import train_policy

peft = pytest.importorskip("peft", reason="peft is not installed (extra `lora`)")
MakeJob = Callable[..., TrainJob]
LORA = {"rank": 4, "alpha": 8.0}


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_the_change_has_the_rank_of_the_adapters(make_job: MakeJob, policy: Path, zero_stage: int) -> None:
    job = make_job(updates=3, lora=LORA, zero_stage=zero_stage, learning_rate=1e-2)
    metrics = train_policy(job).metrics
    assert metrics[2]["logratio"] != pytest.approx(metrics[0]["logratio"], abs=1e-3)
    before, after = (load_file(folder / "model.safetensors") for folder in (policy, job.out))
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed
    for name in changed:
        assert "_proj" in name
        assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-4) <= 4


@pytest.mark.parametrize("objective", ["tbrm", "ppo"])
def test_adapters_resume_where_they_were(make_job: MakeJob, objective: str) -> None:
    settings = {"lora": LORA, "objective": objective, "learning_rate": 1e-2}
    whole = train_policy(make_job("whole", updates=4, **settings)).metrics
    parts = make_job("parts", updates=4, **settings)
    train_policy(replace(parts, updates=2))
    resumed = train_policy(parts)
    assert resumed.resumed_from == 2
    assert [r["loss"] for r in resumed.metrics] == [r["loss"] for r in whole]


def test_the_next_generation_goes_on_with_the_same_adapters(make_job: MakeJob) -> None:
    settings = {"lora": LORA, "prompt_batch": 24, "learning_rate": 1e-2}
    whole = train_policy(make_job("whole", updates=4, **settings)).metrics
    first = make_job("first", updates=2, **settings)
    train_policy(first)
    carry = first.state / "update-00000002"
    second = train_policy(replace(make_job("second", updates=2, **settings), start=first.out, carry=carry))
    assert [r["loss"] for r in second.metrics] == pytest.approx([r["loss"] for r in whole[2:]], rel=1e-4)


def test_unknown_layers_are_refused(make_job: MakeJob) -> None:
    with pytest.raises(TbrmError, match="target_modules"):
        train_policy(make_job(updates=1, lora=LORA | {"target_modules": ["no_such_layer"]}))
