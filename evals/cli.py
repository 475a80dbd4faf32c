"""Commands of the evaluation room: evaluate, regrade, compare, leaderboard, benchmarks, report, patterns."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import (
    experiment_argument,
    json_option,
    no_root_option,
    print_json,
    print_report,
    replace_option,
    set_option,
    store_options,
    tracked_report,
)
from pipeline.errors import TbrmError

if TYPE_CHECKING:
    from pipeline.config import Experiment
    from pipeline.run.resumable import StageReport
    from pipeline.store import Store

experiment_option = click.option(
    "--experiment",
    "-e",
    "name",
    help="Take all settings from this experiment. Default for a generation: those that made it.",
)
benchmarks_option = click.option("--benchmarks", "-b", metavar="A,B", help="Default: those of the experiment.")
source_option = click.option(
    "--source", metavar="DIR", help="Folder with one JSONL file a benchmark. Default: evaluation.source, else the hub."
)
label_option = click.option("--label", help="Read the regraded scores of this label instead of the first ones.")


@click.command()
@click.argument("policy", required=False)
@experiment_option
@click.option("--generation", "-g", type=click.IntRange(min=0), help="Which policy[g] of the experiment.")
@benchmarks_option
@source_option
@click.option("--pinned", is_flag=True, help="Every policy that the experiment lists in evaluation.pinned.")
@click.option("--template", type=click.Choice(["qwen-math", "r1", "chat", "raw"]), help="Default: the experiment's.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest response. Default: rollouts.max_tokens.")
@click.option("--max-problems", type=click.IntRange(min=1), help="The first problems of each benchmark only.")
@click.option("--engine", type=click.Choice(["auto", "transformers", "vllm"]), help="Default: rollouts.engine.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="Default: policy.dtype, else bfloat16.")
@click.option("--large-model-on-cpu", is_flag=True, help="Although it has over 200M parameters and there is no GPU.")
@set_option
@replace_option
@store_options
@json_option
def evaluate(
    policy: str | None,
    name: str | None,
    generation: int | None,
    benchmarks: str | None,
    source: str | None,
    pinned: bool,
    template: str | None,
    max_tokens: int | None,
    max_problems: int | None,
    engine: str | None,
    dtype: str | None,
    large_model_on_cpu: bool,
    overrides: Sequence[str],
    replace: bool,
    store: "Store",
    as_json: bool,
) -> "StageReport":
    """Measure POLICY, or policy[g] of an experiment, on benchmarks.

    POLICY is EXPERIMENT:GENERATION (or EXPERIMENT:latest), a Hugging Face folder, a hub id (org/name@commit),
    package:NAME, builtin:NAME, or an OpenAI-compatible server (http://host:8000/v1#model). Responses are stored, then
    graded into table `scores`; what is there already is not done again. Without --experiment a generation is measured
    by the settings that made it, any other policy by the paper's template and limits.
    """
    from evals.report.terminal import print_scores
    from evals.run.plan import Changes, changed, plan_entries, setting_of, setting_without_experiment
    from evals.run.stage import evaluate as run
    from evals.run.stage import run_pinned
    from evals.run.targets import target_of
    from evals.statistics.scores import read_scores
    from pipeline.config.experiment import check_generation

    if [policy is not None, generation is not None, pinned].count(True) != 1:
        raise click.UsageError("give one of POLICY, --experiment with --generation, --experiment with --pinned")
    if policy is None and name is None:
        raise click.UsageError("--generation and --pinned need --experiment")
    experiment = _settings(store, name, policy, overrides)
    setting = setting_of(experiment) if experiment else setting_without_experiment()
    if pinned and setting.experiment is not None:
        return print_report(run_pinned(setting.experiment, store, replace), as_json)
    if setting.experiment is not None and generation is not None:
        check_generation(setting.experiment, generation, policies=True)
        policy = f"{setting.experiment.name}:{generation}"
    setting = changed(setting, Changes(template, max_tokens, max_problems, engine, dtype, large_model_on_cpu))
    target = target_of(store, str(policy), setting.experiment.named_servers if setting.experiment else ())
    entries = plan_entries(setting, names_of(benchmarks), source)
    report = run(setting, store, target, entries, replace)
    if setting.experiment is not None and generation is not None:
        tracked_report(setting.experiment, store, report)
    if as_json:
        return print_report(report, as_json)
    what = "was already there" if report.skipped else f"{report.rows:,} responses in {report.seconds:.1f} s"
    click.echo(f"{target.dataset} policy {target.policy.policy_id}: {what}")
    print_scores(list(read_scores(store, target.dataset, target.generation).values()))
    return report


@click.command()
@click.argument("policy")
@experiment_option
@click.option("--verifier", help="Grade every response with this verifier, whatever its problem names.")
@click.option("--label", required=True, help="Name of the label version: table scores@LABEL.")
@set_option
@replace_option
@store_options
@json_option
def regrade(
    policy: str,
    name: str | None,
    verifier: str | None,
    label: str,
    overrides: Sequence[str],
    replace: bool,
    store: "Store",
    as_json: bool,
) -> "StageReport":
    """Grade the stored responses of POLICY again, beside the scores there are; nothing is generated."""
    from evals.run.grading import run_regrade
    from evals.run.targets import target_of
    from pipeline.config.rewards import RewardsConfig

    target = target_of(store, policy)
    experiment = _settings(store, name, policy, overrides)
    rewards = experiment.rewards if experiment else RewardsConfig()
    if verifier:
        rewards = RewardsConfig.model_validate(rewards.model_dump() | {"verifier": verifier})
    report = run_regrade(store, target.dataset, target.generation, rewards, label, verifier, replace)
    return print_report(report, as_json)


@click.command()
@click.argument("a")
@click.argument("b")
@label_option
@store_options
@json_option
def compare(a: str, b: str, label: str | None, store: "Store", as_json: bool) -> None:
    """Compare policies A and B on the problems that both answered: B minus A, paired, with its 95% interval."""
    from evals.report.terminal import print_comparisons
    from evals.run.targets import target_of
    from evals.statistics.compare import compare_policies

    left, right = target_of(store, a), target_of(store, b)
    pairs = [(target.dataset, target.generation) for target in (left, right)]
    found = compare_policies(store, pairs[0], pairs[1], label)
    if as_json:
        print_json([one.to_json() for one in found])
        return
    print_comparisons(a, b, found)


@click.command()
@click.option("--paper", is_flag=True, help="Print the paper's Table 1 below.")
@label_option
@store_options
@json_option
def leaderboard(paper: bool, label: str | None, store: "Store", as_json: bool) -> None:
    """List every scored policy of the store with its accuracies and their 95% intervals."""
    from evals.report.leaderboard import standings
    from evals.report.terminal import print_leaderboard

    found = standings(store, label)
    if not found:
        raise TbrmError(f"nothing is scored in {store.root} yet; run `tbrm evaluate`")
    if as_json:
        print_json([standing.to_json() for standing in found])
        return
    print_leaderboard(found, paper)


@click.command()
@source_option
@no_root_option
@json_option
def benchmarks(source: str | None, as_json: bool) -> None:
    """List the benchmarks: where they come from, rows and content hash, and whether what is there differs."""
    from evals.benchmarks.registry import list_benchmarks
    from evals.report.terminal import print_benchmarks

    found = list_benchmarks(source)
    if as_json:
        print_json([one.to_json() for one in found])
        return
    print_benchmarks(found)


@click.command()
@experiment_argument()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: EXPERIMENT.html, here.")
@set_option
@store_options
@json_option
def report(experiment: str, out: Path | None, overrides: Sequence[str], store: "Store", as_json: bool) -> None:
    """Write one self-contained HTML file about EXPERIMENT (a name or a path).

    Curves, tables with 95% intervals, off-policy diagnostics, reasoning patterns, responses of several generations side
    by side, and what is needed to make the numbers again. Nothing is fetched when it is opened.
    """
    from evals.report.page import write_report
    from pipeline.config import load_experiment

    loaded = load_experiment(experiment, overrides)
    written = str(write_report(loaded, store, out or Path(f"{loaded.name}.html")))
    print_json({"experiment": loaded.name, "file": written}) if as_json else click.echo(written)


@click.command()
@click.argument("dataset")
@click.option(
    "--examples", is_flag=True, help="Print one example of each pattern and group, with the rule that matched."
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=2_000, show_default=True, help="Responses of a generation."
)
@store_options
@json_option
def patterns(dataset: str, examples: bool, limit: int, store: "Store", as_json: bool) -> None:
    """Rates of verification, backtracking, decomposition and enumeration in DATASET's stored responses.

    DATASET is an experiment (one line a generation) or logged/NAME (by behaviour policy). The rules are in
    evals/patterns/detectors.py; docs/patterns.md says how often they are right.
    """
    from evals.patterns.rates import pattern_groups
    from evals.report.terminal import print_patterns
    from pipeline.config import load_experiment

    name = load_experiment(dataset).name if dataset.endswith((".yaml", ".yml")) else dataset
    groups = pattern_groups(store, name, limit)
    if as_json:
        print_json([group.to_json() for group in groups])
        return
    print_patterns(groups, examples)


def _settings(store: "Store", name: str | None, policy: str | None, overrides: Sequence[str]) -> "Experiment | None":
    """The experiment `name`, else the one that made the policy, with the overrides. None: no experiment is involved."""
    from evals.run.targets import experiment_of
    from pipeline.config import changed_experiment, load_experiment

    if name is not None:
        return load_experiment(name, overrides)
    found = experiment_of(store, policy or "")
    if found is None and overrides:
        raise click.UsageError("--set needs --experiment for a policy that is no generation of one")
    return changed_experiment(found, overrides) if found else None


def names_of(text: str | None) -> list[str]:
    """`a,b` as a list."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]
