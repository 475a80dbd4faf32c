"""What the doctor says of GPUs, sizes and disks that this machine does not have."""

from pathlib import Path

import pytest

from assets.doctor.examination import _of_experiment, device_is_needed
from assets.doctor.findings import (
    Row,
    device_rows,
    disk_row,
    gpu_row,
    launched_rows,
    machine_rows,
    memory_rows,
    nccl_row,
    policy_rows,
    version_rows,
    will_stop,
)
from assets.doctor.machine import Gpu, Gpus, visible_of
from assets.doctor.needs import disk_bytes, training_memory
from pipeline.config import Experiment, load_experiment
from pipeline.policies.facts import ModelFacts
from pipeline.store import open_store

GB = 10**9
QWEN = ModelFacts(
    "Qwen/Qwen2.5-Math-1.5B",
    1_543_714_304,
    {"hidden_size": 1536, "num_hidden_layers": 28, "intermediate_size": 8960, "vocab_size": 151_936},
)
NONE = Gpus(why_none="no NVIDIA GPU is to be seen", next_step="buy one")


def h100(free: int = 79, count: int = 1) -> Gpus:
    return Gpus(tuple(Gpu("NVIDIA H100", free * GB, 80 * GB, (9, 0)) for _ in range(count)), "580.65", (13, 0))


def qwen(*overrides: str) -> Experiment:
    return load_experiment("qwen25_math_1p5b_generations", overrides)


def states(rows: object) -> list[str]:
    assert not isinstance(rows, Row)
    return [row.state for row in rows]  # type: ignore[attr-defined]


def test_one_free_h100_trains_and_samples_a_model_of_1p5b() -> None:
    rows = [
        *device_rows(qwen(), h100(), QWEN, 8 * GB),
        *memory_rows(qwen("rollouts.engine=vllm"), h100(), QWEN, 64 * GB),
    ]
    assert rows
    assert not will_stop(rows), rows


def test_state_of_training_is_counted_as_its_parts() -> None:
    parameters, experiment = 10**9, qwen("training.control_every=0")
    one = training_memory(experiment, parameters, {}, gpu=True)
    assert one.state == parameters * (2 + 4 + 8 + 2 + 4), "weights, master weights, moments, gradients in two types"
    assert one.work == parameters * 8, "the optimizer's step: nothing is known of the model's width"
    four = training_memory(
        qwen("training.control_every=0", "training.processes=4", "training.zero_stage=3"), parameters, {}, True
    )
    assert four.state == parameters * (2 + 4 + 8 + 4) // 4 + parameters * 2
    offloaded = training_memory(qwen("training.control_every=0", "training.offload=optimizer"), parameters, {}, True)
    assert (one.state - offloaded.state, offloaded.host) == (12 * parameters, 12 * parameters + 600_000_000)
    critic = training_memory(qwen("training.control_every=0", "training.objective=ppo"), parameters, {}, True)
    assert critic.state == 2 * one.state


@pytest.mark.parametrize(
    ("overrides", "gpus", "word", "step"),
    [
        ((), NONE, "1,544M parameters without a GPU", "large_model_on_cpu"),
        (("training.processes=4",), h100(), "processes: 4, visible GPUs: 1", "training.processes: 1"),
        (("rollouts.tensor_parallel=2",), h100(), "tensor_parallel", "lower them"),
        ((), Gpus((Gpu("Tesla V100", 30 * GB, 32 * GB, (7, 0)),), "580.65", (13, 0)), "no bfloat16", "float32"),
    ],
)
def test_devices_that_stop_a_run(overrides: tuple[str, ...], gpus: Gpus, word: str, step: str) -> None:
    (row,) = device_rows(qwen(*overrides), gpus, QWEN, 8 * GB)
    assert row.state == "stop"
    assert word in row.found
    assert step in row.next_step


def test_a_large_model_on_a_cpu_passes_when_the_experiment_says_so() -> None:
    assert not list(device_rows(qwen("large_model_on_cpu=true"), NONE, QWEN, 0))


def test_memory_that_somebody_else_holds() -> None:
    experiment = qwen("rollouts.engine=vllm")
    rows = list(memory_rows(experiment, h100(free=20), QWEN, 64 * GB))
    assert states(rows) == ["stop", "ok", "stop"], rows
    assert "training holds about 30.9 GB" in rows[0].found
    assert "vLLM wants 72.0 GB" in rows[2].found
    assert "nvidia-smi" in rows[2].next_step
    (tight, *_) = memory_rows(experiment, h100(free=35), QWEN, 64 * GB)
    assert tight.state == "warning"
    assert "activation_checkpointing" in tight.next_step
    assert memory_rows(qwen("large_model_on_cpu=true"), NONE, QWEN, 8 * GB).__next__().state == "stop"


