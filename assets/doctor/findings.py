"""What the doctor finds, a row each; and what GPUs, versions and the policy's size mean for an experiment."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from assets.doctor.machine import Gpu, Gpus
from assets.doctor.needs import GB, disk_bytes, training_memory
from pipeline.config import Experiment
from pipeline.config.cluster import LaunchedStage
from pipeline.policies.facts import ModelFacts
from pipeline.policies.load_save import MOST_ON_CPU
from pipeline.sampling.engines import vllm_samples

State = Literal["ok", "warning", "stop"]
_BF16 = (8, 0)
"""First compute capability with bfloat16."""
_CUDA_TAKES = 1_500_000_000
"""Bytes of a CUDA context, NCCL and the allocator's slack."""
_SHARED_MEMORY = 1_000_000_000
"""Bytes of /dev/shm with which NCCL starts on one machine; containers often give 64 MB."""


@dataclass(frozen=True)
class Row:
    """`stop`: a run would fail by this. Whatever is not `ok` says in `next_step` what to do."""

    check: str
    state: State
    found: str
    next_step: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def will_stop(rows: Iterable[Row]) -> bool:
    """Whether one of the rows stops a run."""
    return any(row.state == "stop" for row in rows)


def gpu_row(gpus: Gpus, needed: bool) -> Row:
    """What GPUs there are. Without one, nothing is wrong unless one is needed."""
    if gpus.why_none:
        return Row("gpu", "warning" if needed else "ok", gpus.why_none, gpus.next_step if needed else "")
    each = [f"{gpu.name} ({gpu.free / GB:.0f} of {gpu.total / GB:.0f} GB free)" for gpu in gpus.visible]
    return Row("gpu", "ok", f"{', '.join(each)}; driver {gpus.driver}, CUDA up to {_version(gpus.cuda)}")


def version_rows(gpus: Gpus, torch_cuda: tuple[int, int] | None, torch: str | None, unfit: Sequence[str]) -> list[Row]:
    """Whether the installed packages fit together, and fit the driver."""
    rows = [Row("versions", "ok", f"torch {torch}, and what it needs")]
    if unfit:
        step = "`pip install -c constraints.txt -e .` with the extras that you use"
        rows = [Row("versions", "warning", "; ".join(unfit), step)]
    if not gpus.visible:
        return rows
    if torch_cuda is None:
        step = "install torch's CUDA build: `pip install -c constraints.txt -e '.[vllm]'` in a new environment"
        rows.append(Row("driver", "stop", f"torch {torch} is built for CPUs, and there is a GPU", step))
    elif torch_cuda[0] > gpus.cuda[0]:
        found = f"torch is built for CUDA {_version(torch_cuda)}, driver {gpus.driver} supports {_version(gpus.cuda)}"
        rows.append(Row("driver", "stop", found, "update the driver, or install torch for an older CUDA"))
    else:
        found = f"driver {gpus.driver} (CUDA {_version(gpus.cuda)}) runs torch's CUDA {_version(torch_cuda)}"
        rows.append(Row("driver", "ok", found))
    return rows


def nccl_row(gpus: Gpus, installed: str | None, wanted: str | None) -> list[Row]:
    """Whether torch finds the NCCL that it was built with."""
    if not gpus.visible:
        return [Row("nccl", "ok", "not needed: without a GPU processes talk by gloo")]
    if wanted is None:
        return [Row("nccl", "ok", "part of this torch")]
    if installed != wanted:
        found = f"NCCL {installed or 'is not installed'}, torch was built with {wanted}"
        return [Row("nccl", "stop" if installed is None else "warning", found, "install torch again with its packages")]
    return [Row("nccl", "ok", wanted)]


