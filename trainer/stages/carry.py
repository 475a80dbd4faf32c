"""The training state of an experiment: what a generation hands on to the next one, and what of it is kept.

A policy folder holds neither AdamW's moments, nor a critic, nor the fp32 master weights of a bfloat16 policy, without
which a small learning rate moves almost no weight. The critic and the master weights belong to the policy, so a stage
that cannot find them refuses to train.
"""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from pipeline.config import Experiment
from pipeline.errors import TbrmError
from trainer.engine.checkpoint import CRITIC, POLICY, PREFIX, Checkpoint, newest_good, prune, trained_parts
from trainer.job import TRAJECTORIES

STATE, LOCK = "training_state", "_lock"
_log = logging.getLogger(__name__)


def carried(experiment: Experiment, states: Path, generation: int, policy_id: str, first: int = 0) -> Path | None:
    """The checkpoint that training of policy[generation] starts from: the last one of the generation before.

    The `first` generation of an experiment, forked or not, starts from the policy alone. With `optimizer_state: fresh`
    only a critic and master weights need the checkpoint. None where there is nothing to carry. Raises TbrmError where
    the checkpoint is needed and cannot be found, or does not fit the objective.
    """
    if generation == first:
        return None
    training, before = experiment.training, states / f"generation={generation - 1:04d}"
    fresh, wanted = training.optimizer_state == "fresh", trained_parts(experiment.policy, training)
    masters = experiment.policy.dtype != "float32"
    found = _state_of(before, policy_id)
    if found is None:
        lost = [*(["the fp32 master weights"] if masters else []), *(["the critic"] if CRITIC in wanted else [])]
        if lost:
            raise TbrmError(
                f"{before} holds no training state of policy {policy_id}: {' and '.join(lost)} would be lost, which no "
                f"policy folder holds. Restore {before} from where generation {generation - 1} was trained, or start a "
                "new experiment with this policy's folder as policy.base"
            )
        if not fresh:
            _log.warning("%s holds no training state of policy %s: AdamW starts anew", before, policy_id)
        return None
    if not fresh:
        _check_fits(found, wanted)
    elif found.parts.get(POLICY) != wanted[POLICY]:
        if masters:
            raise _misfit(found, wanted, "Restore the YAML, or start a new experiment with this policy's folder")
        return None
    return found.path if not fresh or masters or CRITIC in wanted else None


def tidy(state: Path) -> None:
    """After a generation: delete all but this job's last checkpoint and the state of the generation before.

    `state` is the folder of the job, which lies in the folder of its generation.
    """
    prune(state, keep=1)
    (state / TRAJECTORIES).unlink(missing_ok=True)
    own = state.parent
    for path in own.iterdir():
        if path != state and path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = f"generation={max(int(own.name.removeprefix('generation=')) - 1, 0):04d}"
    for path in own.parent.glob("generation=*"):
        if path.name < before:
            shutil.rmtree(path)


def forget(state: Path) -> None:
    """Drop everything a job left in its folder, except the lock that its owner holds."""
    for path in state.iterdir():
        if path.name == LOCK:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _state_of(generation: Path, policy_id: str) -> Checkpoint | None:
    """The last checkpoint of the job that made a policy. Each job of a generation has a folder there."""
    jobs = [path for path in sorted(generation.glob("*")) if path.is_dir() and not path.name.startswith(PREFIX)]
    newest = (newest_good(folder, None, _log.warning) for folder in (*jobs, generation))
    return next((found for found in newest if found is not None and found.policy_id == policy_id), None)


def _check_fits(found: Checkpoint, wanted: Mapping[str, str]) -> None:
    if any(found.parts.get(name) != kind for name, kind in wanted.items()):
        raise _misfit(found, wanted, "Set training.optimizer_state: fresh to start what does not fit anew")


def _misfit(found: Checkpoint, wanted: Mapping[str, str], remedy: str) -> TbrmError:
    return TbrmError(
        f"the training state {found.path} does not fit: it holds {_words(found.parts)}, and the job trains "
        f"{_words(wanted)}. {remedy}"
    )


def _words(parts: Mapping[str, str]) -> str:
    return " and ".join(f"{name} ({kind})" for name, kind in parts.items()) or "something unknown"
