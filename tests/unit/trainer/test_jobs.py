"""A job in its folder: what is kept while it runs, how it goes on, what it publishes, and what it leaves alone."""

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

import trainer.loop.worker
from pipeline.config.training import LoraConfig, TrainingConfig
from pipeline.errors import TbrmError
from pipeline.policies.load_save import load_model
from tests.unit.trainer.jobs import MODEL, job_of, mix, policy_folder, with_dtype
from trainer.data.trajectories import TrajectoryTable
from trainer.engine.checkpoint import Checkpoint, checkpoint_path, newest_good, read_checkpoint
from trainer.engine.export import export_policy, merged, verify_export, verify_forward, without_tied
from trainer.engine.models import without_dropout
from trainer.job import ERROR_FILE, METRICS_FILE, TRAJECTORIES, TrainJob, read_metrics
from trainer.launch.processes import command_line, run_processes
from trainer.loop.worker import train_policy

MakeJob = Callable[..., TrainJob]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy_folder(tmp_path_factory.mktemp("policies") / "zero")


@pytest.fixture(scope="module")
def table(policy: Path) -> pa.Table:
    return mix(policy, reference=policy)


@pytest.fixture
def make_job(policy: Path, table: pa.Table, tmp_path: Path) -> MakeJob:
    return lambda name="job", **options: job_of(table, policy, tmp_path / name, **options)


def weights(job: TrainJob) -> bytes:
    return (job.out / "model.safetensors").read_bytes()


def checkpoints(job: TrainJob) -> list[str]:
    return sorted(path.name for path in job.state.glob("update-*"))


def test_the_newest_checkpoints_are_kept_and_the_last_update_has_one(make_job: MakeJob) -> None:
    job = make_job(updates=5, checkpoint_every=2, keep_checkpoints=2)
    train_policy(job)
    assert checkpoints(job) == ["update-00000004", "update-00000005"]
    last = read_checkpoint(checkpoint_path(job.state, 5))
    shape = (last.update, last.total_updates, last.config_hash, last.world_size, last.zero_stage, last.policy_id)
    assert shape == (5, 5, "hash", 1, 1, None)


def test_a_lost_checkpoint_costs_its_updates_and_changes_nothing(make_job: MakeJob) -> None:
    whole, job = (make_job(name, updates=5, checkpoint_every=2) for name in ("whole", "job"))
    rows = train_policy(whole).metrics
    train_policy(job)
    damaged = job.state / "update-00000005" / "checkpoint.json"
    damaged.write_text(damaged.read_text()[:-20])
    result = train_policy(job)
    assert (result.resumed_from, result.carried) == (4, False)
    assert [row["update"] for row in result.metrics] == [1, 2, 3, 4, 5]
    assert [row["loss"] for row in result.metrics] == [row["loss"] for row in rows]
    assert weights(job) == weights(whole)


@pytest.mark.parametrize("objective", ["sac_single", "tbrm_iterative"])
def test_critics_and_frozen_targets_go_on_as_well(make_job: MakeJob, objective: str) -> None:
    whole, job = (make_job(name, updates=4, checkpoint_every=2, objective=objective) for name in ("whole", "job"))
    rows = train_policy(whole).metrics
    train_policy(dataclasses.replace(job, updates=2))
    result = train_policy(job)
    assert result.resumed_from == 2
    assert [row["loss"] for row in result.metrics] == pytest.approx([row["loss"] for row in rows], rel=1e-5)


