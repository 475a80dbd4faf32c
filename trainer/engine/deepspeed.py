"""All that the trainer asks of DeepSpeed: join the processes, wrap a model, step, save, load, collect its weights."""

import contextlib
import importlib
import io
import logging
import math
import os
import pickle
import re
import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from pipeline.config.training import TrainingConfig
from pipeline.errors import TbrmError
from pipeline.scoring.backbone import Share, join_share

_QUIET_STEPS = 10**9
_NO_TORCH_COMPILE = {"TORCHDYNAMO_DISABLE": "1"}
"""DeepSpeed imports every optimizer that it knows. One of them, Muon, would load torch's compiler for seconds."""


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Generator[None]:
    """Set `variables` for this process and for those that it starts inside the block; afterwards the old values come
    back."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@dataclass(frozen=True)
class World:
    """The processes of one job, and the device of this one."""

    rank: int
    size: int
    device: torch.device
    share: Share | None = None
    """The processes that hold this one's packs together with it. None: it holds them alone."""

    @property
    def groups(self) -> int:
        """How many packs are under way at the same time."""
        return self.size if self.share is None else self.size // self.share.size

    @property
    def group(self) -> int:
        """Which of these packs is this process's."""
        return self.rank if self.share is None else self.rank // self.share.size

    @property
    def leader(self) -> bool:
        return self.rank == 0


def join_world(sequence_parallel: int = 1, timeout_s: float = 3_600.0) -> World:
    """Join the processes that torchrun started. A process that was not started by it makes a world of its own.

    Groups of `sequence_parallel` processes share their packs. `timeout_s` is how long a process waits for the others,
    in every process group. Those that DeepSpeed makes would otherwise have NCCL's default of 10 minutes, which is less
    than rank 0 may take for the hash of a large checkpoint.

    The backend is gloo on the CPU, NCCL on GPUs. DeepSpeed's shared-memory collective for CPUs is switched off: it
    compiles C++ for a minute at the first start, and gloo does the same work.
    """
    gpu = torch.cuda.is_available()
    load_deepspeed()
    import deepspeed
    from torch._C._distributed_c10d import HashStore  # torch.distributed re-exports it untyped
    from torch.distributed import distributed_c10d

    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.setdefault("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=timeout_s)
    distributed_c10d.default_pg_timeout = timeout
    distributed_c10d.default_pg_nccl_timeout = timeout  # pyright: ignore[reportPrivateImportUsage]
    if not torch.distributed.is_initialized():
        backend = "nccl" if gpu else "gloo"
        if size == 1:
            torch.distributed.init_process_group(backend, timeout=timeout, store=HashStore(), rank=0, world_size=1)
        else:
            torch.distributed.init_process_group(backend, timeout=timeout)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    return World(rank, size, device, join_share(sequence_parallel))


def load_deepspeed() -> None:
    """Import DeepSpeed for the device that there is, and let it report errors only."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    importlib.import_module("deepspeed")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)


def leave_world(world: World) -> None:
    """End the process group of a job of one process, because this process may go on to other work.

    vLLM, when it samples next in this process, would otherwise end the group that it finds, and DeepSpeed would train
    on with what is left of it.
    """
    if world.size == 1:
        from deepspeed.comm import destroy_process_group

        destroy_process_group()


def deepspeed_config(
    training: TrainingConfig, learning_rate: float, dtype: torch.dtype, universal: bool
) -> dict[str, Any]:
    """DeepSpeed's configuration for one model of the job; `universal` reads a checkpoint of another world size."""
    gpu = torch.cuda.is_available()
    place = {"device": "cpu", "pin_memory": gpu}
    zero: dict[str, Any] = {
        "stage": training.zero_stage,
        "overlap_comm": gpu,
        "contiguous_gradients": True,
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    if training.offload != "none":
        zero["offload_optimizer"] = place
    if training.offload == "all":
        zero["offload_param"] = place
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # the trainer marks the boundary itself: updates differ in packs
        "gradient_clipping": training.grad_clip,
        "bf16": {"enabled": dtype == torch.bfloat16},
        # Several packs make one gradient, and several processes: summed in bf16 it would be 1% off.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        # DeepSpeed's own CPU Adam is compiled at first use and only pays off beside a GPU.
        "zero_force_ds_cpu_optimizer": gpu and training.offload != "none",
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": learning_rate,
                "betas": list(training.adam_betas),
                "eps": training.adam_eps,
                "weight_decay": training.weight_decay,
                "torch_adam": not (gpu and training.offload != "none"),
            },
        },
        "steps_per_print": _QUIET_STEPS,
        "checkpoint": {"load_universal": universal},
    }


