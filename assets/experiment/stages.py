"""The stages of an experiment, one row each, and the loop: which of them run in which generation.

A stage is a function of (experiment, store, generation) that commits its result in the store. Dagster's graph shows the
rows as assets and runs each stage's command in a process of its own; a study calls the functions. Nothing here imports
Dagster.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from assets.experiment.checks import (
    Check,
    aligned_with,
    effective_samples,
    engine_agreement,
    logged_prompts,
    logprob_agreement,
    made_progress,
    no_collapse,
    no_contamination,
    no_regression,
    own_prompts,
    verdict_rates,
)
from assets.experiment.headlines import (
    Headlines,
    no_headlines,
    reference_headlines,
    rewards_headlines,
    rollouts_headlines,
    scores_headlines,
    training_headlines,
)
from assets.experiment.pages import Page, empty_page, rewards_page, rollouts_page, scores_page, training_page
from evals.run.stage import is_evaluated, pinned_are_scored, run_evaluate, run_pinned
from pipeline.config import Experiment, stage_hash
from pipeline.logged.labels import missing_labels, run_logged_labels
from pipeline.policies.refs import POLICY_JSON, pointer_path, published
from pipeline.reference import DECIDES as REF_LOGPROBS_SETTINGS
from pipeline.reference import run_ref_logprobs
from pipeline.rewards.stage import DECIDES as REWARDS_SETTINGS
from pipeline.rewards.stage import run_rewards
from pipeline.run.configurations import settings_at
from pipeline.run.resumable import StageReport
from pipeline.sampling.rollouts import DECIDES as ROLLOUTS_SETTINGS
from pipeline.sampling.rollouts import run_rollouts
from pipeline.store import Store
from trainer.stages.base_policy import run_base_policy
from trainer.stages.policy_folder import DECIDES as TRAINING_SETTINGS

GPU_POOL = "gpu"
_SCORES_SETTINGS = (
    *("evaluation.benchmarks", "evaluation.protocols", "evaluation.source", "prompts.template", "seed"),
    *("rollouts.max_tokens", "rollouts.stop", *REWARDS_SETTINGS),
)


@dataclass(frozen=True)
class Stage:
    """One asset that one `tbrm` command makes.

    A stage that is not `partitioned` exists once, before the first generation. `offset` is added to the generation of
    the asset to get that of the stage: the scores of policy[g+1] belong to trained_policy[g].
    """

    name: str
    """Name of the asset."""
    command: str
    """Name of the `tbrm` command that runs it."""
    function: Callable[[Experiment, Store, int], StageReport]
    """What the command calls, with the generation of the stage."""
    after: tuple[str, ...]
    """Names of the assets of the same experiment that it reads."""
    kinds: frozenset[str]
    description: str
    further: Callable[[Experiment], str] = lambda _experiment: ""
    """What the description adds about this experiment, in Markdown."""
    table: str | None = None
    """The table whose partition the stage commits; None: it writes something else, such as a policy's folder."""
    finished: Callable[[Store, Experiment, int], bool] | None = None
    """Whether the result for a generation of the stage is committed; None: where the partition of its table is."""
    checks: Mapping[str, Check] = field(default_factory=dict[str, Check])
    headlines: Headlines = no_headlines
    """The numbers that the page of the asset shows first, and that Dagster plots."""
    page: Callable[[Store, str, int], Page] = empty_page
    """What the page of the asset shows of the experiment with this name, at a generation of the stage."""
    pool: str | None = GPU_POOL
    partitioned: bool = True
    offset: int = 0
    options: tuple[str, ...] | None = None
    """Options of the command in place of `--generation`; None: it gets the generation."""
    reads_logged: bool = False
    """Whether it reads the logged data sets in `replay.logged`."""
    publishes: int | None = None
    """The stage publishes policy[generation + publishes]; None: it publishes no policy."""
    decides: tuple[str, ...] = ()
    """Dotted paths of the settings that decide the result."""
    form: tuple[str, ...] = ()
    """Those of them that a run's form shows by name: the ones that are changed most."""
    trains: Callable[[Experiment], bool] = lambda _experiment: False
    """Whether it is a training: with `training.processes` processes, and time to save a checkpoint when it is ended."""
    is_due: Callable[[Experiment, int], bool] = lambda _experiment, _generation: True
    """Whether the loop runs it in a generation. For a stage that exists once: in an experiment that starts there."""

    def run(self, experiment: Experiment, store: Store, generation: int) -> StageReport:
        """Run the stage in this process, for a generation of the asset."""
        return self.function(experiment, store, generation + self.offset)

    def is_finished(self, store: Store, experiment: Experiment, generation: int) -> bool:
        """Whether the result for a generation of the asset is committed in the store, whoever made it."""
        generation += self.offset
        if self.finished is not None:
            return self.finished(store, experiment, generation)
        assert self.table is not None
        return store.partition(experiment.name, self.table, generation).is_committed()

    def settings_hash(self, experiment: Experiment) -> str:
        """Names the settings that decide the result, as far as they are not the defaults: a new field changes nothing.

        Dagster shows a result as out of date where the settings of its definition are others now.
        """
        return stage_hash(settings_at(experiment.model_dump(mode="json", exclude_defaults=True), self.decides))

    def data_version(self, store: Store, name: str, generation: int) -> str | None:
        """Names the content of the result for a generation of the asset: a hash of its manifest, or a policy's id.

        None where nothing names it.
        """
        if self.table is not None:
            return store.partition(name, self.table, generation + self.offset).manifest().hash
        if self.publishes is None or not store.fs.exists(pointer_path(store, name, generation + self.publishes)):
            return None
        return str(published(store, name, generation + self.publishes)["policy_id"])

    def arguments(self, generation: int) -> list[str]:
        """Options of the command for a generation of the asset."""
        return ["--generation", str(generation + self.offset)] if self.options is None else list(self.options)

    def describe(self, experiment: Experiment) -> str:
        """Description of the asset in Markdown, a paragraph a line."""
        paragraphs = (paragraph.replace("\n", " ") for paragraph in self.description.split("\n\n"))
        return "\n\n".join(paragraphs) + self.further(experiment)


