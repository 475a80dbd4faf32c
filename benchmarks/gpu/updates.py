"""Parts 5, 6 and 9: updates at published sizes, the longest response, and LoRA on the larger model."""

import dataclasses
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.measure import free_memory, peak_gb, synchronize
from benchmarks.gpu.shapes import ModelShape, Sizes, job_of, model_folder, one_trajectory, trajectories
from pipeline.scoring.batch import Trajectory
from trainer.engine.deepspeed import World, join_world
from trainer.engine.models import Models, build_models
from trainer.job import TrainJob
from trainer.loop.metrics import Clock
from trainer.loop.scores import Batch, token_scores
from trainer.loop.update import update_once


def tbrm(sizes: Sizes, work: Path) -> Iterator[dict[str, Any]]:
    """TBRM, one response to a prompt: 128 trajectories an update (512 stored ones are four updates)."""
    yield from _objective(sizes, work, "tbrm", 1)


def ppo(sizes: Sizes, work: Path) -> Iterator[dict[str, Any]]:
    """PPO, one response to a prompt, with its critic of the policy's size."""
    yield from _objective(sizes, work, "ppo", 1)


def grpo(sizes: Sizes, work: Path) -> Iterator[dict[str, Any]]:
    """GRPO, four responses to a prompt: four times TBRM's trajectories an update, as the paper compares them."""
    yield from _objective(sizes, work, "grpo", 4)


