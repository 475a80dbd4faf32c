"""The asset graph of one experiment: policy[g] → rollouts → labels → trained_policy → scores, by generation."""

from dataclasses import dataclass
from typing import Any

from dagster import (
    AssetDep,
    AssetKey,
    AssetsDefinition,
    AssetSelection,
    AssetSpec,
    IdentityPartitionMapping,
    ScheduleDefinition,
    SpecificPartitionsPartitionMapping,
    StaticPartitionsDefinition,
    define_asset_job,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.experiment.logged import LOGGED_KEY, logged_names
from assets.experiment.pages import fenced
from assets.experiment.source import BrokenSource, ExperimentSource
from assets.experiment.stages import PINNED_SCORES, Stage, stages_of
from assets.graph.history import partition_name
from assets.graph.schedules import evaluation_job, evaluation_schedule
from assets.graph.stage_asset import stage_asset

_POLICY_DESCRIPTION = """The policy that generation g samples from and starts training at. `policy[0]` is
`base_policy`; `policy[g+1]` is `trained_policy[g]`, published by its training. It has no declared upstream because
Dagster refuses cycles; the metadata `parents` holds the lineage."""


@dataclass(frozen=True)
class ExperimentGraph:
    """What one experiment adds to the definitions."""

    assets: list[AssetsDefinition | AssetSpec]
    jobs: list[UnresolvedAssetJobDefinition]
    schedules: list[ScheduleDefinition]


def base_job(name: str) -> str:
    """Name of the job that prepares policy[0]."""
    return f"{name}_base_policy"


def generation_job(name: str) -> str:
    """Name of the job that runs one generation."""
    return f"{name}_generation"


def experiment_graph(source: ExperimentSource) -> ExperimentGraph:
    """Assets and jobs of an experiment, under the key prefix and group of its name."""
    generations = StaticPartitionsDefinition([partition_name(g) for g in range(source.experiment.generations)])
    # One more than there are generations: the last trained policy is published too.
    policies = StaticPartitionsDefinition([partition_name(g) for g in range(source.experiment.generations + 1)])
    policy = AssetSpec(
        [source.name, "policy"],
        group_name=source.name,
        partitions_def=policies,
        kinds={"huggingface"},
        owners=["team:tbrm"],
        tags={"tbrm/experiment": source.name},
        description=_POLICY_DESCRIPTION,
    )
    stages = stages_of(source.experiment)
    assets = [stage_asset(source, s, _deps(source, s, stages), generations if s.partitioned else None) for s in stages]
    evaluation = source.experiment.evaluation
    if evaluation and evaluation.pinned:
        assets.append(stage_asset(source, PINNED_SCORES, [], None))
    tags: dict[str, Any] = {"tbrm/experiment": source.name}
    once, looped = (
        AssetSelection.assets(*([source.name, s.name] for s in stages if s.partitioned is partitioned))
        for partitioned in (False, True)
    )
    return ExperimentGraph(
        [policy, *assets],
        [
            define_asset_job(
                base_job(source.name), once, description=f"Prepare policy[0] of {source.name}.", tags=tags
            ),
            define_asset_job(
                generation_job(source.name), looped, description=f"One generation of {source.name}.", tags=tags
            ),
            *([evaluation_job(source)] if evaluation else []),
        ],
        [evaluation_schedule(source)] if evaluation and evaluation.schedule else [],
    )


def broken_asset(source: BrokenSource) -> AssetSpec:
    """An experiment file that cannot be used, shown with its error where its graph would have been."""
    name = "".join(c if c.isalnum() else "_" for c in source.path.stem)
    return AssetSpec(
        ["broken_experiments", name],
        group_name="broken_experiments",
        kinds={"yaml"},
        description="**This experiment cannot be loaded.** Mend the file, then reload the definitions.\n\n"
        + fenced(source.error),
        metadata={"file": str(source.path), "error": source.error},
    )


def _deps(source: ExperimentSource, stage: Stage, stages: list[Stage]) -> list[AssetDep]:
    partitioned = {"policy": True} | {s.name: s.partitioned for s in stages}
    same = IdentityPartitionMapping()
    deps = [
        AssetDep([source.name, name], partition_mapping=same if stage.partitioned and partitioned[name] else None)
        for name in stage.after
        if name in partitioned
    ]
    names = logged_names(source.experiment)
    if stage.name in ("logged_labels", "trained_policy") and names:
        deps.append(AssetDep(AssetKey(LOGGED_KEY), partition_mapping=SpecificPartitionsPartitionMapping(names)))
    return deps
