"""Import of logged trajectories from the UI: the partition's key names the data set, the run config its files."""

from collections.abc import Sequence
from typing import Any, Literal

from dagster import (
    AssetExecutionContext,
    Config,
    Failure,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    asset,
)
from pydantic import Field

from assets.experiment.logged import LOGGED_KEY, LOGGED_PARTITIONS
from assets.experiment.pages import column_schema, sample_responses
from assets.experiment.run_config import check_local
from assets.graph.resources import StoreLocation
from assets.graph.step import run_command
from assets.processes.launcher import Launcher
from pipeline.errors import TbrmError


class ImportConfig(Config):
    """Run config of an import; only files and tokenizer must be named. `tbrm import --help` has the same options."""

    files: list[str] = Field(description="JSONL, JSON, CSV, Parquet or Arrow files, or folders of them.")
    tokenizer: str = Field(description="Folder or hub id: the tokenizer of the policies that will train on the data.")
    fields: list[str] = Field(
        default=[],
        description="Our field = path in the log, e.g. reward=extra.score; else fields are recognized.",
    )
    behaviour_policy: str = Field(default="unknown", description="Who made them, where rows do not say.")
    template: Literal["raw", "qwen-math", "r1", "chat"] = Field(
        default="raw", description="raw: prompts are logged as the model saw them; otherwise they are bare questions."
    )
    max_bad_share: float = Field(default=0.05, ge=0, le=1, description="More bad rows than this stop the import.")
    duplicates: Literal["rows", "responses", "keep"] = Field(
        default="rows", description="Drop repeated source rows, repeated (prompt, response) pairs, or nothing."
    )
    generation: int = Field(default=0, ge=0, description="Generation of the data set that these files become.")
    replace: bool = Field(default=False, description="Write a committed partition anew; the old one is kept beside it.")

    def check(self) -> None:
        """Raise TbrmError for what no run may name."""
        check_local("files", *self.files)
        check_local("tokenizer", self.tokenizer)

    def arguments(self, name: str, location: Sequence[str]) -> list[str]:
        """The `tbrm import` command line for data set `name`; `location` are the options that name the store."""
        options = {
            "--name": name,
            "--tokenizer": self.tokenizer,
            "--policy": self.behaviour_policy,
            "--template": self.template,
            "--max-bad-share": str(self.max_bad_share),
            "--duplicates": self.duplicates,
            "--generation": str(self.generation),
        }
        maps = [part for field in self.fields for part in ("--map", field)]
        flags = ["--replace"] if self.replace else []
        named = [part for pair in options.items() for part in pair]
        # Behind `--` nothing is an option, whatever it begins with.
        return ["import", *named, *maps, *flags, *location, "--", *self.files]


@asset(
    key=LOGGED_KEY,
    group_name="logged",
    partitions_def=LOGGED_PARTITIONS,
    kinds={"parquet"},
    owners=["team:tbrm"],
    metadata={"dagster/column_schema": column_schema("rollouts")},
    description="""Trajectories that any behaviour policy made: a prompt, a response as token ids, a reward and
π_ref's log-probs. TBRM needs no behaviour log-probs, so they train like any other. Materialize a new partition, named
as the data set, to import files (or use `tbrm import`); name it under `replay.logged` of an experiment to train on
it.""",
)
def logged_trajectories(  # pyright: ignore[reportUnknownParameterType]
    context: AssetExecutionContext, config: ImportConfig, launcher: ResourceParam[Launcher], store: StoreLocation
) -> MaterializeResult:  # pyright: ignore[reportMissingTypeArgument]
    """Import the files that the run config names as the data set that the partition names."""
    return _import(context, config, launcher, store)


def _import(
    context: AssetExecutionContext, config: ImportConfig, launcher: Launcher, location: StoreLocation
) -> MaterializeResult[Any]:
    name = context.partition_key
    try:
        config.check()
    except TbrmError as error:
        raise Failure(str(error), allow_retries=False) from error
    finished = run_command(context, config.arguments(name, location.arguments()), launcher, 1)
    store = location.open()
    try:
        manifest = store.partition(f"logged/{name}", "rollouts", config.generation).manifest()
        samples = sample_responses(store, f"logged/{name}", config.generation)
    except TbrmError as error:
        raise Failure(f"the data set cannot be read back: {error}", allow_retries=False) from error
    return MaterializeResult(
        asset_key=LOGGED_KEY,
        metadata={
            **finished.metadata(),
            "dagster/row_count": manifest.rows,
            "manifest_hash": manifest.hash,
            "sample_responses": MetadataValue.md(samples),
        },
    )