def micro_batches(sizes: Sizes, work: Path) -> Iterator[dict[str, Any]]:
    """TBRM at other micro-batches, with and without activation checkpointing: what the default should be."""
    job = job_of(model_folder(sizes.small, work), work, objective="tbrm", micro_batch_tokens=sizes.micro_tokens[0])
    models, world = _models(job)
    batch = trajectories(sizes.small.vocabulary, sizes.trajectories // 4, 1, sizes.response_tokens)
    rows: list[dict[str, Any]] = []
    for checkpointing in (False, True):
        _set_checkpointing(models, checkpointing)
        for micro in sorted(sizes.micro_tokens):
            training = job.training.model_copy(update={"micro_batch_tokens": micro})
            row = {"micro_batch_tokens": micro, "activation_checkpointing": checkpointing}
            rows.append(row | _timed(dataclasses.replace(job, training=training), models, world, batch, 1))
            yield {"rows": rows}
            if "out_of_memory" in rows[-1]:
                break


def whole_job(sizes: Sizes, work: Path) -> Iterator[dict[str, Any]]:
    """The steps of `train_policy` around its updates: load, initialize, save and load a checkpoint, export, hash."""
    from pipeline.policies.load_save import load_model
    from pipeline.policies.refs import content_hash
    from trainer.engine.checkpoint import Checkpoint, checkpoint_path, write_checkpoint
    from trainer.engine.deepspeed import full_weights
    from trainer.engine.export import export_policy
    from trainer.engine.models import PREFIX, load_models, save_models

    state = work / "whole-job"
    state.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    folder = model_folder(sizes.small, work)
    yield {"make_model_s": time.perf_counter() - started}
    job = job_of(folder, state, objective="tbrm", micro_batch_tokens=sizes.micro_tokens[0])
    started = time.perf_counter()
    load_model(str(folder), job.model)
    yield {"load_folder_s": time.perf_counter() - started}
    started = time.perf_counter()
    models, world = _models(job)
    synchronize()
    yield {"initialize_s": time.perf_counter() - started}
    batch = trajectories(sizes.small.vocabulary, 8, 1, sizes.response_tokens)
    update_once(job, models, world, Batch(batch, None), Clock(), 0, 0)
    saved = Checkpoint(checkpoint_path(state, 1), 1, 1, job.config_hash, world.size, job.training.zero_stage)
    started = time.perf_counter()
    write_checkpoint(saved, lambda path: save_models(models, path), leader=world.leader)
    size = sum(path.stat().st_size for path in saved.path.rglob("*") if path.is_file())
    yield {"save_checkpoint_s": time.perf_counter() - started, "checkpoint_gb": round(size / 2**30, 3)}
    started = time.perf_counter()
    load_models(models, saved, world, job, fresh=False)
    yield {"load_checkpoint_s": time.perf_counter() - started}
    shutil.rmtree(saved.path)
    started = time.perf_counter()
    export_policy(models.policy.module.model, full_weights(models.policy, PREFIX), folder, job.out)
    yield {"export_and_verify_s": time.perf_counter() - started}
    started = time.perf_counter()
    content_hash(job.out)
    size = sum(path.stat().st_size for path in job.out.glob("*.safetensors"))
    yield {"hash_policy_s": time.perf_counter() - started, "policy_gb": round(size / 2**30, 3)}
    shutil.rmtree(state)


def longest(sizes: Sizes, work: Path) -> Iterator[dict[str, Any]]:
    """The longest response that one update (forward, backward, step) of one process holds."""
    job = job_of(model_folder(sizes.small, work), work, objective="tbrm")
    models, world = _models(job)
    for checkpointing in (True, False):
        _set_checkpointing(models, checkpointing)
        rows: list[dict[str, Any]] = []
        for length in sizes.longest:
            training = job.training.model_copy(update={"micro_batch_tokens": 2 * length})
            batch = [one_trajectory(sizes.small.vocabulary, length)]
            rows.append(
                {"response_tokens": length}
                | _timed(dataclasses.replace(job, training=training), models, world, batch, 1, warm=False)
            )
            name = "with_checkpointing" if checkpointing else "without_checkpointing"
            yield {name: rows, f"longest_{name}": max((_length(row) for row in rows), default=0)}
            if "out_of_memory" in rows[-1]:
                break


def lora(sizes: Sizes, work: Path) -> Iterator[dict[str, Any]]:
    """The larger model with LoRA (rank 16 on every linear layer), on one GPU."""
    batch = trajectories(sizes.large.vocabulary, sizes.trajectories // 8, 1, sizes.response_tokens)
    settings = {"lora": {"rank": 16}, "micro_batch_tokens": min(sizes.micro_tokens), "activation_checkpointing": True}
    job = job_of(model_folder(sizes.large, work), work, objective="tbrm", **settings)
    models, world = _models(job)
    yield {"model": sizes.large.name, "parameters": _parameters(models)} | _timed(job, models, world, batch, 2)


def _objective(sizes: Sizes, work: Path, objective: str, n: int) -> Iterator[dict[str, Any]]:
    """Two updates of 128 prompts after one that is not counted; a smaller micro-batch where memory is short."""
    prompts = sizes.trajectories // 4
    batch = trajectories(sizes.small.vocabulary, prompts * n, n, sizes.response_tokens)
    for micro in (sizes.micro_tokens[0], sizes.micro_tokens[0] // 2, sizes.micro_tokens[0] // 4):
        job = job_of(model_folder(sizes.small, work), work, objective=objective, micro_batch_tokens=micro)
        free_memory()
        started = time.perf_counter()
        models, world = _models(job)
        synchronize()
        head = {"model": sizes.small.name, "objective": objective, "n": n, "prompts": prompts}
        head |= {"micro_batch_tokens": micro, "initialize_s": time.perf_counter() - started}
        row = head | {"parameters": _parameters(models)} | _timed(job, models, world, batch, 2)
        yield row
        if "out_of_memory" not in row:
            return
        del models
        free_memory()


def _models(job: TrainJob) -> tuple[Models, World]:
    world = join_world()
    return build_models(job, world, None), world


def _parameters(models: Models) -> int:
    return sum(p.numel() for p in models.policy.module.parameters())


def _set_checkpointing(models: Models, on: bool) -> None:
    model = models.policy.module.model
    if on:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()


def _timed(
    job: TrainJob, models: Models, world: World, batch: Sequence[Trajectory], updates: int, warm: bool = True
) -> dict[str, Any]:
    """Means over `updates` updates after one that is not counted; `out_of_memory` where it does not fit."""
    free_memory()
    rows: list[dict[str, Any]] = []
    clock = Clock()
    try:
        for number in range(updates + warm):
            if number == int(warm):
                clock = Clock()
            start = None
            if job.training.looks_back:  # a job does this once for a generation; here each update is a generation
                with clock.time("old_prob"):
                    start = token_scores(job, models, batch, world)
            rows.append(update_once(job, models, world, Batch(batch, start), clock, number, number))
    except torch.OutOfMemoryError as error:
        models.policy.optimizer.zero_grad()
        return {"out_of_memory": str(error).splitlines()[0][:200]}
    counted = rows[int(warm) :]
    seconds = (sum(row["seconds"] for row in counted) + clock.seconds.get("old_prob", 0.0)) / len(counted)
    return {
        "tokens": counted[-1]["tokens"],
        "seconds": seconds,
        "tokens_per_second": counted[-1]["tokens"] / seconds,
        "model_tflops_per_second": sum(row["model_tflops_per_second"] for row in counted) / len(counted),
        "mfu": counted[-1].get("mfu"),
        "peak_gb": peak_gb(),
        "segments_s": {name: spent / len(counted) for name, spent in clock.seconds.items() if spent},
    }


def _length(row: dict[str, Any]) -> int:
    return 0 if "out_of_memory" in row else int(row["response_tokens"])


__all__ = ["ModelShape", "grpo", "longest", "lora", "micro_batches", "ppo", "tbrm", "whole_job"]
