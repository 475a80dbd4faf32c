"""The training job on a tiny policy: what it learns from, what it writes, how it goes on after being killed."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import TbrmError
from pipeline.run.threads import usable_cores
from tests.support.openmp import DISPLAY, SAID_NOTHING, displayed
from trainer.diagnostics.numbers import DIAGNOSTICS_FILE
from trainer.job import METRICS_FILE, TrainJob
from trainer.loop.worker import train_policy

MakeJob = Callable[..., TrainJob]


def weights(folder: Path) -> str:
    with (folder / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_in_process(job: TrainJob) -> subprocess.Popen[bytes]:
    """The job in a process of its own, as a launcher would start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.loop.worker", str(job.save())],
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def wait_for_update(job: TrainJob, process: subprocess.Popen[bytes], update: int) -> None:
    path = job.state / METRICS_FILE
    while not path.exists() or path.read_text().count("\n") < update:
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
        time.sleep(0.01)


def _say_nothing_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SAID_NOTHING:
        monkeypatch.delenv(name, raising=False)
    for name, value in DISPLAY.items():
        monkeypatch.setenv(name, value)


def test_at_the_reference_the_log_ratio_vanishes(make_job: MakeJob) -> None:
    first = train_policy(make_job(updates=1)).metrics[0]
    assert abs(first["logratio"]) < 1e-4


def test_tbrm_lowers_its_loss_and_raises_the_preferred_responses(make_job: MakeJob) -> None:
    metrics = train_policy(make_job(updates=40, beta=0.5, prompt_batch=24, learning_rate=1e-3)).metrics
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]


def test_imitation_lowers_the_negative_log_likelihood(make_job: MakeJob) -> None:
    metrics = train_policy(make_job(updates=20, objective="imitation", prompt_batch=48, learning_rate=1e-3)).metrics
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]
    assert metrics[0]["trajectories"] == 48


def test_loss_does_not_depend_on_the_packing(make_job: MakeJob) -> None:
    small = train_policy(make_job("small", updates=2, micro_batch_tokens=32)).metrics
    large = train_policy(make_job("large", updates=2, micro_batch_tokens=4096)).metrics
    assert [r["loss"] for r in small] == pytest.approx([r["loss"] for r in large], rel=1e-5)


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_zero_stages_agree(make_job: MakeJob, zero_stage: int) -> None:
    one = train_policy(make_job("one", updates=2)).metrics
    other = train_policy(make_job("other", updates=2, zero_stage=zero_stage)).metrics
    for name in ("loss", "grad_norm"):
        assert [r[name] for r in other] == pytest.approx([r[name] for r in one], rel=1e-5)


