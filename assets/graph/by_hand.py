"""Evaluation by hand of any policy: a generation, a folder, a hub id or a server, each materialization one policy."""

from collections.abc import Sequence
from typing import Any

from dagster import (
    AssetExecutionContext,
    Config,
    Failure,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    asset,
    define_asset_job,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from assets.experiment.run_config import check_benchmarks, check_local, check_name, check_overrides, check_server
from assets.experiment.source import ExperimentSource, read_experiment
from assets.experiment.stages import GPU_POOL
from assets.graph.resources import StoreLocation
from assets.graph.step import run_command
from assets.processes.launcher import Launcher
from evals.report.markdown import scores_markdown
from evals.run.targets import target_of
from evals.statistics.scores import read_scores
from pipeline.config import changed_experiment
from pipeline.errors import TbrmError

EVALUATED_KEY = ["evaluated_policies"]
EVALUATION_JOB = "evaluate_a_policy"


class PolicyEvaluation(Config):
    """Run config of an evaluation by hand; only the policy must be named."""

    policy: str = Field(
        description="EXPERIMENT:GENERATION, EXPERIMENT:latest, a Hugging Face folder, org/name@commit, or "
        "http://host:8000/v1#model, a server that the YAML of `experiment` names."
    )
    experiment: str = Field(
        default="", description="Experiment whose template, verifier and benchmarks are used; empty: the defaults."
    )
    benchmarks: list[str] = Field(default=[], description="Names of benchmarks; empty: those of the experiment.")
    source: str = Field(default="", description="Folder with one JSONL file a benchmark; empty: evaluation.source.")
    max_problems: int = Field(default=0, ge=0, description="The first problems of each benchmark only; 0: all.")
    overrides: list[str] = Field(default=[], description="Fields of the experiment set for this run only.")
    replace: bool = Field(default=False, description="Measure anew what is scored already; the old one is kept.")

    def read(self) -> ExperimentSource | None:
        """The experiment, with the overrides; None where none is named. Raises TbrmError for what no run may set."""
        check_local("source", self.source)
        if not self.experiment:
            check_benchmarks("benchmarks", self.benchmarks)
            check_server(None, self.policy)
            return None
        check_name("experiment", self.experiment)
        source = read_experiment(self.experiment)
        yaml, run = source.experiment, changed_experiment(source.experiment, self.overrides)
        check_overrides(yaml, run)
        check_benchmarks("benchmarks", self.benchmarks, yaml.evaluation.benchmarks if yaml.evaluation else ())
        check_server(yaml, self.policy)
        return ExperimentSource(source.path, run)

    def arguments(self, source: ExperimentSource | None, location: Sequence[str]) -> list[str]:
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
        return ["evaluate", *experiment, *options, *flags, *location, "--", self.policy]


@asset(
    key=EVALUATED_KEY,
    group_name="evaluation",
    kinds={"parquet"},
    owners=["team:tbrm"],
    pool=GPU_POOL,
    description="""Benchmark scores of any policy, by hand: materialize it with `policy` set. Responses are stored, then
graded into table `scores`; what is scored by the same protocol already is not measured again.""",
)
def evaluated_policies(  # pyright: ignore[reportUnknownParameterType]
    context: AssetExecutionContext, config: PolicyEvaluation, launcher: ResourceParam[Launcher], store: StoreLocation
) -> MaterializeResult:  # pyright: ignore[reportMissingTypeArgument]
    """Measure the policy that the run config names."""
    return _evaluate(context, config, launcher, store)


def by_hand_job() -> UnresolvedAssetJobDefinition:
    """`evaluate_a_policy`."""
    return define_asset_job(
        EVALUATION_JOB, [evaluated_policies], description="Measure any policy on any benchmarks, by hand."
    )


def _evaluate(
    context: AssetExecutionContext, config: PolicyEvaluation, launcher: Launcher, location: StoreLocation
) -> MaterializeResult[Any]:
    store = location.open()
    try:
        read = config.read()
        source = read.keep(store) if read else None
    except TbrmError as error:
        raise Failure(str(error), allow_retries=False) from error
    finished = run_command(context, config.arguments(source, location.arguments()), launcher, 1)
    try:
        target = target_of(store, config.policy, source.experiment.named_servers if source else ())
        scores = read_scores(store, target.dataset, target.generation)
    except TbrmError as error:
        raise Failure(f"the scores cannot be read back: {error}", allow_retries=False) from error
    return MaterializeResult(
        asset_key=EVALUATED_KEY,
        metadata={
            **finished.metadata(),
            "policy": config.policy,
            "policy_id": target.policy.policy_id,
            "benchmarks": MetadataValue.md(scores_markdown(scores, store.root)),
        },
    )