def test_a_request_to_stop_ends_the_update_under_way_with_a_checkpoint(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, update_once, before = make_job(updates=4), trainer.loop.worker.update_once, signal.getsignal(signal.SIGTERM)

    def asked_to_stop_during_the_second(*given: Any) -> dict[str, Any]:
        if given[5] == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return update_once(*given)

    monkeypatch.setattr(trainer.loop.worker, "update_once", asked_to_stop_during_the_second)
    with pytest.raises(TbrmError, match="was stopped after update 2; run it again"):
        train_policy(job)
    assert checkpoints(job) == ["update-00000002"]
    assert not job.out.exists()
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.undo()
    assert train_policy(job).resumed_from == 2

    last = make_job("last", updates=2)
    monkeypatch.setattr(trainer.loop.worker, "update_once", asked_to_stop_during_the_second)
    assert len(train_policy(last).metrics) == 2, "nothing is left to be stopped"


def test_state_is_carried_into_the_next_job_with_its_warm_up(make_job: MakeJob) -> None:
    options = {"prompt_batch": 6, "warmup_updates": 4}
    whole = train_policy(make_job("whole", updates=4, **options)).metrics
    first = make_job("first", updates=2, **options)
    assert not train_policy(first).carried
    second = make_job("second", updates=2, **options)
    second = dataclasses.replace(second, start=first.out, carry=checkpoint_path(first.state, 2))
    result = train_policy(second)
    assert (result.carried, result.resumed_from) == (True, 0)
    assert [row["learning_rate"] for row in result.metrics] == pytest.approx([0.75e-3, 1e-3])
    assert [row["loss"] for row in result.metrics] == pytest.approx([row["loss"] for row in whole[2:]], rel=1e-5)
    assert read_checkpoint(checkpoint_path(second.state, 2)).total_updates == 4


@pytest.mark.parametrize(("before", "after"), [(1, 2), (0, 0)])
def test_another_zero_stage_goes_on_from_the_checkpoint(make_job: MakeJob, before: int, after: int) -> None:
    whole = train_policy(make_job("whole", updates=3)).metrics
    job = make_job(updates=2, zero_stage=before)
    train_policy(job)
    training = job.training.model_copy(update={"zero_stage": after})
    result = train_policy(dataclasses.replace(job, updates=3, training=training))
    assert result.resumed_from == 2
    assert [row["loss"] for row in result.metrics] == pytest.approx([row["loss"] for row in whole], rel=1e-4)


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0)])
def test_stage_0_and_the_others_do_not_read_each_others_state(make_job: MakeJob, before: int, after: int) -> None:
    job = make_job(updates=1, zero_stage=before)
    train_policy(job)
    training = job.training.model_copy(update={"zero_stage": after})
    with pytest.raises(TbrmError, match=f"zero_stage: {before}, now {after}.*Set the stage as it was"):
        train_policy(dataclasses.replace(job, updates=2, training=training))


def test_metrics_end_at_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    assert read_metrics(path) == []
    path.write_text('{"update": 1}\n{"update": 2}\n{"upd')
    assert read_metrics(path) == [{"update": 1}, {"update": 2}]
    path.write_text('{"upd')
    assert read_metrics(path) == []


@pytest.mark.parametrize("carry", [None, Path("/elsewhere/update-00000002")])
def test_a_job_file_describes_the_job(make_job: MakeJob, carry: Path | None) -> None:
    job = dataclasses.replace(with_dtype(make_job(), "bfloat16"), carry=carry)
    assert TrainJob.load(job.save()) == job


def test_a_damaged_job_file_is_named_with_its_field(make_job: MakeJob) -> None:
    path = make_job(updates=3).save()
    path.write_text(path.read_text().replace('"updates": 3', '"updates": "three"'))
    with pytest.raises(TbrmError, match=r"job.json is damaged \(updates: .*, not 'three'\): start the stage again"):
        TrainJob.load(path)


def test_a_launched_process_takes_its_job_from_the_file_and_leaves_its_error_there(make_job: MakeJob) -> None:
    job = make_job(updates=1)
    assert trainer.loop.worker.main(["--local_rank=0", str(job.save())]) == 0
    assert len(read_metrics(job.state / METRICS_FILE)) == 1
    job = make_job("diverges", max_residual=1e-9)
    assert trainer.loop.worker.main([str(job.save())]) == 1
    assert "diverged at update 1" in (job.state / ERROR_FILE).read_text()


def test_the_launchers_are_asked_for_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tmp_path / "job.json"
    job.write_text("{}")
    agent = ["-m", "trainer.launch.torchrun", str(job)]
    here = command_line(TrainingConfig(processes=3), job)
    assert here[1:] == [*agent, "--standalone", "--nproc-per-node=3", "-m", "trainer.loop.worker", str(job)]
    there = command_line(TrainingConfig(processes=2, machines=4), job)
    assert there[:4] == ["srun", "--nodes=4", "--ntasks=4", "--ntasks-per-node=1"]
    assert there[there.index("-m") : there.index("-m") + 4] == [*agent, "--nnodes=4"]
    assert there[-4:] == ["--nproc-per-node=2", "-m", "trainer.loop.worker", str(job)]
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(TbrmError, match=r"training\.machines: 4, and this is no Slurm job"):
        run_processes(TrainingConfig(machines=4), job)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    with pytest.raises(TbrmError, match="this Slurm job has 2 nodes"):
        run_processes(TrainingConfig(machines=4), job)


