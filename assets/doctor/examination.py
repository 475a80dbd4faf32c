"""All checks side by side, and what came of them within a few seconds."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from assets.doctor import machine
from assets.doctor.checks import independent_checks, policy_facts, published_generations
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
)
from assets.doctor.machine import Gpus, find_gpus
from assets.doctor.needs import GB
from pipeline.config import Experiment
from pipeline.errors import TbrmError
from pipeline.policies.facts import ModelFacts
from pipeline.policies.refs import local_root
from pipeline.run.requirements import missing_requirements
from pipeline.store import Store

DEADLINE_S = 4.0
"""Seconds that checks get together; the command's own start comes on top."""
_VITAL = frozenset(("store", "policy", "gpu", "prompts"))
"""Checks without which nothing runs: no answer from one of them counts as a reason not to start a run."""


def examine(
    experiment: Experiment | None,
    store: Store,
    port: int,
    environment: Mapping[str, str] = os.environ,
    deadline_s: float = DEADLINE_S,
) -> list[Row]:
    """Every row, in the order in which a run would trip over them."""
    looks: dict[str, Callable[[], Any]] = dict(independent_checks(experiment, store, port, environment))
    looks |= {"gpu": partial(find_gpus, environment=environment), "versions": machine.unfit_versions}
    if experiment is not None:
        looks |= {
            "policy": partial(policy_facts, store, experiment),
            "published": partial(published_generations, store, experiment),
        }
    answers, late = _side_by_side(looks, deadline_s)
    gpus = answers.get("gpu", Gpus(why_none="not known"))
    facts = answers.get("policy")
    rows: list[Row] = []
    if "gpu" in answers:
        needed = experiment is None or device_is_needed(experiment, gpus, facts)
        rows.append(gpu_row(gpus, needed))
    torch = machine.version_of("torch")
    rows += version_rows(gpus, machine.torch_cuda(), torch, answers.get("versions", ()))
    rows += nccl_row(gpus, *machine.nccl())
    if experiment is not None:
        rows += [
            Row("installed", "stop", text, "install it, or change the field")
            for text in missing_requirements(experiment)
        ]
        rows += machine_rows(experiment, environment)
        rows += _of_experiment(experiment, store, gpus, facts, answers.get("published", 0))
    else:
        where, room = local_root(store), machine.available_memory()
        rows.append(Row("memory", "ok", f"{room / GB:.1f} GB that the machine has left"))
        rows.append(Row("disk", "ok", f"{machine.free_disk(where) / GB:.1f} GB free in {where}"))
    for name, found in answers.items():
        if name not in ("gpu", "versions", "policy", "published"):
            rows += found
    return rows + [_late_row(name, why) for name, why in late.items()]


def device_is_needed(experiment: Experiment, gpus: Gpus, facts: ModelFacts | None) -> bool:
    """Whether a stage would refuse to run on this machine's CPU, or could: the size of the policy is not known."""
    if facts is None or facts.parameters is None:
        return not experiment.large_model_on_cpu
    return any(row.state == "stop" for row in device_rows(experiment, gpus, facts, 0))


def _of_experiment(
    experiment: Experiment, store: Store, gpus: Gpus, facts: ModelFacts | None, published: int
) -> list[Row]:
    rows = [] if facts is None else policy_rows(experiment, facts)  # without facts, a row of its own says why
    facts = facts or ModelFacts(experiment.policy.base, None)
    shared = machine.free_disk(Path("/dev/shm"))
    where = local_root(store)
    rows += device_rows(experiment, gpus, facts, shared)
    rows += memory_rows(experiment, gpus, facts, machine.available_memory())
    rows.append(disk_row(experiment, facts, published, machine.free_disk(where), str(where)))
    return rows + launched_rows(experiment)


def _side_by_side(looks: Mapping[str, Callable[[], Any]], deadline_s: float) -> tuple[dict[str, Any], dict[str, str]]:
    """(results by name, why there is none by name). The result of a check that is late is ignored."""
    answers: dict[str, Any] = {}
    failed: dict[str, str] = {}

    def run(name: str, look: Callable[[], Any]) -> None:
        try:
            answers[name] = look()
        except TbrmError as error:
            failed[name] = str(error)
        except Exception as error:  # noqa: BLE001 - an error of a library on this machine is a finding, too
            failed[name] = f"{type(error).__name__}: {error}"

    threads = {name: threading.Thread(target=run, args=(name, look), daemon=True) for name, look in looks.items()}
    until = time.monotonic() + deadline_s
    for thread in threads.values():
        thread.start()
    for thread in threads.values():
        thread.join(max(0.0, until - time.monotonic()))
    done = {name: answers[name] for name in looks if name in answers}
    silent = {name: f"no answer within {deadline_s:g} s" for name in looks if name not in answers}
    return done, silent | {name: failed[name] for name in looks if name in failed and name not in done}


def _late_row(name: str, why: str) -> Row:
    check = "store" if name == "published" else name
    return Row(check, "stop" if check in _VITAL else "warning", why, "correct what it says, and ask again")