def wrap(module: torch.nn.Module, config: Mapping[str, Any]) -> Any:
    """A DeepSpeed engine that trains `module`'s parameters."""
    import deepspeed

    trained = [p for p in module.parameters() if p.requires_grad]
    initialize: Any = deepspeed.initialize  # its annotations are wrong
    # DeepSpeed's bf16 optimizer prints, here and when it loads, where a command's JSON goes.
    with environment(_NO_TORCH_COMPILE), contextlib.redirect_stdout(io.StringIO()):
        engine, *_ = initialize(model=module, model_parameters=trained, config=dict(config))
    return engine


def set_learning_rate(engine: Any, learning_rate: float) -> None:
    """Set the rate of the next update. It is a function of the update's number, so there is no scheduler to save."""
    for group in engine.optimizer.param_groups:
        group["lr"] = learning_rate


def step(engine: Any) -> float:
    """Do the optimizer step; returns the global gradient norm before clipping, the same on all ranks.

    Where the norm is not finite, no weight is changed: with ZeRO DeepSpeed leaves the step out, without it this does.
    """
    if engine.zero_optimization_stage() > 0:
        engine.step()
        return float(engine.get_global_grad_norm() or 0.0)
    # Without ZeRO the reduced gradients lie in the parameters of every process.
    norm = float(torch.nn.utils.get_total_norm([p.grad for p in engine.module.parameters() if p.grad is not None]))
    if math.isfinite(norm):
        engine.step()
    return norm


def forget_moments(engine: Any) -> None:
    """Let the optimizer start anew, with the weights (and master weights) that it has."""
    for state in engine.optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                value.zero_()
            elif name == "step":
                state[name] = 0
    for group in engine.optimizer.param_groups:
        if "step" in group:  # where FusedAdam counts
            group["step"] = 0


def save_engine(engine: Any, folder: Path, tag: str) -> None:
    """All ranks: weights, master weights and optimizer state under `folder`/`tag`."""
    engine.checkpoint_engine.save = _save_file
    engine.save_checkpoint(str(folder), tag=tag, save_latest=False)


def _save_file(state_dict: Any, path: str) -> None:
    """Save through an open file, which raises the OSError of a full disk; torch's own writer raises another error."""
    with Path(path).open("wb") as file:
        torch.save(state_dict, file)


def load_engine(engine: Any, folder: Path, tag: str) -> None:
    """All ranks: the inverse of `save_engine`. Raises TbrmError when there is nothing to load, or more than data."""
    with contextlib.redirect_stdout(io.StringIO()), _only_data(folder / tag):
        loaded, _ = engine.load_checkpoint(str(folder), tag=tag)
    if loaded is None:
        raise TbrmError(f"DeepSpeed cannot load {folder / tag}; delete this checkpoint to go on from the one before it")


@contextlib.contextmanager
def _only_data(folder: Path) -> Generator[None]:
    """Load a checkpoint's pickles without running code that they name. Raises TbrmError where one names any.

    DeepSpeed lets torch load everything (`weights_only=False`). Torch's own switch overrules that: a pickle may then
    hold tensors, plain values, and three classes of DeepSpeed, which do nothing when they are made.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    switch = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}
    allowed: list[Any] = [LossScaler, ZeroStageEnum, fragment_address]
    try:
        with environment(switch), torch.serialization.safe_globals(allowed):
            yield
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)|WeightsUnpickler error: ([^\n.]*)", str(error))
        what = (named[1] or named[2]) if named else "not a pickle of tensors"  # torch's own advice is to trust it
        raise TbrmError(
            f"{folder} holds more than tensors and plain values ({what}): it was not written "
            "by tbrm, or was changed since. Nothing of it was run. Delete this checkpoint to go on from the one before"
        ) from error


def to_universal(folder: Path, tag: str) -> str:
    """Convert a checkpoint so that any number of processes can load it; returns the tag of the converted one.

    Run by one process, before the engine is made; idempotent. Raises TbrmError for one that holds more than data.
    """
    import argparse

    from deepspeed.checkpoint import ds_to_universal

    universal = f"{tag}-universal"
    if (folder / universal / "done").exists():
        return universal
    args = argparse.Namespace(
        input_folder=str(folder / tag),
        output_folder=str(folder / universal),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), _only_data(folder / tag):
        ds_to_universal.main(args)
    (folder / universal / "done").touch()
    return universal


def full_weights(engine: Any, prefix: str) -> dict[str, torch.Tensor]:
    """All ranks: the trained tensors by name without `prefix`; complete on rank 0 (elsewhere empty under ZeRO 3)."""
    if engine.zero_optimization_stage() == 3:
        state: Mapping[str, torch.Tensor] = engine._zero3_consolidated_16bit_state_dict() or {}
    else:
        state = engine.module.state_dict()
    return {name.removeprefix(prefix): tensor.detach() for name, tensor in state.items() if name.startswith(prefix)}


def total(world: World, values: torch.Tensor) -> torch.Tensor:
    """Sum over all processes, in place."""
    if world.size > 1:
        torch.distributed.all_reduce(values)
    return values
