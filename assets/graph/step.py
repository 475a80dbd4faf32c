"""One `tbrm` command run for a Dagster step: what the step is given, the command's report, its own error message."""

import math
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dagster import (
    AssetExecutionContext,
    ConfigurableResource,
    Failure,
    InputContext,
    IOManager,
    MetadataValue,
    OutputContext,
    PipesEnvContextInjector,
    PipesMessageHandler,
    PipesTempFileMessageReader,
    RetryRequested,
    open_pipes_session,
)
from dagster_pipes import PipesMessage
from pydantic import Field

from assets.experiment.headlines import Headline, headlines_list, rounded
from assets.experiment.pages import Page, fenced
from assets.processes.child import PROGRESS_EVERY_S
from assets.processes.launcher import Ended, Launcher, Process
from pipeline.run.progress import Progress, pass_on
from pipeline.run.resumable import Metric
from pipeline.store import Store, open_store

# Only a process that was killed (by a full memory, with its machine) is started again; a wrong input stays wrong. A
# RetryPolicy of the asset would also start a stage again that a user has just terminated.
_RETRIES = 1
_RETRY_AFTER_S = 5.0
_LINES_SAID = 3
_EXACT = 6
"""Significant digits of what is not a headline."""
_NOTHING: Mapping[str, Any] = MappingProxyType({})
NUMBERS = "numbers"
"""Entry of a materialization: its headlines with units and intervals, as a list."""
ALL_NUMBERS = "all_numbers"
"""Entry of a materialization: everything that its command reported, as JSON, which Dagster does not plot."""
PROGRESS_TAG = "tbrm/progress_every_s"
"""Run tag: seconds between two messages of progress. `tbrm run` asks for more of them where it shows a bar."""


class StoreLocation(ConfigurableResource[Any]):
    """Root of the tables. The same root for the code location, the daemon and every stage's process."""

    root: str = Field(default="", description="Path or fsspec URL; empty: $TBRM_ROOT, else ./data.")

    def open(self) -> Store:
        return open_store(self.root or None)

    def arguments(self) -> list[str]:
        """Options that make a `tbrm` command use this store."""
        return ["--root", self.open().root]


class NothingPassedOn(IOManager):
    """Steps pass no values to one another: their results are in the store.

    Dagster's default IO manager takes its folder from run config, where a run could choose it. With Dagster's
    `mem_io_manager` no run could be re-executed from failure.
    """

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        raise TypeError(
            f"{context.step_key} returned a value; stages write to the store and return a MaterializeResult"
        )

    def load_input(self, context: InputContext) -> Any:
        raise TypeError(f"{context.name} was not passed on by its step; read it from the store")


@dataclass(frozen=True)
class Finished:
    """A command that ended well: its StageReport as JSON, and what the materialization says of it."""

    report: Mapping[str, Any]
    arguments: Sequence[str]
    ended: Ended
    wall_s: float

    def metadata(
        self, headlines: Sequence[Headline] = (), page: Page = _NOTHING, more: Mapping[str, Metric] = _NOTHING
    ) -> dict[str, Any]:
        """What the asset's page shows, in this order: its numbers, the first entry of its page, then the rest.

        Dagster plots every number that is an entry of its own: only the headlines are. All that the command reported,
        `more` beside it, stands in the entry ALL_NUMBERS.
        """
        told = [headline for headline in headlines if math.isfinite(headline.value)]
        shown = {name: MetadataValue.md(text) for name, text in page.items()}
        first = dict(islice(shown.items(), 1))
        return {
            **({NUMBERS: MetadataValue.md(headlines_list(told))} if told else {}),
            **first,
            **{headline.label: MetadataValue.float(rounded(headline.value)) for headline in told},
            **shown,
            ALL_NUMBERS: MetadataValue.json({name: _plain(value) for name, value in self._numbers(more).items()}),
            **_traces(self.arguments, self.ended.log),
        }

    def _numbers(self, more: Mapping[str, Metric]) -> dict[str, Metric]:
        """Metrics, rows, seconds, the seconds beyond the command's own work, and whether nothing was left to do."""
        skipped = bool(self.report["skipped"])
        return {
            **self.report["metrics"],
            **more,
            "rows": self.report["rows"],
            "seconds": self.report["seconds"],
            "overhead_seconds": 0.0 if skipped else self.wall_s - self.report["seconds"],
            "skipped": skipped,
        }

    def refused(self, reason: str) -> Failure:
        """The failure of a step whose command ended well, but whose result is not what it should be."""
        return _failure(self.arguments, [{"error": reason}], self.ended)


