"""The child of a Dagster step: runs one `tbrm` command, and tells Dagster about it through Pipes.

`python -m assets.processes.child rollouts --experiment … --generation …` calls the same command as `tbrm rollouts …`,
so a stage does the same whoever starts it. This module does not import Dagster.
"""

import dataclasses
import math
import sys
import traceback
from collections.abc import Mapping

import click
from dagster_pipes import PipesContext, open_dagster_pipes

from pipeline.cli.main import tbrm
from pipeline.errors import TbrmError
from pipeline.run.progress import Progress, send_progress_to
from pipeline.run.resumable import Metric, StageReport
from pipeline.run.threads import settle

PROGRESS_EVERY_S = "progress_every_s"
"""Pipes extra: seconds between two messages of progress."""


def plain_metrics(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Metrics as Dagster's database and GraphQL can hold them: JSON knows neither NaN nor infinity."""
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}


def run_command(arguments: list[str], context: PipesContext) -> int:
    """Run a `tbrm` command; its StageReport, or its error message, goes to Dagster. Returns the exit status."""

    def tell(progress: Progress) -> None:
        context.report_custom_message({"progress": dataclasses.asdict(progress)})

    send_progress_to(tell, float(context.extras[PROGRESS_EVERY_S]))
    try:
        report = tbrm.main(["--errors-raised", *arguments], prog_name="tbrm", standalone_mode=False)
    except (TbrmError, click.ClickException) as error:
        context.report_custom_message({"error": str(error)})
        traceback.print_exc()
        return 1
    finally:
        send_progress_to(None)
    if not isinstance(report, StageReport):
        context.report_custom_message({"error": f"`tbrm {arguments[0]}` returned no stage report"})
        return 1
    context.report_custom_message({"report": report.to_json() | {"metrics": plain_metrics(report.metrics)}})
    return 0


def main() -> int:
    settle()  # a job of a cluster runs on another machine than its launcher, with other cores
    with open_dagster_pipes() as context:
        return run_command(sys.argv[1:], context)


if __name__ == "__main__":
    sys.exit(main())
