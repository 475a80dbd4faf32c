"""All studies by name: on tables, on trained policies, or both halves under one name."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from assets.studies.iteration import ITERATION
from assets.studies.loop import finished_runs, run_arms
from assets.studies.pages import (
    ExactStudy,
    agreement,
    arms_figure,
    arms_table,
    costs_figure,
    costs_table,
    draw_page,
    rounded,
    sources_table,
    write_page,
)
from assets.studies.spec import Size, Study, load_study, studies_folder
from assets.studies.theory import THEORY
from pipeline.config.training import OBJECTIVE_NEEDS
from pipeline.errors import ConfigError, did_you_mean
from pipeline.run.progress import duration
from pipeline.store import Store

_DISK = "Of a finished run only its numbers are kept on disk."
EXACT: dict[str, ExactStudy] = {study.name: study for study in (THEORY, ITERATION)}


@dataclass(frozen=True)
class Halves:
    """A study's half on tables and its half on trained policies; None where it has no such half."""

    exact: ExactStudy | None
    policies: Study | None


def find(name: str) -> Halves:
    """Raises ConfigError naming the studies there are."""
    exact = EXACT.get(name)
    has_file = (studies_folder() / f"{name}.yaml").is_file()
    if exact is None and not has_file:
        raise ConfigError(
            f"there is no study {name!r}.{did_you_mean(name, names())} Known studies: {', '.join(names())}"
        )
    return Halves(exact, load_study(name) if has_file else None)


def names() -> list[str]:
    """Every study, by name."""
    return sorted({*EXACT, *(p.stem for p in studies_folder().glob("*.yaml"))})


@dataclass(frozen=True)
class StudyCost:
    """What a size of a study takes: `cost` as its file says it, and what its finished runs say of the others.

    `seconds_left` is None where no run is finished yet, and for the half on tables, which has no runs.
    """

    study: str
    size: str
    finished: int
    runs: int
    seconds_left: float | None
    cost: str

    def __str__(self) -> str:
        if not self.runs:
            return self.cost
        done = f"{self.finished} of {self.runs} runs are finished"
        if self.finished == self.runs:
            return f"{done}. {self.cost}"
        if self.seconds_left is None:
            return f"{done}, so how long they take here is not known yet. {self.cost} {_DISK}"
        return f"{done}, about {duration(self.seconds_left)} left. {self.cost} {_DISK}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def costs(name: str, store: Store, workers: int) -> list[StudyCost]:
    """What each size of a study takes, with `workers` runs at a time. Raises ConfigError for a study that is none."""
    halves = find(name)
    found = [StudyCost(name, "tiny", 0, 0, None, "tables only: about two minutes of one core")] if halves.exact else []
    for size, settings in (halves.policies.sizes if halves.policies is not None else {}).items():
        taken, every = finished_runs(settings, store), settings.seeds * len(settings.arms)
        left = mean(taken) * (every - len(taken)) / workers if taken else None
        found.append(StudyCost(name, size, len(taken), every, left, settings.cost))
    return found


def run_study(
    name: str, size: str, store: Store, folder: Path, workers: int, told: Callable[[str], None]
) -> list[Path]:
    """Run what is not finished, `workers` runs at a time, then write the page into `folder`. Returns its files.

    Where `folder` has results of the same size already, `told` hears whether the new ones agree with them. Raises
    ConfigError for a size that the study does not have.
    """
    halves = find(name)
    if halves.exact is not None and size == "tiny":
        write_page(halves.exact, folder, told)
    if halves.policies is not None:
        if size not in halves.policies.sizes:
            raise ConfigError(f"study {name} has no size {size!r}, only {', '.join(halves.policies.sizes)}")
        results = run_arms(halves.policies.sizes[size], store, workers, told)
        stem = _stem(name, halves)
        folder.mkdir(parents=True, exist_ok=True)
        results, data = rounded({"study": name, "size": size} | results), folder / f"{stem}.json"
        before = json.loads(data.read_text(encoding="utf-8")) if data.is_file() else {"size": None}
        if before["size"] == size:
            for line in agreement(before, results):
                told(line)
        data.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw_study(name, folder)
    return sorted(folder.glob(f"{name}*"))


def draw_study(name: str, folder: Path) -> None:
    """Write picture and page from the numbers that lie in `folder`."""
    halves = find(name)
    page = folder / f"{name}.md"
    parts = list[str]()
    if halves.exact is not None:
        draw_page(halves.exact, folder)
        parts.append(page.read_text(encoding="utf-8").rstrip())
    data = folder / f"{_stem(name, halves)}.json"
    if halves.policies is not None and data.is_file():
        parts.append(_policies_page(halves.policies, json.loads(data.read_text(encoding="utf-8")), data, not parts))
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _policies_page(study: Study, results: dict[str, Any], data: Path, whole: bool) -> str:
    size = study.sizes[results["size"]]
    figure = costs_figure(results) if study.shows == "costs" else arms_figure(results)
    figure.savefig(data.with_suffix(".png"), metadata={"Software": None})
    heading = [f"# {study.title}", f"**Claim.** {study.claim}"] if whole else [f"## {study.title}"]
    command = f"tbrm study {results['study']} --size {results['size']}"
    return "\n\n".join(
        [
            *heading,
            *([f"```\n{command}\n```"] if whole else []),
            f"`{results['size']}`: {size.seeds} seeds an arm, {results['cpu_seconds']} s of CPU in the runs. "
            f"{size.cost} Intervals are 95% over seeds. All numbers: [{data.name}]({data.name}).",
            f"![{study.title}]({data.stem}.png)",
            _table(study, size, results),
            study.reading.strip(),
        ]
    )


def _table(study: Study, size: Size, results: dict[str, Any]) -> str:
    if study.shows == "costs":
        return costs_table(results, study.compare)
    if study.shows == "sources":
        return sources_table(results, study.compare)
    return arms_table(results, study.compare, _needs(size) if study.shows == "needs" else None)


def _needs(size: Size) -> dict[str, str]:
    """What the objective of each arm needs beside the trajectories, their rewards and reference log-probs."""
    objectives = {arm.name: arm.set.get("training", {}).get("objective", "tbrm") for arm in size.arms}
    words = {
        "groups": "several responses a prompt",
        "pairs": "in pairs",
        "behavior_logprobs": "behaviour log-probs",
        "critic": "a critic",
        "frozen_target": "a frozen target",
    }
    return {
        arm: ", ".join(text for field, text in words.items() if getattr(OBJECTIVE_NEEDS[objective], field)) or "nothing"
        for arm, objective in objectives.items()
    }


def _stem(name: str, halves: Halves) -> str:
    return name if halves.exact is None else f"{name}_policies"