def test_every_group_of_processes_waits_as_long_as_the_job_says(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed's groups too: while rank 0 hashes a checkpoint the others wait in those."""
    found: list[Any] = []

    def look(*given: Any) -> dict[str, Any]:
        engine = given[1].policy
        groups = [torch.distributed.group.WORLD, engine.optimizer.dp_process_group]
        found.extend(group._get_backend(torch.device("cpu")).options._timeout for group in groups)
        return trainer.loop.update.update_once(*given)

    monkeypatch.setattr(trainer.loop.worker, "update_once", look)
    train_policy(make_job(updates=1, collective_timeout_s=1_234.0))
    assert [timeout.total_seconds() for timeout in found] == [1_234.0, 1_234.0]


def test_what_is_published_holds_the_trained_weights_and_loads(make_job: MakeJob, policy: Path) -> None:
    job = make_job(updates=1)
    train_policy(job)
    names = {path.name for path in policy.iterdir()} | {"generation_config.json"}
    assert {path.name for path in job.out.iterdir()} == names
    assert (job.out / "tokenizer.json").read_bytes() == (policy / "tokenizer.json").read_bytes()
    assert oct((job.out / "model.safetensors").stat().st_mode)[-3:] == "644"
    model, start = load_model(str(job.out), MODEL), load_model(str(policy), MODEL)
    assert {**model.config.to_dict(), "_name_or_path": ""} == {**start.config.to_dict(), "_name_or_path": ""}
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True))


