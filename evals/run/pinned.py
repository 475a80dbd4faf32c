"""Policies that an experiment is always compared with: `evaluation.pinned`, measured by the experiment's protocols."""

import time
from collections.abc import Sequence

from evals.run.plan import plan_entries, setting_of
from evals.run.stage import evaluate, is_scored
from evals.run.targets import Target, foreign_target
from pipeline.config import Experiment
from pipeline.run.report import Metric, StageReport
from pipeline.store import Store


def pinned_targets(experiment: Experiment) -> Sequence[Target]:
    """The pinned policies. Held-out problems and templates are the experiment's; tables lie under `evaluated/`."""
    pinned = experiment.evaluation.pinned if experiment.evaluation else ()
    return [foreign_target(path, experiment.named_servers) for path in pinned]


def run_pinned(experiment: Experiment, store: Store, replace: bool = False) -> StageReport:
    """Measure every pinned policy that is not scored by the same protocols yet. Raises TbrmError like `evaluate`."""
    started = time.monotonic()
    setting = setting_of(experiment)
    entries = plan_entries(setting)
    reports = [evaluate(setting, store, target, entries, replace) for target in pinned_targets(experiment)]
    metrics: dict[str, Metric] = {}
    for report in reports:
        name = report.dataset.rpartition("/")[2]
        metrics |= {f"{name}_{key}": value for key, value in report.metrics.items() if "_accuracy" in key}
    return StageReport(
        "evaluate",
        experiment.name,
        0,
        sum(report.rows for report in reports),
        time.monotonic() - started,
        all(report.skipped for report in reports),
        metrics,
    )


def pinned_are_scored(experiment: Experiment, store: Store) -> bool:
    """Whether there is nothing to measure."""
    setting = setting_of(experiment)
    targets = pinned_targets(experiment)
    if not targets:
        return True
    entries = plan_entries(setting)
    return all(is_scored(setting, store, target, entries) for target in targets)
