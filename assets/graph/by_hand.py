"""Assets that belong to no experiment and are materialized by hand: any policy measured, any log imported."""

from collections.abc import Sequence
from typing import Literal

from dagster import (
    AssetExecutionContext,
    Config,
    DataVersion,
    DynamicPartitionsDefinition,
    Failure,
    MaterializeResult,
    ResourceParam,
    asset,
)
from pydantic import Field

from assets.experiment.headlines import scores_headlines
from assets.experiment.pages import sample_responses
from assets.experiment.run_config import check_benchmarks, check_local, check_name, check_overrides, check_server
from assets.experiment.source import ExperimentSource, read_experiment
from assets.experiment.stages import GPU_POOL
from assets.graph.history import LOGGED_KEY, LOGGED_PARTITIONS, data_version_of
from assets.graph.stage_asset import column_schema
from assets.graph.step import StoreLocation, in_the_ui, run_command
from assets.processes.launcher import Launcher
from evals.report.leaderboard import scores_markdown
from evals.run.targets import target_of
from evals.statistics.scores import read_scores
from pipeline.config import changed_experiment
from pipeline.errors import TbrmError, did_you_mean

EVALUATED_KEY = ["evaluated_policies"]
EVALUATION_JOB = "evaluate_a_policy"


class PolicyEvaluation(Config):
    """Run config of an evaluation by hand; the partition names the policy."""

    experiment: str = Field(
        default="", description="Experiment whose template, verifier and benchmarks are used; empty: the defaults."
    )
    benchmarks: list[str] = Field(default=[], description="Names of benchmarks; empty: those of the experiment.")
    source: str = Field(default="", description="Folder with one JSONL file a benchmark; empty: evaluation.source.")
    max_problems: int = Field(default=0, ge=0, description="The first problems of each benchmark only; 0: all.")
    overrides: list[str] = Field(default=[], description="Fields of the experiment set for this run only.")
    replace: bool = Field(default=False, description="Measure anew what is scored already; the old one is kept.")

    def read(self, policy: str) -> ExperimentSource | None:
        """The experiment, with the overrides; None where none is named. Raises TbrmError for what no run may set."""
        check_local("source", self.source)
        if not self.experiment:
            check_benchmarks("benchmarks", self.benchmarks)
            check_server(None, policy)
            return None
        check_name("experiment", self.experiment)
        source = read_experiment(self.experiment)
        yaml, run = source.experiment, changed_experiment(source.experiment, self.overrides)
        check_overrides(yaml, run)
        check_benchmarks("benchmarks", self.benchmarks, yaml.evaluation.benchmarks if yaml.evaluation else ())
        check_server(yaml, policy)
        return ExperimentSource(source.path, run)

    def arguments(self, policy: str, source: ExperimentSource | None, location: Sequence[str]) -> list[str]:
        """The `tbrm evaluate` command line for what was `read`; `location` are the options that name the store."""
        named = {
            "--benchmarks": ",".join(self.benchmarks),
            "--source": self.source,
            "--max-problems": str(self.max_problems or ""),
        }
        options = [part for option, value in named.items() if value for part in (option, value)]
        experiment = source.arguments() if source else []
        flags = ["--replace"] if self.replace else []
        # Behind `--` nothing is an option, whatever it begins with.
        return ["evaluate", *experiment, *options, *flags, *location, "--", policy]


@asset(
    key=EVALUATED_KEY,
    group_name="evaluation",
    partitions_def=DynamicPartitionsDefinition(name="evaluated_policies"),
    kinds={"parquet"},
    owners=["team:tbrm"],
    pool=GPU_POOL,
    description="""Benchmark scores of any policy, by hand: materialize a partition, or a new one, whose name is the
policy: EXPERIMENT:GENERATION, EXPERIMENT:latest, a Hugging Face folder, org/name@commit, or http://host:8000/v1#model,
a server that the YAML of `experiment` names. Responses are stored, then graded into table `scores`; what is scored by
the same protocol already is not measured again. Further benchmarks, and the first problems of one, join the scores that
are there.""",
)
def evaluated_policies(  # pyright: ignore[reportUnknownParameterType]
    context: AssetExecutionContext, config: PolicyEvaluation, launcher: ResourceParam[Launcher], store: StoreLocation
) -> MaterializeResult:  # pyright: ignore[reportMissingTypeArgument]
    """Measure the policy that the partition names."""
    opened, policy = store.open(), context.partition_key
    try:
        read = config.read(policy)
        source = read.keep(opened) if read else None
    except TbrmError as error:
        raise Failure(in_the_ui(str(error)), allow_retries=False) from None
    finished = run_command(context, config.arguments(policy, source, store.arguments()), launcher)
    try:
        target = target_of(opened, policy, source.experiment.named_servers if source else ())
        scores = read_scores(opened, target.dataset, target.generation)
        headlines = scores_headlines(finished.report["metrics"], opened, target.dataset, target.generation)
    except TbrmError as error:
        raise Failure(f"the scores cannot be read back: {error}", allow_retries=False) from error
    return MaterializeResult(
        asset_key=EVALUATED_KEY,
        metadata={
            **finished.metadata(headlines, {"benchmarks": scores_markdown(scores, opened.root)}),
            "policy": policy,
            "policy_id": target.policy.policy_id,
        },
    )