def _is_measured(store: Store, experiment: Experiment, generation: int) -> bool:
    return is_evaluated(experiment, store, generation)


def _base_is_published(store: Store, experiment: Experiment, _generation: int) -> bool:
    return store.fs.exists(pointer_path(store, experiment.name, 0))


def _logged_is_labelled(store: Store, experiment: Experiment, generation: int) -> bool:
    # The base policy is the reference, and its warm start writes a logged data set.
    return _base_is_published(store, experiment, generation) and not any(missing_labels(experiment, store))


def _is_trained(store: Store, experiment: Experiment, generation: int) -> bool:
    return store.fs.exists(store.join(experiment.name, "trained_policy", f"generation={generation:04d}", POLICY_JSON))


def _train(experiment: Experiment, store: Store, generation: int) -> StageReport:
    from trainer.stages.train import run_train  # torch

    return run_train(experiment, store, generation)


def _objective(experiment: Experiment) -> str:
    return f"\n\nObjective here: `{experiment.training.objective}`, β = {experiment.training.beta}."


def _every(experiment: Experiment, generation: int) -> bool:
    """Benchmarks are run every `evaluation.every` generations, and after the last."""
    every = experiment.evaluation.every if experiment.evaluation else 1
    return (generation + 1) % every == 0 or generation + 1 == experiment.generations


