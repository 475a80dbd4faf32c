"""Shards as calls of Ray actors.

Actors rather than plain tasks or Ray Data: a worker holds a model or a running engine, which is worth many shards and
must own its GPUs for as long as it lives. (Idle workers of plain tasks would keep GPU memory that the next task needs;
Ray Data LLM brings its own tables, checkpoints and sampling defaults, and knows nothing of our seeds and manifests.)
What Ray does not know is done here: a shard whose worker is lost goes back to the queue, a new worker takes the place
of a lost one wherever there is room, and a straggling shard is also given to an idle worker.
"""

import os
import statistics
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import ray  # pyright: ignore[reportMissingImports]  # an extra
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayTaskError  # pyright: ignore[reportMissingImports]

from pipeline.config.cluster import RayConfig
from pipeline.errors import TbrmError
from pipeline.run.shards import Make, Start
from pipeline.run.threads import settle

_LOST = (ActorDiedError, ActorUnavailableError, ObjectLostError)
_LOOK_EVERY_S = 1.0
_CLOSE_S = 30.0
_CONNECT_HINT = "start one with `ray start --head`, give ray.address, or set ray.address: local"


class _Worker:
    """An actor. It starts its work with its first shard, so that an error of the start arrives like any other."""

    def __init__(self, start: Start, cores: int) -> None:
        self.start, self.held = start, ExitStack()
        self.make_rows: Make | None = None
        # Ray sets a number of threads only where none is set, and the worker inherits the one that the stage chose.
        # Ray says nothing of how threads wait.
        settle(cores=cores)

    def make(self, index: int) -> pa.Table:
        self.make_rows = self.make_rows or self.held.enter_context(self.start())
        return self.make_rows(index, lambda _: None)

    def close(self) -> None:
        self.held.close()


@dataclass
class _Call:
    """One shard under way at one worker."""

    worker: Any
    index: int
    started: float = field(default_factory=time.monotonic)


def work_on_cluster(
    config: RayConfig, gpus: float, start: Start, todo: Sequence[int]
) -> Generator[tuple[int, pa.Table]]:
    """(index, rows) of each shard as a worker has made it, in any order. See `pipeline.run.resumable`."""
    ours = _connect(config)
    actor: Any = ray.remote(num_cpus=config.cpus, num_gpus=gpus, max_restarts=0)(_Worker)
    new_worker = partial(actor.remote, start, max(1, int(config.cpus)))
    workers = [new_worker() for _ in range(min(config.workers, len(todo)))]
    try:
        idle = yield from _dispatch(config, new_worker, workers, list(reversed(todo)))
        # Only idle workers are asked to close. We would wait for one that never got a place on the cluster, or that is
        # still at work on a shard which another has finished: these are killed below.
        ray.wait([worker.close.remote() for worker in idle], num_returns=len(idle), timeout=_CLOSE_S)
    finally:
        for worker in workers:
            ray.kill(worker)
        if ours:
            ray.shutdown()


def _dispatch(
    config: RayConfig, new_worker: Callable[[], Any], workers: list[Any], queue: list[int]
) -> Generator[tuple[int, pa.Table], None, list[Any]]:
    """Keep every worker busy until no shard is left; yields shards as they are made, returns the idle workers."""
    calls: dict[Any, _Call] = {}
    idle, lost, left = list(workers), dict[int, int](), set(queue)
    seconds: list[float] = []
    while left:
        while idle and queue:
            index = queue.pop()
            if index in left:
                worker = idle.pop()
                calls[worker.make.remote(index)] = _Call(worker, index)
        if idle and (late := _straggler(calls, seconds, config.straggler_factor)) is not None:
            worker = idle.pop()
            calls[worker.make.remote(late)] = _Call(worker, late)
        done, _ = ray.wait(list(calls), timeout=_LOOK_EVERY_S)
        for reference in done:
            call = calls.pop(reference)
            try:
                rows = ray.get(reference)
            except _LOST as error:
                lost[call.index] = lost.get(call.index, 0) + 1
                if lost[call.index] >= config.attempts:
                    raise TbrmError(
                        f"shard {call.index}: {lost[call.index]} workers were lost over it (`ray.attempts`); the last "
                        f"by {error}"
                    ) from error
                queue.append(call.index)
                workers.remove(call.worker)
                workers.append(new_worker())
                idle.append(workers[-1])
                continue
            except RayTaskError as error:
                cause = error.cause
                raise cause if isinstance(cause, TbrmError) else TbrmError(f"shard {call.index}: {error}") from error
            idle.append(call.worker)
            if call.index in left:
                left.remove(call.index)
                seconds.append(time.monotonic() - call.started)
                yield call.index, rows
    return idle


def _straggler(calls: dict[Any, _Call], seconds: Sequence[float], factor: float) -> int | None:
    """A shard that a single worker has had for more than `factor` times the median time of a shard, or None."""
    if not seconds:
        return None
    limit, now = factor * statistics.median(seconds), time.monotonic()
    at_work = [call.index for call in calls.values()]
    late = [c.index for c in calls.values() if now - c.started > limit and at_work.count(c.index) == 1]
    return late[0] if late else None


def _connect(config: RayConfig) -> bool:
    """Join the cluster. Returns whether this call joined it, and the caller has to leave it again. Raises TbrmError."""
    if ray.is_initialized():
        return False
    local = config.address == "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that we start sends no usage report
    try:
        ray.init(address=config.address, num_cpus=_local_cpus(config) if local else None, log_to_driver=True)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise TbrmError(
            f"ray.address {config.address}: no Ray cluster can be reached ({error}); {_CONNECT_HINT}"
        ) from error
    return True


def _local_cpus(config: RayConfig) -> int:
    """CPUs that a cluster of our own offers: as many as its workers reserve, whatever the machine has."""
    return max(1, round(config.workers * config.cpus))