def run_command(
    context: AssetExecutionContext, arguments: Sequence[str], launcher: Launcher, workers: int = 1, grace_s: float = 0.0
) -> Finished:
    """Run `tbrm *arguments` to its end; progress goes to the run's log. `workers`, `grace_s`: see `Process`.

    Raises Failure with the command's own message; RetryRequested, once, when its process was killed.
    """

    def told(progress: Progress) -> None:
        context.log.info(str(progress))
        pass_on(progress)

    started = time.monotonic()
    context.log.info(f"tbrm {' '.join(arguments)}")
    with open_pipes_session(
        context=context,
        context_injector=PipesEnvContextInjector(),
        message_reader=_Messages(told),
        extras={PROGRESS_EVERY_S: float(context.run.tags.get(PROGRESS_TAG, "5"))},
    ) as session:
        ended = launcher.run(
            Process(
                command=[sys.executable, "-m", "assets.processes.child", *arguments],
                log=_log(context),
                env=session.get_bootstrap_env_vars(),
                workers=workers,
                grace_s=grace_s,
                say=context.log.info,
            )
        )
    # Pipes has Dagster ask for the result of every check, also of those that do not apply. There is no public way back.
    context.op_execution_context.get_step_execution_context()._requires_typed_event_stream = False  # pyright: ignore[reportPrivateUsage]
    messages: Sequence[Mapping[str, Any]] = session.get_custom_messages()
    report = next((m["report"] for m in messages if "report" in m), None)
    if ended.killed and context.retry_number < _RETRIES:
        raise RetryRequested(_RETRIES, _RETRY_AFTER_S) from _failure(arguments, messages, ended)
    if ended.code or report is None:
        raise _failure(arguments, messages, ended)
    return Finished(report, arguments, ended, time.monotonic() - started)


def in_the_ui(message: str) -> str:
    """The message of a command in words of the UI, which has fields where the command line has options."""
    for option, field in (
        ("Add --replace", "Set `replace: true`"),
        ("--replace", "`replace: true`"),
        ("--set ", "`overrides`: "),
    ):
        message = message.replace(option, field)
    return f"{message}. Here: materialize `branches`" if "--fork-from" in message else message


def _plain(value: Metric) -> Metric | None:
    """The number as JSON has it: without digits that only rounding made, and None for what is not finite."""
    if not isinstance(value, float):
        return value
    return rounded(value, _EXACT) if math.isfinite(value) else None


class _Messages(PipesTempFileMessageReader):
    """Dagster's reader of a step's messages, but progress is told as it comes, and not kept."""

    def __init__(self, told: Callable[[Progress], None]) -> None:
        super().__init__()
        self._told = told

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Generator[dict[str, Any]]:
        with super().read_messages(_Handler(handler, self._told)) as params:
            yield dict(params)


class _Handler(PipesMessageHandler):
    """Before the handler of the session: takes what is progress, leaves it the rest."""

    def __init__(self, handler: PipesMessageHandler, told: Callable[[Progress], None]) -> None:
        self._handler, self._told = handler, told

    def handle_message(self, message: PipesMessage) -> None:
        payload = (message["params"] or {}).get("payload")
        if message["method"] == "report_custom_message" and isinstance(payload, dict) and "progress" in payload:
            self._told(Progress(**payload["progress"]))
        else:
            self._handler.handle_message(message)

    def report_pipes_framework_exception(self, origin: str, exc_info: Any) -> None:
        self._handler.report_pipes_framework_exception(origin, exc_info)


def _traces(arguments: Sequence[str], log: Path) -> dict[str, MetadataValue[Any]]:
    return {"log": MetadataValue.path(str(log)), "command": MetadataValue.md(f"`tbrm {' '.join(arguments)}`")}


def _failure(arguments: Sequence[str], messages: Iterable[Mapping[str, Any]], ended: Ended) -> Failure:
    """What the run page shows: the stage's own error, else its end; the last lines and the log beside it."""
    last = "\n".join(ended.tail[-_LINES_SAID:]) or "no output"
    silent = "it reported nothing" if ended.code == 0 else last
    reason = next((str(m["error"]) for m in messages if "error" in m), silent)
    how = f"ended by signal {ended.code - 128}" if ended.killed else f"exit status {ended.code}"
    return Failure(
        f"tbrm {arguments[0]} ({how}): {in_the_ui(reason)}",
        metadata={
            "last_lines": MetadataValue.md(fenced("\n".join(ended.tail))),
            **_traces(arguments, ended.log),
        },
        allow_retries=False,
    )


def _log(context: AssetExecutionContext) -> Path:
    """The file for the output of a step's command, beside Dagster's own logs of the run."""
    storage = Path(context.instance.storage_directory())
    return (
        storage / context.run.run_id / "stages" / f"{context.op_execution_context.op.name}.{context.retry_number}.log"
    )
