"""The page of a study on several tasks at once: what every arm earns on each of them."""

from typing import Any

from assets.studies.exact import markdown_table
from assets.studies.statistics import over_seeds, shown


def sources_table(results: dict[str, Any], compare: str | None) -> str:
    """One line an arm: reward of its last policy on each task and on all, with intervals over seeds.

    The first line is policy[0] of all runs; the last column is the difference in all to `compare`, by seed.
    """
    runs = [run for arm in results["arms"] for run in arm["runs"]]
    tasks = sorted(runs[0]["generations"][0]["reward_by_source"])
    reference = next((arm for arm in results["arms"] if arm["arm"] == compare), None)
    rows = [["policy[0]", *_cells(runs, 0, tasks), "-"]]
    for arm in results["arms"]:
        difference = "-"
        if reference is not None and arm is not reference:
            pairs = zip(_rewards(arm["runs"], -1), _rewards(reference["runs"], -1), strict=True)
            difference = shown(over_seeds([own - other for own, other in pairs]))
        rows.append([arm["arm"], *_cells(arm["runs"], -1, tasks), difference])
    return markdown_table(["", *tasks, "all", f"less {compare}"], rows)


def _cells(runs: list[dict[str, Any]], generation: int, tasks: list[str]) -> list[str]:
    by_task = ([run["generations"][generation]["reward_by_source"][task] for run in runs] for task in tasks)
    return [shown(over_seeds(values)) for values in (*by_task, _rewards(runs, generation))]


def _rewards(runs: list[dict[str, Any]], generation: int) -> list[float]:
    return [run["generations"][generation]["reward"] for run in runs]
