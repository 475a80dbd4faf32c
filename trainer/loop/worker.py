"""One process of a training job: set up, update, checkpoint, export."""

import json
import random
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import TbrmError
from pipeline.run.progress import track
from pipeline.run.tracking import Log
from pipeline.sandbox.kernel import die_with_parent
from trainer.data.trajectories import TrajectoryTable, batch_rows
from trainer.engine.checkpoint import (
    Checkpoint,
    checkpoint_path,
    newest_good,
    prune,
    read_checkpoint,
    trained_parts,
    write_checkpoint,
)
from trainer.engine.deepspeed import World, full_weights, join_world, leave_world, total
from trainer.engine.export import export_policy, merged, verify_forward
from trainer.engine.models import PREFIX, Models, build_models, load_models, save_models
from trainer.job import ERROR_FILE, METRICS_FILE, RESULT_FILE, TrainJob, TrainResult, read_metrics
from trainer.launch.processes import run_processes
from trainer.loop.metrics import Clock, MetricsFile
from trainer.loop.scores import Batch, start_scores, write_diagnostics
from trainer.loop.update import control_cosine, measures_control, update_once


@contextmanager
def _named_memory_errors() -> Generator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TbrmError(
            f"the GPU ran out of memory ({error}). In this order: lower training.micro_batch_tokens (not below the "
            "longest trajectory), set training.activation_checkpointing: true, lower training.head_chunk_tokens, raise "
            "training.zero_stage with more processes, set training.offload: optimizer"
        ) from error


def train_policy(job: TrainJob) -> TrainResult:
    """Run the job to its end, from its newest good checkpoint if there is one.

    A job of one process trains inside the calling process. Several processes are started by torchrun, and on several
    machines by one torchrun agent each. Raises TbrmError when training diverges, is stopped by SIGTERM (after writing a
    checkpoint), runs out of GPU memory, or finds a checkpoint of another configuration.
    """
    job.state.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(job.out, ignore_errors=True)
    if job.training.processes == job.training.machines == 1:
        work(job)
    else:
        run_processes(job.training, job.save())
    tree = json.loads((job.state / RESULT_FILE).read_text(encoding="utf-8"))
    return TrainResult(policy=job.out, metrics=read_metrics(job.state / METRICS_FILE), **tree)


@_named_memory_errors()
def work(job: TrainJob) -> None:
    """Take part in `job` as the process that the environment says this is. Raises TbrmError, on every rank alike."""
    world = join_world(job.training.sequence_parallel, job.training.collective_timeout_s)
    try:
        _work(job, world)
    finally:
        leave_world(world)


