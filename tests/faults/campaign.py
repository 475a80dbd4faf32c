"""The fault campaign: `python -m tests.faults.campaign --trials 200 --seed 0 --out benchmarks/results/faults.json`.

Each trial runs the experiment with one fault at a random instant, resumes, and compares with an undisturbed run. An
interrupted campaign goes on where it was: finished trials are kept beside the result, in `<out>.trials`.
"""

import contextlib
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tests.faults import damage, disks, kills, objects, orchestrated, servers
from tests.faults.experiment import TREE
from tests.faults.process import become_warm, orphans
from tests.faults.s3_server import start_server
from tests.faults.trial import TooLate, Trial, Whole, undisturbed


@dataclass(frozen=True)
class Kind:
    """A fault, and its share of the trials."""

    fault: Callable[[Trial], None]
    share: int
    needs_s3: bool = False


FORKED = {
    "SIGKILL to the stage": Kind(kills.kill_stage, 20),
    "SIGTERM to the stage": Kind(kills.terminate_stage, 10),
    "SIGKILL at a durable call": Kind(kills.kill_at_call, 30),
    "SIGKILL to a verifier worker": Kind(kills.kill_worker, 8),
    "SIGTERM to a verifier worker": Kind(kills.terminate_worker, 8),
    "out of memory": Kind(kills.out_of_memory, 8),
    "two runs at once": Kind(kills.two_at_once, 8),
    "full disk": Kind(disks.full_disk, 12),
    "file size limit": Kind(disks.file_size_limit, 5),
    "read-only folder": Kind(disks.read_only, 10),
    "the clock jumps": Kind(disks.clock_jumps, 6),
    "truncated shard": Kind(damage.truncated, 6),
    "bit-flipped shard": Kind(damage.flipped, 6),
    "deleted shard": Kind(damage.deleted, 6),
    "duplicated shard": Kind(damage.duplicated, 6),
    "torn manifest": Kind(damage.torn, 8),
    "slow S3": Kind(objects.slow_store, 2, needs_s3=True),
    "flaky S3": Kind(objects.flaky_store, 4, needs_s3=True),
    "S3 loses answers": Kind(objects.lost_answers, 4, needs_s3=True),
    "S3 is down": Kind(objects.store_down, 3, needs_s3=True),
    "SIGKILL on S3": Kind(objects.kill_on_s3, 4, needs_s3=True),
}
WHOLE = {
    "`tbrm run` is ended": Kind(orchestrated.end_run, 4),
    "a launcher is ended": Kind(orchestrated.end_launcher, 3),
    "a launched stage is ended": Kind(orchestrated.end_stage, 3),
    "one of two trainers is ended": Kind(orchestrated.end_rank, 2),
    "two `tbrm run` at once": Kind(orchestrated.two_runs, 1),
    "the daemon is ended": Kind(servers.end_daemon, 2),
    "Postgres is restarted": Kind(servers.restart_postgres, 1),
}
KINDS = FORKED | WHOLE
BRIEF = (
    *("SIGKILL at a durable call", "SIGKILL to the stage", "SIGTERM to the stage", "SIGTERM to a verifier worker"),
    *("two runs at once", "file size limit", "read-only folder", "the clock jumps", "bit-flipped shard"),
    *("deleted shard", "torn manifest"),
)
"""One trial of each, for continuous integration: no server, no rights beyond a user's, less than a minute."""


def plan(kinds: dict[str, int], trials: int, seed: int) -> list[str]:
    """Which fault each trial injects: by shares as far as they go, in random order."""
    total, rng = sum(kinds.values()), random.Random(seed)
    exact = {kind: trials * share / total for kind, share in kinds.items()}
    counts = {kind: int(share) for kind, share in exact.items()}
    for kind in sorted(exact, key=lambda k: counts[k] - exact[k])[: trials - sum(counts.values())]:
        counts[kind] += 1
    planned = [kind for kind, count in counts.items() for _ in range(count)]
    rng.shuffle(planned)
    return planned