def device_rows(experiment: Experiment, gpus: Gpus, facts: ModelFacts, shared_memory: int) -> Iterator[Row]:
    """Whether the devices of this machine are what the experiment's stages ask for."""
    training, rollouts, seen = experiment.training, experiment.rollouts, len(gpus.visible)
    if not seen:
        if facts.parameters and facts.parameters > MOST_ON_CPU and not experiment.large_model_on_cpu:
            size, most = facts.parameters / 1e6, MOST_ON_CPU / 1e6
            found = f"{size:,.0f}M parameters without a GPU: stages refuse more than {most:.0f}M"
            yield Row("device", "stop", found, "use a machine with a GPU, or set `large_model_on_cpu: true`")
        return
    if experiment.policy.dtype == "bfloat16" and (old := [g.name for g in gpus.visible if g.capability < _BF16]):
        yield Row("device", "stop", f"{', '.join(old)}: no bfloat16", "set `policy.dtype: float32`")
    if runs_here(experiment, "trained_policy") and training.processes > seen:
        found = f"training.processes: {training.processes}, visible GPUs: {seen}"
        yield Row("device", "stop", found, f"set `training.processes: {seen}`, or train where there are more")
    if training.processes > 1 and runs_here(experiment, "trained_policy") and shared_memory < _SHARED_MEMORY:
        found = f"/dev/shm has {shared_memory / GB:.2f} GB: NCCL may fail to start {training.processes} processes"
        yield Row("device", "warning", found, "start the container with `--shm-size=8g` or `--ipc=host`")
    if rollouts is not None and samples_here(experiment):
        wanted = rollouts.tensor_parallel * rollouts.pipeline_parallel
        if wanted > seen:
            found = f"rollouts.tensor_parallel x pipeline_parallel: {wanted}, visible GPUs: {seen}"
            yield Row("device", "stop", found, "lower them, or sample where there are more GPUs")


def memory_rows(experiment: Experiment, gpus: Gpus, facts: ModelFacts, host: int) -> Iterator[Row]:
    """Whether weights, optimizer and engine fit, as far as that can be counted. `host`: bytes of memory to be had."""
    if facts.parameters is None:
        yield Row("memory", "warning", "the size of the policy is not known", "see the row `policy`")
        return
    training = experiment.training
    if runs_here(experiment, "trained_policy"):
        need = training_memory(experiment, facts.parameters, facts.config, bool(gpus.visible))
        if gpus.visible:
            yield _on_gpu(experiment, gpus.visible[: training.processes], need.state, need.work)
        total = need.host * training.processes
        found = f"training takes about {total / GB:.1f} GB of {host / GB:.1f} GB that the machine has left"
        if total > host:
            yield Row("memory", "stop", found, "fewer `training.processes`, a smaller model, or more memory")
        else:
            yield Row("memory", "ok", found)
    if samples_here(experiment) and gpus.visible and vllm_samples(experiment.rollouts, facts.parameters):
        yield from _engine(experiment, gpus.visible, facts.parameters)


def _on_gpu(experiment: Experiment, gpus: Sequence[Gpu], state: int, work: int) -> Row:
    free = min(gpu.free for gpu in gpus)
    found = (
        f"training holds about {state / GB:.1f} GB on each GPU and {work / GB:.1f} GB more for a pack; free: "
        f"{free / GB:.1f} GB"
    )
    if state + _CUDA_TAKES > free:
        step = (
            "more `training.processes` with `zero_stage: 3`, `offload: optimizer`, `training.lora`, or end what holds "
            "the GPU (`nvidia-smi`)"
        )
        return Row("gpu memory", "stop", found, step)
    if state + work + _CUDA_TAKES > free:
        step = "lower `training.micro_batch_tokens` and set `training.activation_checkpointing: true`"
        return Row("gpu memory", "warning", found, step)
    return Row("gpu memory", "ok", found)


def _engine(experiment: Experiment, gpus: Sequence[Gpu], parameters: int) -> Iterator[Row]:
    rollouts = experiment.rollouts
    assert rollouts is not None
    parts = rollouts.tensor_parallel * rollouts.pipeline_parallel
    used, share = gpus[:parts], rollouts.gpu_memory_utilization
    weights = parameters * (4 if experiment.policy.dtype == "float32" else 2) / parts
    for gpu in used:
        if gpu.free < share * gpu.total:
            found = f"vLLM wants {share * gpu.total / GB:.1f} GB of {gpu.name}; free: {gpu.free / GB:.1f} GB"
            step = "end what holds the GPU (`nvidia-smi`), or lower `rollouts.gpu_memory_utilization`"
            yield Row("gpu memory", "stop", found, step)
            return
        if weights + _CUDA_TAKES > share * gpu.total:
            found = (
                f"weights of {weights / GB:.1f} GB leave no room for vLLM's cache in {share * gpu.total / GB:.1f} GB"
            )
            yield Row("gpu memory", "stop", found, "raise `rollouts.tensor_parallel`, or take a larger GPU")
            return
    yield Row("gpu memory", "ok", f"vLLM gets {share:.0%} of {parts} GPU{'s' if parts > 1 else ''}")