def test_two_processes_give_the_same_loss_and_two_can_hand_over_to_one(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    one = train_policy(make_job("one", updates=4))
    job = make_job("two", updates=2, processes=2)
    _say_nothing_of_threads(monkeypatch)
    two = train_policy(job)
    assert displayed(capfd.readouterr().err).count((max(1, usable_cores() // 2), "PASSIVE")) >= 2
    assert [r["loss"] for r in two.metrics] == pytest.approx([r["loss"] for r in one.metrics[:2]], rel=1e-5)
    resumed = train_policy(replace(job, updates=4, training=job.training.model_copy(update={"processes": 1})))
    assert resumed.resumed_from == 2
    assert [r["loss"] for r in resumed.metrics] == pytest.approx([r["loss"] for r in one.metrics], rel=1e-4)


def test_sigkill_at_a_random_update_ends_in_the_same_weights(make_job: MakeJob) -> None:
    whole = make_job("whole", updates=12, checkpoint_every=3)
    train_policy(whole)
    killed = make_job("killed", updates=12, checkpoint_every=3)
    for _ in range(2):
        process = run_in_process(killed)
        wait_for_update(killed, process, random.randint(4, 11))
        process.send_signal(signal.SIGKILL)
        process.wait()
    result = train_policy(killed)
    assert result.resumed_from >= 3
    assert weights(killed.out) == weights(whole.out)
    assert [r["update"] for r in result.metrics] == list(range(1, 13))


def test_sigterm_writes_a_checkpoint_first(make_job: MakeJob) -> None:
    job = make_job(updates=500, checkpoint_every=500)
    process = run_in_process(job)
    wait_for_update(job, process, 3)
    process.terminate()
    assert process.wait(60) == 1
    assert process.stderr is not None
    assert list(job.state.glob("update-*"))
    assert "was stopped after update" in (job.state / "error.txt").read_text()


def test_nothing_left_to_do_is_said_and_exports_again(make_job: MakeJob, capfd: pytest.CaptureFixture[str]) -> None:
    job = make_job(updates=2)
    train_policy(job)
    before = weights(job.out)
    assert train_policy(job).resumed_from == 2
    assert weights(job.out) == before
    assert "0 of 2 updates remain" in capfd.readouterr().err


def test_a_checkpoint_past_the_end_is_an_error(make_job: MakeJob) -> None:
    job = make_job(updates=3)
    train_policy(job)
    with pytest.raises(TbrmError, match="nothing remains to be done"):
        train_policy(replace(job, updates=2))


def test_optimizer_state_is_carried_into_the_next_generation(make_job: MakeJob) -> None:
    """Two jobs of two updates with carried state are one job of four, when they see the same data in the same order."""
    whole = train_policy(make_job("whole", updates=4, prompt_batch=24))
    first = make_job("first", updates=2, prompt_batch=24)
    train_policy(first)
    second = replace(
        make_job("second", updates=2, prompt_batch=24), start=first.out, carry=first.state / "update-00000002"
    )
    result = train_policy(second)
    assert result.carried
    assert [r["loss"] for r in result.metrics] == pytest.approx([r["loss"] for r in whole.metrics[2:]], rel=1e-5)


def test_exported_folder_is_an_ordinary_model(make_job: MakeJob, policy: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    job = make_job(updates=1)
    train_policy(job)
    trained, started = (AutoModelForCausalLM.from_pretrained(f) for f in (job.out, policy))
    assert trained.state_dict().keys() == started.state_dict().keys()
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), started.parameters(), strict=True))
    assert (
        AutoTokenizer.from_pretrained(job.out)("1+2=").input_ids
        == AutoTokenizer.from_pretrained(policy)("1+2=").input_ids
    )


def test_divergence_stops_before_the_step_and_names_trajectories(make_job: MakeJob) -> None:
    with pytest.raises(TbrmError, match=r"diverged at update 1: .* Worst trajectories: t\d\d\d"):
        train_policy(make_job(max_residual=1e-3))


def test_unreadable_rewards_stop_the_job(make_job: MakeJob, trajectories: object) -> None:
    job = make_job(beta=1e-300)
    with pytest.raises(TbrmError, match="diverged"):
        train_policy(job)


def test_a_full_gpu_is_answered_with_the_settings_to_change(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB")

    monkeypatch.setattr("trainer.loop.worker.update_once", full)
    with pytest.raises(TbrmError, match=r"Tried to allocate 2.00 GiB.*lower training.micro_batch_tokens"):
        train_policy(make_job())


@pytest.mark.parametrize(
    ("objective", "zero_stage", "key_value_heads"), [("tbrm", 1, 2), ("brm", 3, 1), ("sql_multi", 1, 1)]
)
def test_two_processes_share_each_pack(
    make_job: MakeJob, policy: Path, tmp_path: Path, objective: str, zero_stage: int, key_value_heads: int
) -> None:
    """Ulysses: an odd number of tokens, several sequences cut in the middle, the same numbers as one process."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(policy, start := tmp_path / "start")
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(policy, num_key_value_heads=key_value_heads)
    AutoModelForCausalLM.from_config(config).save_pretrained(start)
    given = {"objective": objective, "zero_stage": zero_stage, "micro_batch_tokens": 101}
    one = train_policy(replace(make_job("one", **given), start=start)).metrics
    two = train_policy(replace(make_job("two", processes=2, sequence_parallel=2, **given), start=start)).metrics
    for name in ("loss", "grad_norm", "logratio", "reward", "tokens"):
        assert [r[name] for r in two] == pytest.approx([r[name] for r in one], rel=1e-4, abs=1e-6)
    figures = [json.loads((tmp_path / name / DIAGNOSTICS_FILE).read_text())["sources"] for name in ("one", "two")]
    for alone, shared in zip(*figures, strict=True):
        assert shared["value_first"] == pytest.approx(alone["value_first"], rel=1e-5)
        assert shared["residual"]["percentiles"] == pytest.approx(alone["residual"]["percentiles"], rel=1e-5)


def test_bfloat16_trains_and_keeps_its_type(make_job: MakeJob) -> None:
    from safetensors import safe_open

    job = make_job(updates=2)
    job = replace(job, model=job.model.model_copy(update={"dtype": "bfloat16"}))
    assert np.isfinite(train_policy(job).metrics[-1]["loss"])
    with safe_open(job.out / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_activation_checkpointing_changes_no_loss(make_job: MakeJob) -> None:
    plain = train_policy(make_job("plain", updates=2)).metrics
    saved = train_policy(make_job("saved", updates=2, activation_checkpointing=True)).metrics
    assert [r["loss"] for r in saved] == pytest.approx([r["loss"] for r in plain], rel=1e-5)