def _work(job: TrainJob, world: World) -> None:
    torch.manual_seed(job.seed)
    random.seed(job.seed)
    np.random.seed(job.seed % 2**32)
    needs = job.training.needs
    start, checkpoint = _start_from(job, world)
    models = build_models(job, world, checkpoint)
    table = TrajectoryTable(job.state, job.training.beta)
    clock = Clock()
    prompts = _prompts(job, table)

    def rows_of(update: int) -> list[int]:
        return batch_rows(prompts, job.seed, update, job.training.prompt_batch, apart=needs.pairs)

    start_of = None
    if job.training.looks_back:
        used = (row for update in range(job.updates) for row in rows_of(update))
        with clock.time("old_prob"):
            start_of = start_scores(job, models, table, used, world)
    if job.training.diagnostics_sample and needs.reference:
        with clock.time("diagnostics"):
            write_diagnostics(job, models, table, world)
    fresh = start == 0 and job.training.optimizer_state == "fresh"
    if checkpoint is not None:
        load_models(models, checkpoint, world, job, fresh)
    before = checkpoint.total_updates - start if checkpoint is not None and not fresh else 0

    def save(update: int) -> None:
        write_checkpoint(
            Checkpoint(
                checkpoint_path(job.state, update),
                update,
                before + update,
                job.config_hash,
                world.size,
                job.training.zero_stage,
                trained_parts(job.model, job.training),
            ),
            lambda folder: save_models(models, folder),
            leader=world.leader,
        )
        if world.leader:
            prune(job.state, job.training.keep_checkpoints)

    with _stop_requests() as stop, _progress(job, world) as report, _tracked(job, world) as log:
        metrics = MetricsFile(job.state / METRICS_FILE, start, world.leader, log, job.updates_before)
        report(start, "")
        for update in range(start, job.updates):
            rows = rows_of(update)
            batch = Batch(table.read(rows), None if start_of is None else start_of.read(rows))
            cosine = None
            if measures_control(job.training, update):
                with clock.time("diagnostics"):
                    cosine = control_cosine(job.training, models, world, batch)
            row = update_once(job, models, world, batch, clock, update, before + update)
            metrics.add(row if cosine is None else row | {"control_cosine": cosine})
            report(1, _note(row))
            stopped = _anyone(stop.is_set(), world)
            if stopped or (update + 1) % job.training.checkpoint_every == 0 or update + 1 == job.updates:
                save(update + 1)
            if stopped and update + 1 < job.updates:
                torch.distributed.barrier()  # when one process ends, torchrun ends all: rank 0 may still be hashing
                raise TbrmError(f"{job.label} was stopped after update {update + 1}; run it again to go on from there")
    _export(job, models, world)
    if world.leader:
        result = {"resumed_from": start, "carried": before > 0, "seconds": clock.seconds}
        (job.state / RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")
    torch.distributed.barrier()


def main(arguments: list[str]) -> int:
    """Entry point of a launched process: `python -m trainer.loop.worker JOB_FILE`. Exit code 1 after an error."""
    path = Path(next(a for a in arguments if not a.startswith("--local_rank")))
    job = TrainJob.load(path)
    try:
        work(job)
    except TbrmError as error:
        path.with_name(ERROR_FILE).write_text(str(error), encoding="utf-8")
        return 1
    return 0


def _prompts(job: TrainJob, table: TrajectoryTable) -> Sequence[npt.NDArray[np.int64]]:
    """Rows that go into an update together: those of a prompt, or each row by itself."""
    if job.training.needs.batch_of == "trajectories":
        return [np.array([row]) for row in table.rows]
    if not job.training.needs.pairs:
        return table.groups
    paired = [rows for rows in table.groups if len(rows) > 1]
    if not paired:
        raise TbrmError(
            f"no prompt of the mix has two responses to train on, which {job.training.objective} makes pairs of: set "
            "training.drop_truncated: false, or sample more responses (rollouts.n)"
        )
    return paired


def _start_from(job: TrainJob, world: World) -> tuple[int, Checkpoint | None]:
    """(update to go on with, checkpoint to load): an own one, else the carried one, else none. Rank 0 decides."""
    found = newest_good(job.state, job.config_hash, _say) if world.leader else None
    update = int(total(world, torch.tensor(float(found.update) if found else 0.0, device=world.device)))
    if update > job.updates:
        raise TbrmError(
            f"{job.label}: {checkpoint_path(job.state, update)} is past the {job.updates} updates asked for, nothing "
            f"remains to be done; delete {job.state} to train anew with fewer"
        )
    if update:
        checkpoint = found or read_checkpoint(checkpoint_path(job.state, update))
        if world.leader:
            left = f"{job.updates - update} of {job.updates} updates remain"
            _say(f"{job.label}: goes on from {checkpoint.path.name}, {left}")
        return update, checkpoint
    return 0, read_checkpoint(job.carry) if job.carry else None


def _export(job: TrainJob, models: Models, world: World) -> None:
    """The trained policy as a verified Hugging Face folder, written by rank 0 while the others give their parts."""
    state = full_weights(models.policy, PREFIX)
    if not world.leader:
        return
    model = models.policy.module.model
    if job.training.lora is not None:
        state = merged(state, job.training.lora)
    export_policy(model, state, job.start, job.out)
    if job.training.zero_stage < 3:  # under ZeRO 3 no process holds a model that could run alone
        verify_forward(model, job.out, list(range(8)))


@contextmanager
def _progress(job: TrainJob, world: World) -> Generator[Callable[[int, str], None]]:
    """A function (updates done, note beside the bar); rank 0 reports for all."""
    if not world.leader:
        yield lambda _updates, _note: None
        return
    with track(job.label, job.updates, "updates") as task:

        def report(updates: int, note: str) -> None:
            task.note(note)
            task.advance(updates)

        yield report


@contextmanager
def _tracked(job: TrainJob, world: World) -> Generator[Log | None]:
    """What logs the numbers of an update in the experiment's tracker, on rank 0 where there is one."""
    if job.tracked is None or not world.leader:
        yield None
        return
    with job.tracked.open("update", "update") as log:
        yield log


@contextmanager
def _stop_requests() -> Generator[threading.Event]:
    """An event that SIGTERM or SIGUSR1 sets, so that the update under way ends with a checkpoint."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread only; its owner stops the process
        return
    asked = (signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, lambda _number, _frame: stop.set()) for number in asked}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _anyone(flag: bool, world: World) -> bool:
    return bool(total(world, torch.tensor(float(flag), device=world.device)) > 0)


def _note(row: dict[str, Any]) -> str:
    names = ("loss", "residual_abs", "value_first", "reward")
    return " ".join(f"{name}={row[name]:.4g}" for name in names if name in row)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main(sys.argv[1:]))
