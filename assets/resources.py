"""What the assets are given: the store's place, and where logs of stages are kept."""

from pathlib import Path
from typing import Any

from dagster import AssetExecutionContext, ConfigurableResource
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


def stage_log(context: AssetExecutionContext) -> Path:
    """Where a step's stage writes its output: beside Dagster's own logs of the run."""
    storage = Path(context.instance.storage_directory())
    return storage / context.run_id / "stages" / f"{context.op_execution_context.op.name}.{context.retry_number}.log"