def test_little_shared_memory_is_named_where_several_processes_train() -> None:
    (row,) = device_rows(qwen("training.processes=2"), h100(count=2), QWEN, 64 * 2**20)
    assert row.state == "warning"
    assert "--shm-size" in row.next_step


def test_disk_counts_what_is_still_to_be_published() -> None:
    experiment = qwen()
    once, run = disk_bytes(experiment, 10**9, published=0)
    assert once == (experiment.training.keep_checkpoints + 2) * 14 * 10**9 + 2 * 10**9
    assert run - once == experiment.generations * 2 * 10**9
    assert disk_bytes(experiment, 10**9, published=experiment.generations + 1) == (0, 0)
    assert disk_row(experiment, QWEN, 0, 10 * GB, "/data").state == "stop"
    stops_later = disk_row(experiment, QWEN, 0, 100 * GB, "/data")
    assert stops_later.state == "stop"
    assert "room for about" in stops_later.next_step
    assert disk_row(experiment, QWEN, 0, 1000 * GB, "/data").state == "ok"


def test_a_driver_too_old_for_torch_stops_and_a_build_for_cpus_too() -> None:
    fits = version_rows(h100(), (12, 8), "2.13.0", [])
    assert states(fits) == ["ok", "ok"]
    old = Gpus(h100().visible, "535.1", (12, 2))
    assert "update the driver" in version_rows(old, (13, 0), "2.13.0", [])[1].next_step
    assert states(version_rows(h100(), None, "2.13.0+cpu", ["torch is 1"])) == ["warning", "stop"]
    assert states(version_rows(NONE, None, "2.13.0+cpu", [])) == ["ok"]


def test_nccl_is_that_of_torch() -> None:
    assert states(nccl_row(NONE, None, None)) == ["ok"]
    assert states(nccl_row(h100(), "2.28.9", "2.28.9")) == ["ok"]
    assert states(nccl_row(h100(), "2.20.0", "2.28.9")) == ["warning"]
    assert states(nccl_row(h100(), None, "2.28.9")) == ["stop"]


def test_no_gpu_is_a_finding_only_where_one_is_needed() -> None:
    assert gpu_row(NONE, needed=False).state == "ok"
    assert gpu_row(NONE, needed=True).next_step == "buy one"
    assert "79 of 80 GB free" in gpu_row(h100(), needed=True).found


def test_what_is_known_without_the_policy_is_said(tmp_path: Path) -> None:
    """A silent hub hides how large the policy is, not how many GPUs there are."""
    assert device_is_needed(qwen(), NONE, None)
    assert not device_is_needed(qwen("large_model_on_cpu=true"), NONE, None)
    rows = _of_experiment(qwen("training.processes=4"), open_store(str(tmp_path)), h100(), None, 0)
    assert [(row.check, row.state) for row in rows if row.found.startswith("training.processes")] == [
        ("device", "stop")
    ]
    assert {(row.check, row.state) for row in rows} >= {("memory", "warning"), ("disk", "warning")}
    assert all(row.next_step for row in rows if row.state != "ok")


def test_visible_devices_end_at_the_first_that_is_none() -> None:
    every = [Gpu(f"gpu{i}", 0, 0, (9, 0), f"GPU-{i}aa") for i in range(3)]
    assert [gpu.name for gpu in visible_of(every, None)] == ["gpu0", "gpu1", "gpu2"]
    assert [gpu.name for gpu in visible_of(every, "2, 0")] == ["gpu2", "gpu0"]
    assert [gpu.name for gpu in visible_of(every, "GPU-1,7,0")] == ["gpu1"]
    assert visible_of(every, "") == visible_of(every, "-1") == visible_of(every, "9") == []


def test_a_chat_template_that_is_not_there() -> None:
    experiment = qwen("prompts.template=chat")
    assert states(policy_rows(experiment, QWEN)) == ["ok", "stop"]
    assert states(policy_rows(qwen(), QWEN)) == ["ok", "ok"]
    broken = ModelFacts("here", 1, problem="here has no tokenizer.json")
    assert states(policy_rows(qwen(), broken)) == ["ok", "stop"]


def test_stages_that_run_elsewhere_are_not_judged_by_this_machine() -> None:
    launch = "launch={by: slurm, stages: {trained_policy: [--gpus=8], rollouts: [--gpus=8]}}"
    experiment = qwen(launch, "training.processes=8", "rollouts.tensor_parallel=8")
    assert not [*device_rows(experiment, h100(), QWEN, 0), *memory_rows(experiment, h100(1), QWEN, 1)]
    assert "trained_policy, rollouts" in launched_rows(experiment)[0].found


def test_several_machines_need_a_slurm_job() -> None:
    experiment = qwen("training.machines=2")
    assert states(machine_rows(experiment, {})) == ["stop"]
    assert states(machine_rows(experiment, {"SLURM_JOB_ID": "7"})) == []
    assert states(machine_rows(qwen(), {})) == []
