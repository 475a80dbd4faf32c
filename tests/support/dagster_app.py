"""Dagster's real web app over a tiny experiment, in this process: what `tbrm ui` serves, without its processes."""

import contextlib
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagster import DagsterInstance
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from starlette.applications import Starlette

from assets.app.instance import open_instance
from pipeline.store import open_store


@dataclass(frozen=True)
class Served:
    """`app` is Dagster's own; `home` its DAGSTER_HOME."""

    app: Starlette
    instance: DagsterInstance
    home: Path

    def runs(self) -> list[str]:
        """Ids of the runs that somebody has launched. They stay queued: there is no daemon."""
        return [run.run_id for run in self.instance.get_runs()]


@contextlib.contextmanager
def dagster_app(root: Path, module: str = "assets.definitions") -> Generator[Served]:
    """Call it in a folder that holds `experiments/`, with DAGSTER_HOME and TBRM_ROOT empty."""
    with open_instance(open_store(str(root))) as instance:
        target = LoadableTargetOrigin(executable_path=sys.executable, module_name=module)
        origin: Any = InProcessCodeLocationOrigin(target, location_name=module)
        with WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(origin)) as context:
            app = create_app_from_workspace_process_context(context)
            yield Served(app, instance, Path(instance.root_directory))
