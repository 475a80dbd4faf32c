"""What a job keeps from update to update and from generation to generation: gradients, master weights, critic."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from pipeline.errors import TbrmError
from pipeline.policies.load_save import load_model
from pipeline.scoring.batch import pack
from pipeline.scoring.scoring import score
from tests.unit.trainer.jobs import job_of, mix, policy_folder, with_dtype
from trainer.data.trajectories import TrajectoryTable, batch_rows
from trainer.engine.checkpoint import checkpoint_path, read_checkpoint
from trainer.engine.deepspeed import World, join_world, leave_world
from trainer.engine.models import Models, build_models, load_models
from trainer.job import TrainJob
from trainer.loop.worker import train_policy
from trainer.objectives import get

MakeJob = Callable[..., TrainJob]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy_folder(tmp_path_factory.mktemp("policies") / "zero")


@pytest.fixture(scope="module")
def table(policy: Path) -> pa.Table:
    return mix(policy, reference=policy)


@pytest.fixture
def make_job(policy: Path, table: pa.Table, tmp_path: Path) -> MakeJob:
    def make(name: str = "job", dtype: str = "float32", **options: Any) -> TrainJob:
        return with_dtype(job_of(table, policy, tmp_path / name, **options), dtype)

    return make


@pytest.fixture
def world() -> Iterator[World]:
    joined = join_world()
    yield joined
    leave_world(joined)


@pytest.mark.parametrize(
    ("beta", "zero_stage"), [(1e-40, 0), (1e-40, 1), (1e-40, 2), (1e-40, 3), (1e-28, 0), (1e-28, 2)]
)
def test_an_overflowing_gradient_changes_no_weight(make_job: MakeJob, beta: float, zero_stage: int) -> None:
    """The loss is finite in fp64. In fp32 the gradient is not, or the squares in its norm."""
    job = make_job(beta=beta, max_residual=1e300, zero_stage=zero_stage)
    with pytest.raises(
        TbrmError, match=r"diverged at update 1: the gradient has no finite norm .*Worst trajectories: t"
    ):
        train_policy(job)
    assert not job.out.exists()
    assert not list(job.state.glob("update-*"))


def test_an_overflowing_critic_stops_the_job(make_job: MakeJob) -> None:
    job = make_job(objective="sac_multi", beta=1e-28, max_residual=1e300)
    with pytest.raises(TbrmError, match=r"the (critic's )?gradient has no finite norm"):
        train_policy(job)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_gradients_of_many_packs_are_summed_in_fp32(make_job: MakeJob, zero_stage: int) -> None:
    job = make_job(dtype="bfloat16", updates=1, prompt_batch=6, micro_batch_tokens=12, zero_stage=zero_stage)
    reported = train_policy(job).metrics[0]["grad_norm"]
    model = load_model(str(job.start), job.model).train()
    table = TrajectoryTable(job.state, job.training.beta)
    batch = table.read(batch_rows(table.groups, job.seed, 0, job.training.prompt_batch))
    packs = pack(batch, job.training.micro_batch_tokens)
    assert len(packs) > 15
    parameters = list(model.parameters())
    sums = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    for each in packs:
        loss = get("tbrm").loss(score(model, each, "first"), each, job.training)[0] / len(batch)
        for total, slope in zip(sums, torch.autograd.grad(loss, parameters), strict=True):
            total += slope
    norm = float(torch.cat([s.flatten() for s in sums]).norm())
    assert reported == pytest.approx(norm, rel=2e-5)


def test_processes_reduce_gradients_in_fp32(make_job: MakeJob, world: World) -> None:
    """DeepSpeed would reduce in the type of the model. What its engine says is what its reduction asks."""
    for dtype in ("bfloat16", "float32"):
        assert build_models(make_job(dtype, dtype), world, None).policy.communication_data_type == torch.float32


def loaded(job: TrainJob, world: World, checkpoint: Path, fresh: bool) -> Models:
    found = read_checkpoint(checkpoint)
    models = build_models(job, world, resume=found)
    load_models(models, found, world, job, fresh)
    return models


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_a_fresh_optimizer_keeps_the_master_weights(make_job: MakeJob, world: World, zero_stage: int) -> None:
    from deepspeed.utils import safe_get_full_fp32_param

    first = make_job("first", "bfloat16", updates=3, zero_stage=zero_stage, learning_rate=1e-5)
    train_policy(first)
    joined = join_world()  # the job left the world
    second = make_job("second", "bfloat16", zero_stage=zero_stage, optimizer_state="fresh")
    for fresh in (False, True):
        models = loaded(replace(second, start=first.out), joined, checkpoint_path(first.state, 3), fresh)
        parameters = list(models.policy.module.parameters())
        masters = torch.cat([safe_get_full_fp32_param(p).flatten() for p in parameters])
        states = models.policy.optimizer.state.values()
        moments = [v for state in states for v in state.values() if isinstance(v, torch.Tensor)]
        assert any(bool(m.any()) for m in moments) is not fresh
        if not fresh:
            carried = masters
        assert torch.equal(masters, carried)
        assert not torch.equal(masters, masters.bfloat16().float())


@pytest.mark.parametrize("optimizer_state", ["carry", "fresh"])
def test_the_critic_goes_on_in_the_next_generation(make_job: MakeJob, optimizer_state: str) -> None:
    settings = {"objective": "ppo", "critic_learning_rate": 1e-2, "prompt_batch": 6}
    whole = train_policy(make_job("whole", updates=4, **settings)).metrics
    first = make_job("first", updates=3, **settings)
    assert train_policy(first).metrics[0]["value_first"] == 0
    second = replace(
        make_job("second", updates=1, optimizer_state=optimizer_state, **settings),
        start=first.out,
        carry=checkpoint_path(first.state, 3),
    )
    result = train_policy(second)
    assert result.carried is (optimizer_state == "carry")
    assert abs(whole[3]["value_first"]) > 0.1
    assert result.metrics[0]["value_first"] == pytest.approx(whole[3]["value_first"], rel=1e-5)


def test_a_critic_that_was_not_there_starts_anew(make_job: MakeJob) -> None:
    first = make_job("first", updates=1)
    train_policy(first)
    second = make_job("second", updates=1, objective="ppo", optimizer_state="fresh")
    metrics = train_policy(replace(second, start=first.out, carry=checkpoint_path(first.state, 1))).metrics
    assert metrics[0]["value_first"] == 0


def test_without_zero_a_bf16_policy_is_refused(make_job: MakeJob) -> None:
    with pytest.raises(TbrmError, match=r"zero_stage: 0 keeps no fp32 master weights"):
        train_policy(make_job(dtype="bfloat16", zero_stage=0))


def test_a_bf16_job_does_not_change_to_zero_3_half_way(make_job: MakeJob) -> None:
    parts = make_job("parts", "bfloat16", updates=4)
    train_policy(replace(parts, updates=2))
    with pytest.raises(TbrmError, match=r"zero_stage: 1, now 3.*Set the stage as it was"):
        train_policy(replace(parts, training=parts.training.model_copy(update={"zero_stage": 3})))


@pytest.mark.parametrize("change", [{}, {"zero_stage": 2}])
def test_a_bf16_job_goes_on_from_its_checkpoint(
    make_job: MakeJob, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train_policy(make_job("whole", "bfloat16", updates=4)).metrics
    parts = make_job("parts", "bfloat16", updates=4)
    train_policy(replace(parts, updates=2))
    resumed = train_policy(replace(parts, training=parts.training.model_copy(update=change)))
    assert resumed.resumed_from == 2
    assert [r["loss"] for r in resumed.metrics] == pytest.approx([r["loss"] for r in whole], rel=1e-3 if change else 0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("objective", ["tbrm_iterative", "sql_multi"])
def test_scores_of_the_start_belong_to_one_configuration(make_job: MakeJob, objective: str) -> None:
    """A job that was given up left its scores behind; one with another configuration makes its own."""
    given_up = make_job("job", objective=objective, temperature=0.5)
    train_policy(given_up)
    for path in given_up.state.glob("update-*"):
        shutil.rmtree(path)
    again = replace(make_job("job", objective=objective), config_hash="another")
    found, expected = train_policy(again).metrics, train_policy(make_job("clean", objective=objective)).metrics
    for name in ("value_first", "loss"):
        assert [row[name] for row in found] == [row[name] for row in expected]


@pytest.mark.parametrize("objective", ["tbrm", "ppo"])
def test_measuring_the_control_leaves_the_training_as_it_is(make_job: MakeJob, objective: str) -> None:
    settings = {"objective": objective, "updates": 3, "micro_batch_tokens": 64}
    plain, measured = make_job("plain", control_every=0, **settings), make_job("measured", control_every=2, **settings)
    without, with_cosine = train_policy(plain).metrics, train_policy(measured).metrics
    assert ["control_cosine" in row for row in without] == [False] * 3
    assert ["control_cosine" in row for row in with_cosine] == [True, False, True]
    assert all(abs(row["control_cosine"]) <= 1 for row in with_cosine if "control_cosine" in row)
    assert (plain.out / "model.safetensors").read_bytes() == (measured.out / "model.safetensors").read_bytes()