class ImportConfig(Config):
    """Run config of an import; only files and tokenizer must be named. `tbrm import --help` has the same options."""

    files: list[str] = Field(description="JSONL, JSON, CSV, Parquet or Arrow files, folders of them, or wildcards.")
    tokenizer: str = Field(
        description="Folder, hub id, package:NAME or builtin:NAME: the tokenizer of the policies to be trained."
    )
    log_format: str = Field(
        default="", description="Name of the log's format, e.g. verl (docs/import.md lists them); empty: recognized."
    )
    rewards: dict[str, float] = Field(
        default={}, description="Numbers of a row whose weighted sum is the reward, e.g. accuracy: 1, format: 0.5."
    )
    where: dict[str, str] = Field(
        default={}, description="Field of the log -> value: only rows with it, e.g. filter: strict-match."
    )
    fields: list[str] = Field(
        default=[],
        description="Our field = path in the log, e.g. reward=extra.score; else fields are recognized.",
    )
    behaviour_policy: str = Field(default="unknown", description="Who made them, where rows do not say.")
    template: Literal["auto", "raw", "restore", "qwen-math", "r1", "chat"] = Field(
        default="auto",
        description="raw: prompts are logged as the model saw them; auto: where the log does not show the contrary; "
        "restore: the chat template's special tokens were lost; otherwise prompts are bare questions.",
    )
    max_bad_share: float = Field(default=0.05, ge=0, le=1, description="More bad rows than this stop the import.")
    duplicates: Literal["rows", "responses", "keep"] = Field(
        default="rows", description="Drop repeated source rows, repeated (prompt, response) pairs, or nothing."
    )
    generation: int = Field(default=0, ge=0, description="Generation of the data set that these files become.")
    replace: bool = Field(default=False, description="Write a committed partition anew; the old one is kept beside it.")

    def check(self) -> None:
        """Raise TbrmError for what no run may name, and for a format that is none."""
        from pipeline.logged.formats import FORMATS

        check_local("files", *self.files)
        check_local("tokenizer", self.tokenizer)
        if self.log_format and self.log_format not in FORMATS:
            raise TbrmError(
                f"`log_format`: {self.log_format!r:.80} is no format.{did_you_mean(self.log_format, FORMATS)} The "
                f"formats are {', '.join(FORMATS)}"
            )

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
        named = {"--from": [self.log_format] if self.log_format else [], "--map": self.fields}
        named["--reward"] = [f"{name}={weight:g}" for name, weight in self.rewards.items()]
        named["--where"] = [f"{name}={value}" for name, value in self.where.items()]
        chosen = [f"{option}={value}" for option, values in named.items() for value in values]
        flags = ["--replace"] if self.replace else []
        always = [part for pair in options.items() for part in pair]
        # Behind `--` nothing is an option, whatever it begins with.
        return ["import", *always, *chosen, *flags, *location, "--", *self.files]


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
    name = context.partition_key
    try:
        config.check()
    except TbrmError as error:
        raise Failure(in_the_ui(str(error)), allow_retries=False) from None
    finished = run_command(context, config.arguments(name, store.arguments()), launcher)
    opened = store.open()
    try:
        there = opened.generations(f"logged/{name}", "rollouts")
        manifests = [opened.partition(f"logged/{name}", "rollouts", g).manifest() for g in there]
        manifest = manifests[there.index(config.generation)]
        samples = sample_responses(opened, f"logged/{name}", config.generation)
    except TbrmError as error:
        raise Failure(f"the data set cannot be read back: {error}", allow_retries=False) from error
    return MaterializeResult(
        asset_key=LOGGED_KEY,
        metadata={
            **finished.metadata(page={"sample_responses": samples}),
            "dagster/row_count": manifest.rows,
            "manifest_hash": manifest.hash,
        },
        data_version=DataVersion(data_version_of(manifests)),
    )