@contextlib.contextmanager
def s3(folder: Path, wanted: bool) -> Generator[list[int]]:
    """Process ids of the S3 server, if one is wanted, with the environment that leads to it."""
    if not wanted:
        yield []
        return
    control = folder / "s3.json"
    process, url = start_server(control)
    os.environ |= {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "TBRM_FAULTS_CONTROL": str(control),
    }
    try:
        yield [process.pid]
    finally:
        process.terminate()
        process.wait()


def run_trial(number: int, kind: str, seed: str, folder: Path, whole: Whole, known: list[int]) -> dict[str, Any]:
    """One trial in `folder`, which is deleted when it was clean."""
    started = time.monotonic()
    trial = Trial(number, kind, seed, folder, whole, known)
    outcome = trial.outcome
    try:
        KINDS[kind].fault(trial)
        if not (outcome.same_store or outcome.different):
            trial.judge()
    except (TooLate, ProcessLookupError):  # the latter: it ended between two looks at it
        orphans(known)
        return run_trial(number, kind, f"{seed}+", folder.with_name(f"{folder.name}x"), whole, known)
    except (TimeoutError, RuntimeError, subprocess.SubprocessError) as error:
        outcome.different.append(f"{type(error).__name__}: {error}"[:2000])
        outcome.orphans = orphans(known)
    outcome.seconds = round(time.monotonic() - started, 2)
    if outcome.clean:
        shutil.rmtree(folder)
    return outcome.to_json()


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table faults x outcomes."""
    by_kind: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_kind[row["kind"], row["how"]].append(row)
    return [
        {
            "fault": kind,
            "how": how,
            "trials": len(found),
            "clean": sum(row["clean"] for row in found),
            "came_through": sum(row["ended"] == "exit status 0" for row in found),
            "ended": dict(Counter(row["ended"] for row in found)),
            "remedies": dict(Counter(way for row in found for way in row["remedies"])),
        }
        for (kind, how), found in sorted(by_kind.items())
    ]


@click.command()
@click.option("--trials", default=200, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--only", help="Only faults whose name holds this.")
@click.option("--how", type=click.Choice(["forked", "tbrm"]), help="Only these of the planned trials, for now.")
@click.option("--first", default=0, help="The number to begin with; those before it come last.")
@click.option("--brief", is_flag=True, help="One trial of each of the cheap kinds, instead of --trials.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/faults.json"))
def main(trials: int, seed: int, only: str | None, how: str | None, first: int, brief: bool, out: Path) -> None:
    """Run the trials that are not done yet; exit code 1 when one is not clean."""
    kinds = {name: kind.share for name, kind in KINDS.items() if only is None or only in name}
    planned = list(BRIEF) if brief else plan(kinds, trials, seed)
    if brief:
        TREE["generations"] = 2  # the last one trains on both, as the third does on its two in the long campaign
    trials = len(planned)
    kept = out.with_suffix(".trials")
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {row["number"] for row in rows}
    become_warm()
    folder = Path(tempfile.mkdtemp(prefix="tbrm-faults-"))
    with s3(folder, any(KINDS[kind].needs_s3 for kind in planned)) as known:
        whole = undisturbed(folder / "undisturbed")
        click.echo(f"undisturbed: {sum(whole.seconds.values()):.1f} s, {whole.calls} durable calls")
        for number, kind in [*enumerate(planned)][first:] + [*enumerate(planned)][:first]:
            if number in done or (how is not None and how != ("tbrm" if kind in WHOLE else "forked")):
                continue
            row = run_trial(number, kind, str(seed), folder / f"trial-{number:03d}", whole, known)
            rows.append(row)
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            state = "clean" if row["clean"] else f"NOT CLEAN: {json.dumps(row)}"
            click.echo(f"{number + 1}/{trials} {kind}: {row['ended']}, {row['seconds']} s, {state}")
    rows = [json.loads(line) for line in kept.read_text().splitlines()]  # others may have run some as well
    if len(rows) < trials:
        return
    result = {
        "command": f"python -m tests.faults.campaign --trials {trials} --seed {seed}",
        "machine": "2 cores, no GPU, shared with other work",
        "clean": sum(row["clean"] for row in rows),
        "trials": len(rows),
        "table": summary(rows),
        "rows": sorted(rows, key=lambda row: row["number"]),
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if result["clean"] != len(rows):
        raise SystemExit(f"{result['clean']} of {len(rows)} trials were clean; the others are kept in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