def disk_row(experiment: Experiment, facts: ModelFacts, published: int, free: int, where: str) -> Row:
    """Whether policies and checkpoints find room."""
    if facts.parameters is None:
        found = f"{free / GB:.1f} GB free in {where}; the size of the policy is not known"
        return Row("disk", "warning", found, "see the row `policy`")
    once, run = disk_bytes(experiment, facts.parameters, published)
    found = f"{free / GB:.1f} GB free in {where}; a training takes {once / GB:.1f} GB, the whole run {run / GB:.1f} GB"
    if once > free:
        return Row("disk", "stop", found, "make room, or put the store elsewhere (--root)")
    if run > free:
        each = max(1.0, (run - once) / max(1, experiment.generations - published))
        step = f"room for about {int((free - once) / each)} generations: make room, or plan fewer `generations`"
        return Row("disk", "stop", found, step)
    return Row("disk", "ok", found)


def policy_rows(experiment: Experiment, facts: ModelFacts) -> list[Row]:
    """What the policy is, and whether its tokenizer and the template can be used."""
    size = f"{facts.parameters / 1e6:,.0f}M parameters" if facts.parameters is not None else "of unknown size"
    rows = [Row("policy", "ok", f"{facts.where}: {size}")]
    template = experiment.prompts.template
    if facts.problem:
        rows.append(Row("tokenizer", "stop", facts.problem, "a policy needs the tokenizer that it was trained with"))
    elif template == "chat" and not facts.chat_template:
        step = "set `prompts.template: qwen-math`, `r1` or `raw`"
        rows.append(Row("tokenizer", "stop", f"`prompts.template: chat`: {facts.where} has no chat template", step))
    else:
        rows.append(Row("tokenizer", "ok", f"there; prompts by template {template}"))
    return rows


def launched_rows(experiment: Experiment) -> list[Row]:
    """Stages that run elsewhere cannot be judged from here."""
    if experiment.launch is None:
        return []
    names = ", ".join(experiment.launch.stages)
    step = "ask there too: `srun OPTIONS tbrm doctor …`, or `ray job submit -- tbrm doctor …`"
    return [Row("launch", "warning", f"{names} run as jobs of {experiment.launch.by}: not looked at from here", step)]


def machine_rows(experiment: Experiment, environment: Mapping[str, str]) -> Iterator[Row]:
    """Whether the training can get several machines from where it runs."""
    machines = experiment.training.machines if experiment.training.machines_by == "slurm" else 1
    if machines > 1 and runs_here(experiment, "trained_policy") and "SLURM_JOB_ID" not in environment:
        step = (
            "`launch: {by: slurm, stages: {trained_policy: […]}}`, or start from within `salloc`; see docs/cluster.md"
        )
        yield Row("machines", "stop", f"training.machines: {machines}, and this is no Slurm job", step)


def runs_here(experiment: Experiment, stage: LaunchedStage) -> bool:
    """Whether a stage's process runs on this machine."""
    return experiment.launch is None or stage not in experiment.launch.stages


def samples_here(experiment: Experiment) -> bool:
    """Whether an engine is started on this machine for rollouts."""
    rollouts = experiment.rollouts
    on_ray = experiment.ray is not None and "rollouts" in experiment.ray.stages
    return rollouts is not None and not rollouts.endpoint and not on_ray and runs_here(experiment, "rollouts")


def _version(cuda: tuple[int, int]) -> str:
    return f"{cuda[0]}.{cuda[1]}"
