"""A served Dagster UI for tests, and its GraphQL."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets.app.access import ui_token
from tests.support.tiny import listen_to_ctrl_c, one_thread_from_a_warm_parent

LOCATION = {"repositoryLocationName": "assets.definitions", "repositoryName": "__repository__"}
TBRM = (sys.executable, "-c", "from pipeline.cli.main import main; main()")
FINISHED = ("SUCCESS", "FAILURE", "CANCELED")


@dataclass(frozen=True)
class Ui:
    url: str
    root: Path
    process: subprocess.Popen[bytes]
    token: str

    @property
    def link(self) -> str:
        """The address that lets a browser in, as `tbrm ui` prints it."""
        return f"{self.url}/?token={self.token}"

    def query(self, text: str, **variables: Any) -> Any:
        """`data` of a GraphQL answer; fails on errors."""
        body = json.dumps({"query": text, "variables": variables}).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(f"{self.url}/graphql", body, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            tree = json.load(answer)
        assert "errors" not in tree, tree["errors"]
        return tree["data"]

    def launch(self, job: str, assets: list[list[str]], partition: str | None, run_config: Any = None) -> str:
        """Materialize `assets` as the UI does; returns the run id."""
        tags = [{"key": "dagster/partition", "value": partition}] if partition else []
        data = self.query(
            """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename
               ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
               ... on RunConfigValidationInvalid { errors { message } } } }""",
            p={
                "selector": LOCATION | {"pipelineName": job, "assetSelection": [{"path": path} for path in assets]},
                "runConfigData": run_config or {},
                "mode": "default",
                "executionMetadata": {"tags": tags},
            },
        )["launchRun"]
        assert data["__typename"] == "LaunchRunSuccess", data
        return data["run"]["runId"]

    def status(self, run_id: str) -> str:
        return self.query("query($r: ID!) { runOrError(runId: $r) { ... on Run { status } } }", r=run_id)["runOrError"][
            "status"
        ]

    def wait(self, run_id: str, timeout_s: float = 700.0, until: tuple[str, ...] = FINISHED) -> str:
        deadline = time.monotonic() + timeout_s
        while (status := self.status(run_id)) not in (*until, *FINISHED) and time.monotonic() < deadline:
            time.sleep(0.2)
        return status

    def runs(self) -> list[dict[str, Any]]:
        """Newest first: id, job, status, tags."""
        query = "{ runsOrError { ... on Runs { results { runId jobName status tags { key value } } } } }"
        found = self.query(query)["runsOrError"]["results"]
        return [run | {"tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]

    def messages(self, run_id: str) -> list[str]:
        query = """query($r: ID!) { logsForRun(runId: $r, limit: 1000) { ... on EventConnection
                   { events { ... on MessageEvent { message } } } } }"""
        return [event["message"] for event in self.query(query, r=run_id)["logsForRun"]["events"]]

    def stage_processes(self) -> list[str]:
        """Command lines of stages that work on this store."""
        found: list[str] = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(self.root) in command and "assets.processes.child" in command:
                    found.append(command)
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(root: Path, folder: Path, env: dict[str, str] | None = None, tbrm: Sequence[str] = TBRM) -> Generator[Ui]:
    """`tbrm ui` on a free port, started in `folder` (which holds `experiments/`), stopped as by Ctrl-C."""
    port = free_port()
    settings = {**os.environ, **one_thread_from_a_warm_parent(), **(env or {})}
    settings.pop("DAGSTER_HOME", None)
    command = [*tbrm, "ui", "--root", str(root), "--port", str(port)]
    with (folder / "ui.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=settings, stdout=log, stderr=log, preexec_fn=listen_to_ctrl_c
        )
    home = root / "dagster_home"
    home.mkdir(parents=True, exist_ok=True)
    ui = Ui(f"http://127.0.0.1:{port}", root, process, ui_token(home))
    try:
        deadline = time.monotonic() + 300
        while True:
            with contextlib.suppress(OSError, AssertionError):
                if ui.query("{ version }"):
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((folder / "ui.log").read_text())
            time.sleep(0.1)
        yield ui
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
