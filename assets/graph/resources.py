"""What the assets are given: the store's place, and where logs of stages are kept."""

from pathlib import Path
from typing import Any

from dagster import AssetExecutionContext, ConfigurableResource, InputContext, IOManager, OutputContext
from pydantic import Field

from pipeline.store import Store, open_store


class StoreLocation(ConfigurableResource[Any]):
    """Root of the tables. The same root for the code location, the daemon and every stage's process."""

    root: str = Field(default="", description="Path or fsspec URL; empty: $TBRM_ROOT, else ./data.")

    def open(self) -> Store:
        return open_store(self.root or None)

    def arguments(self) -> list[str]:
        """Options that make a `tbrm` command use this store."""
        return ["--root", self.open().root]


class NothingPassedOn(IOManager):
    """Steps pass no values on: what they make lies in the store.

    Dagster's default takes a folder from run config, which a run may not choose; its `mem_io_manager` makes "re-execute
    from failure" impossible.
    """

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        raise TypeError(
            f"{context.step_key} returned a value; stages write to the store and return a MaterializeResult"
        )

    def load_input(self, context: InputContext) -> Any:
        raise TypeError(f"{context.name} is no value that was passed on; read it from the store")


def stage_log(context: AssetExecutionContext) -> Path:
    """Where a step's stage writes its output: beside Dagster's own logs of the run."""
    storage = Path(context.instance.storage_directory())
    return storage / context.run_id / "stages" / f"{context.op_execution_context.op.name}.{context.retry_number}.log"