def test_a_folder_that_differs_from_the_trained_weights_is_not_published(policy: Path, tmp_path: Path) -> None:
    model = load_model(str(policy), MODEL)
    state = model.state_dict()
    (policy / "policy.json").write_text("{}")
    (policy / "notes.md").write_text("")
    figures = export_policy(model, state, policy, tmp_path)
    (policy / "policy.json").unlink()
    (policy / "notes.md").unlink()
    assert figures == {"tensors": len(state), "parameters": sum(t.numel() for t in state.values())}
    assert not {"policy.json", "notes.md"} & {path.name for path in tmp_path.iterdir()}
    verify_forward(model, tmp_path, list(range(8)))
    name = "model.norm.weight"
    stored = load_file(tmp_path / "model.safetensors")

    def refused(change: dict[str, torch.Tensor | None], why: str) -> None:
        changed = {key: tensor for key, tensor in (stored | change).items() if tensor is not None}
        save_file(changed, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(TbrmError, match=why):
            verify_export(tmp_path, state)

    refused({name: stored[name] + 1e-6}, rf"tensor {name} \(torch.float32\) differs from the trained one")
    refused({name: stored[name].double()}, r"\(torch.float64\) differs")
    refused({name: None}, f"lacks the tensors {name}")
    refused({"extra": stored[name].clone()}, "tensor extra was stored twice or never trained")
    save_file(stored | {name: stored[name] * 1.5}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(TbrmError, match="loads to another model"):
        verify_forward(model, tmp_path, list(range(8)))
    state[name][3] = torch.nan
    save_file(stored | {name: state[name]}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(TbrmError, match="holds NaN or infinity"):
        verify_export(tmp_path, state)


def test_rounding_in_bfloat16_is_no_other_model(make_job: MakeJob) -> None:
    job = with_dtype(make_job(updates=1), "bfloat16")
    train_policy(job)
    assert {t.dtype for t in load_file(job.out / "model.safetensors").values()} == {torch.bfloat16}


def test_a_model_with_dropout_is_trained_without(make_job: MakeJob, policy: Path, tmp_path: Path) -> None:
    """The reference was scored without: at θ = θ_ref the log-ratio vanishes."""
    noisy = shutil.copytree(policy, tmp_path / "noisy")
    config = json.loads((noisy / "config.json").read_text())
    (noisy / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    assert load_model(str(noisy), MODEL).train().model.layers[0].self_attn.attention_dropout == 0.5
    plain, job = make_job("plain", updates=1), dataclasses.replace(make_job(updates=1), start=noisy)
    rows = [train_policy(each).metrics[0] for each in (plain, job)]
    assert abs(rows[1]["logratio"]) < 1e-4
    assert [row["loss"] for row in rows] == [rows[0]["loss"]] * 2
    assert load_model(str(job.out), MODEL).config.attention_dropout == 0.5
    two = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Linear(2, 2))
    assert torch.equal(without_dropout(two.train())[0](torch.ones(100)), torch.ones(100))


def test_a_tied_tensor_is_stored_once() -> None:
    tied = SimpleNamespace(all_tied_weights_keys={"lm_head.weight": "model.embed_tokens.weight"})
    weight = torch.ones(2, 3)
    assert list(without_tied(tied, {"lm_head.weight": weight, "model.embed_tokens.weight": weight})) == [
        "model.embed_tokens.weight"
    ]
    assert without_tied(object(), {"w": weight.T})["w"].is_contiguous()


def test_adapters_are_merged_by_their_formula() -> None:
    weight, down, up = torch.randn(5, 4), torch.randn(2, 4), torch.randn(5, 2)
    state = {
        "layer.q.base_layer.weight": weight,
        "layer.q.base_layer.bias": torch.ones(5),
        "layer.q.lora_A.default.weight": down,
        "layer.q.lora_B.default.weight": up,
        "norm.weight": torch.ones(3),
    }
    plain = merged(state, LoraConfig(rank=2, alpha=6.0))
    assert set(plain) == {"layer.q.weight", "layer.q.bias", "norm.weight"}
    torch.testing.assert_close(plain["layer.q.weight"], weight + 3.0 * up @ down)
    assert torch.equal(plain["layer.q.bias"], torch.ones(5))
    half = merged({name: tensor.bfloat16() for name, tensor in state.items()}, LoraConfig(rank=2, alpha=6.0))
    assert half["layer.q.weight"].dtype == torch.bfloat16


def test_adapters_start_at_the_policy_and_alone_are_trained(make_job: MakeJob, policy: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed (extra `lora`)")
    job = make_job(updates=3, lora={"rank": 2, "alpha": 4.0}, learning_rate=1e-2)
    rows = train_policy(job).metrics
    assert abs(rows[0]["logratio"]) < 1e-4, "the reference is the policy, and adapters start at zero"
    before, after = (load_file(folder / "model.safetensors") for folder in (policy, job.out))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[-2] for name in changed} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    assert all(torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-4) <= 2 for name in changed)


def test_rows_come_back_with_all_their_columns(make_job: MakeJob, table: pa.Table) -> None:
    job = make_job()
    rows = TrajectoryTable(job.state, beta=0.5)
    stored = table.to_pylist()
    assert len(rows) == len(stored) == 18
    for row, read in zip((17, 0, 5, 4), rows.read([17, 0, 5, 4]), strict=True):
        given = stored[row]
        assert (read.trajectory_id, read.prompt_id) == (given["trajectory_id"], given["group"])
        assert (read.prompt_ids.tolist(), read.response_ids.tolist()) == (
            given["prompt_token_ids"],
            given["response_token_ids"],
        )
        mask = given["response_mask"] or [True] * len(given["response_token_ids"])
        assert read.response_mask.tolist() == mask
        assert read.behavior_logprobs is not None
        assert read.behavior_logprobs.tolist() == given["behavior_logprobs"]
        assert read.ref_logprobs.tolist() == given["ref_token_logprobs"]
        assert (read.reward, read.ref_value_first) == (given["reward"], given["ref_value_first"])
        assert (read.source, read.lag, read.token_rewards) == (given["source"], given["lag"], None)
        assert read.truncated == (given["finish_reason"] == "length")
        assert read.group is not None
        assert (read.group.size, read.group.mean, read.group.std) == (3, 0.5, 0.5)
    assert {key: found.tolist() for key, found in rows.sources().items()} == {
        ("generation", 0): list(range(9)),
        ("elsewhere", 3): list(range(9, 18)),
    }
    lengths = [sum(r["response_mask"] or [True] * len(r["response_token_ids"])) for r in stored]
    assert rows.response_lengths([3, 16]) == [lengths[3], lengths[16]]
    assert (job.state / TRAJECTORIES).exists()


def test_a_checkpoint_is_committed_by_the_leader_alone(tmp_path: Path) -> None:
    from trainer.engine.checkpoint import write_checkpoint

    checkpoint = Checkpoint(checkpoint_path(tmp_path, 3), 3, 3, "hash", 2, 1)
    saved: list[Path] = []
    write_checkpoint(checkpoint, saved.append, leader=False)
    assert not checkpoint.path.exists()
    assert saved == [tmp_path / "_tmp.update-00000003"]

    def save(folder: Path) -> None:
        (folder / "deep" / "er").mkdir(parents=True)
        (folder / "deep" / "er" / "weights").write_text("1")
        (folder / "top").write_text("2")

    write_checkpoint(checkpoint, save, leader=True)
    write_checkpoint(checkpoint, save, leader=True)  # again, as after a kill between the rename and the next update
    found = newest_good(tmp_path, None, lambda _: None)
    assert found is not None
    assert sorted(found.files) == ["deep/er/weights", "top"]
    assert json.loads((checkpoint.path / "checkpoint.json").read_text())["world_size"] == 2