BASE_POLICY = Stage(
    name="base_policy",
    decides=("policy", "seed"),
    command="base-policy",
    function=lambda experiment, store, _generation: run_base_policy(experiment, store),
    finished=_base_is_published,
    options=(),
    publishes=0,
    trains=lambda experiment: experiment.policy.warm_start is not None,
    after=(),
    kinds=frozenset({"huggingface", "pytorch"}),
    partitioned=False,
    description="""The model everything starts from: the base weights as a Hugging Face folder, warm-started by
imitation of logged trajectories where the experiment says so. Published as `policy[0]`; the reference π_ref unless
another is named.""",
)
BASE_SCORES = Stage(
    name="base_scores",
    decides=_SCORES_SETTINGS,
    form=("evaluation.benchmarks",),
    command="evaluate",
    function=run_evaluate,
    finished=_is_measured,
    is_due=lambda _experiment, generation: generation == 0,
    headlines=scores_headlines,
    page=scores_page,
    after=("base_policy",),
    kinds=frozenset({"parquet"}),
    table="scores",
    partitioned=False,
    description="Benchmark scores of `policy[0]`: what every later generation is compared with.",
)
LOGGED_LABELS = Stage(
    name="logged_labels",
    decides=(*REWARDS_SETTINGS, *REF_LOGPROBS_SETTINGS),
    command="logged-labels",
    function=lambda experiment, store, _generation: run_logged_labels(experiment, store),
    finished=_logged_is_labelled,
    options=(),
    reads_logged=True,
    after=("base_policy",),
    kinds=frozenset({"pytorch", "parquet"}),
    partitioned=False,
    description="""Rewards and log π_ref of the logged data sets in `replay.logged`, written beside them as far as they
are missing. A data set serves several experiments: its `ref_logprobs` are kept by reference policy.""",
)
ROLLOUTS = Stage(
    name="rollouts",
    decides=ROLLOUTS_SETTINGS,
    command="rollouts",
    function=run_rollouts,
    headlines=rollouts_headlines,
    page=rollouts_page,
    checks={
        "no_collapse": no_collapse,
        "no_contamination": no_contamination(own_prompts),
        "engine_agreement": engine_agreement,
    },
    after=("base_policy", "policy"),
    kinds=frozenset({"pytorch", "parquet"}),
    table="rollouts",
    description="""Trajectories τ = (prompt x, response a_1..a_H) sampled from `policy[g]`, as token ids. Kept for
ever: later generations may train on them again (`replay.window`).""",
)
REWARDS = Stage(
    name="rewards",
    decides=REWARDS_SETTINGS,
    form=("rewards.verifier",),
    command="rewards",
    function=run_rewards,
    headlines=rewards_headlines,
    page=rewards_page,
    checks={"aligned_with_rollouts": aligned_with("rewards"), "verdict_rates": verdict_rates},
    after=("rollouts",),
    kinds=frozenset({"parquet"}),
    table="rewards",
    pool=None,
    description="""Outcome reward r(τ) of each trajectory by the verifier, row-aligned with `rollouts`. Materialize
it again with `overrides: ["rewards.verifier=…"]` and `replace` to re-label; trajectories stay untouched.""",
)
REF_LOGPROBS = Stage(
    name="ref_logprobs",
    decides=REF_LOGPROBS_SETTINGS,
    command="ref-logprobs",
    function=run_ref_logprobs,
    headlines=reference_headlines,
    checks={"aligned_with_rollouts": aligned_with("ref_logprobs"), "logprob_agreement": logprob_agreement},
    after=("base_policy", "rollouts"),
    kinds=frozenset({"pytorch", "parquet"}),
    table="ref_logprobs",
    description="""log π_ref(a_h | s_h) of each response token and V_ref(s_1), row-aligned with `rollouts`; scored by
the trainer's own code, so that at θ = θ_ref the sum Σ_h (log π_θ - log π_ref) is 0.""",
)
TRAINED_POLICY = Stage(
    name="trained_policy",
    decides=TRAINING_SETTINGS,
    form=("training.objective", "training.beta", "training.learning_rate"),
    command="train",
    function=_train,
    finished=_is_trained,
    further=_objective,
    reads_logged=True,
    publishes=1,
    trains=lambda _experiment: True,
    headlines=training_headlines,
    page=training_page,
    checks={
        "made_progress": made_progress,
        "effective_samples": effective_samples,
        "no_contamination": no_contamination(logged_prompts),
    },
    after=("base_policy", "policy", "logged_labels", "rewards", "ref_logprobs"),
    kinds=frozenset({"deepspeed", "pytorch"}),
    description="""`policy[g]` trained on the replay mix by DeepSpeed. With the objective `tbrm` (Eq. 4) each
trajectory adds

( V_θ(s_1) + Σ_h (log π_θ(a_h|s_h) - log π_ref(a_h|s_h)) - r(τ)/β )²

to the loss, where logits are Q-values and V_θ = log Σ_a exp Q_θ. It is published as `policy[g+1]`.""",
)
BENCHMARK_SCORES = Stage(
    name="benchmark_scores",
    decides=_SCORES_SETTINGS,
    form=("evaluation.benchmarks",),
    command="evaluate",
    function=run_evaluate,
    finished=_is_measured,
    is_due=_every,
    headlines=scores_headlines,
    page=scores_page,
    checks={"no_regression": no_regression},
    after=("trained_policy",),
    kinds=frozenset({"parquet"}),
    table="scores",
    offset=1,
    description="Graded benchmark responses of `trained_policy[g]`: of `policy[g+1]` (stored under generation g+1).",
)
PINNED_SCORES = Stage(
    name="pinned_scores",
    decides=_SCORES_SETTINGS,
    command="evaluate",
    function=lambda experiment, store, _generation: run_pinned(experiment, store),
    finished=lambda store, experiment, _generation: pinned_are_scored(experiment, store),
    headlines=scores_headlines,
    after=(),
    kinds=frozenset({"parquet"}),
    partitioned=False,
    options=("--pinned",),
    description="""Benchmark scores of the policies in `evaluation.pinned`, by this experiment's protocols: what the
generations are compared with from outside. Made by the schedule or by hand, not by the loop.""",
)


def stages_of(experiment: Experiment) -> list[Stage]:
    """The stages of this experiment, in order. Pure offline experiments sample nothing; some are not evaluated."""
    base = [BASE_POLICY, BASE_SCORES] if experiment.evaluation else [BASE_POLICY]
    base += [LOGGED_LABELS] if experiment.replay.logged else []
    sampling = [ROLLOUTS, REWARDS, REF_LOGPROBS] if experiment.rollouts else []
    scoring = [BENCHMARK_SCORES] if experiment.evaluation else []
    return [*base, *sampling, TRAINED_POLICY, *scoring]


def due_stages(experiment: Experiment, generation: int) -> list[Stage]:
    """The stages that the loop runs in a generation, in order."""
    return [stage for stage in stages_of(experiment) if stage.partitioned and stage.is_due(experiment, generation)]


def loop(experiment: Experiment, first: int = 0) -> Iterator[tuple[int | None, list[Stage]]]:
    """The whole loop: (None, the stages that exist once), then (generation, the stages due in it) from `first` on."""
    yield None, [stage for stage in stages_of(experiment) if not stage.partitioned and stage.is_due(experiment, first)]
    for generation in range(first, experiment.generations):
        yield generation, due_stages(experiment, generation)
