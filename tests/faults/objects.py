"""The store on S3: slow, flaky, answers that get lost, down altogether, a writer killed while it holds the lease."""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from tests.faults.process import Child, in_child, send
from tests.faults.trial import Trial


def slow_store(trial: Trial) -> None:
    """Every request takes up to 0.2 s more."""
    _orders(trial, {"slow_s": 0.2})


def flaky_store(trial: Trial) -> None:
    """One request in ten is refused with 503."""
    _orders(trial, {"refuse": 0.1})


def lost_answers(trial: Trial) -> None:
    """One request in ten is carried out, and its answer never comes."""
    _orders(trial, {"lose": 0.1})


def store_down(trial: Trial) -> None:
    """Every request is refused, until the run has given up."""
    _orders(trial, {"refuse": 1.1})


def kill_on_s3(trial: Trial) -> None:
    """SIGKILL while the store is on S3: nobody gives the lease back."""
    _on_s3(trial)
    child = trial.strike(lambda child: send(child.pid, signal.SIGKILL))
    trial.named(child, "$^", [signal.SIGKILL])
    trial.resume()


def _orders(trial: Trial, orders: Mapping[str, float]) -> None:
    control = _on_s3(trial)
    trial.outcome.detail = json.dumps(orders)

    def inject(_child: Child) -> None:
        control.write_text(json.dumps({**orders, "seed": trial.rng.randrange(2**31)}), encoding="utf-8")

    child = trial.strike(inject)
    control.write_text("{}", encoding="utf-8")
    trial.named(child, "(?i)reduce your request rate|slow ?down|connection|timed? ?out")
    trial.resume()


def _on_s3(trial: Trial) -> Path:
    """Move the trial's store to a fresh bucket; returns the file that the server takes its orders from."""
    bucket = f"faults-{trial.outcome.number}-{os.getpid()}-{trial.rng.randrange(2**31)}"
    trial.root = f"s3://{bucket}/runs"
    os.environ["XDG_CACHE_HOME"] = str(trial.folder / "cache")

    def make() -> None:
        from pipeline.store import open_store

        open_store(trial.root).fs.mkdir(bucket)

    in_child(trial.folder / "bucket", make)
    return Path(os.environ["TBRM_FAULTS_CONTROL"])
