"""The stages of an experiment as the graph shows them: one row each, in the order of the loop."""

from dataclasses import dataclass

from evals.run.pinned import pinned_are_scored
from evals.statistics.scores import is_measured
from pipeline.config import Experiment
from pipeline.logged.labels import missing_labels
from pipeline.policies.refs import POLICY_JSON, pointer_path
from pipeline.store import Store

GPU_POOL = "gpu"


@dataclass(frozen=True)
class Stage:
    """One asset that one `tbrm` command makes.

    `after` names assets of the same experiment; `table` is the table whose partition the stage commits (None: a
    policy folder); `offset` is added to the asset's generation to get the command's (scores of policy[g+1] belong to
    trained_policy[g]); `partitioned` is False for what exists once, before the first generation.
    """

    name: str
    command: str
    after: tuple[str, ...]
    kinds: frozenset[str]
    table: str | None
    description: str
    checks: tuple[str, ...] = ()
    pool: str | None = GPU_POOL
    offset: int = 0
    partitioned: bool = True
    options: tuple[str, ...] | None = None
    """Options of the command in place of `--generation`; None: it gets the generation."""


BASE_POLICY = Stage(
    name="base_policy",
    command="base-policy",
    after=(),
    kinds=frozenset({"huggingface", "pytorch"}),
    table=None,
    partitioned=False,
    description="""The model everything starts from: the base weights as a Hugging Face folder, warm-started by
imitation of logged trajectories where the experiment says so. Published as `policy[0]`; the reference π_ref unless
another is named.""",
)
BASE_SCORES = Stage(
    name="base_scores",
    command="evaluate",
    after=("base_policy",),
    kinds=frozenset({"parquet"}),
    table="scores",
    partitioned=False,
    description="Benchmark scores of `policy[0]`: what every later generation is compared with.",
)
LOGGED_LABELS = Stage(
    name="logged_labels",
    command="logged-labels",
    after=("base_policy",),
    kinds=frozenset({"pytorch", "parquet"}),
    table=None,
    partitioned=False,
    description="""Rewards and log π_ref of the logged data sets in `replay.logged`, written beside them as far as they
are missing. A data set serves several experiments: its `ref_logprobs` are kept by reference policy.""",
)
ROLLOUTS = Stage(
    name="rollouts",
    command="rollouts",
    after=("base_policy", "policy"),
    kinds=frozenset({"pytorch", "parquet"}),
    table="rollouts",
    checks=("no_collapse", "no_contamination", "engine_agreement"),
    description="""Trajectories τ = (prompt x, response a_1..a_H) sampled from `policy[g]`, as token ids. Kept for
ever: later generations may train on them again (`replay.window`).""",
)
REWARDS = Stage(
    name="rewards",
    command="rewards",
    after=("rollouts",),
    kinds=frozenset({"parquet"}),
    table="rewards",
    checks=("aligned_with_rollouts", "verdict_rates"),
    pool=None,
    description="""Outcome reward r(τ) of each trajectory by the verifier, row-aligned with `rollouts`. Materialize
it again with `overrides: ["rewards.verifier=…"]` and `replace` to re-label; trajectories stay untouched.""",
)
REF_LOGPROBS = Stage(
    name="ref_logprobs",
    command="ref-logprobs",
    after=("base_policy", "rollouts"),
    kinds=frozenset({"pytorch", "parquet"}),
    table="ref_logprobs",
    checks=("aligned_with_rollouts", "logprob_agreement"),
    description="""log π_ref(a_h | s_h) of each response token and V_ref(s_1), row-aligned with `rollouts`; scored by
the trainer's own code, so that at θ = θ_ref the sum Σ_h (log π_θ - log π_ref) is 0.""",
)
TRAINED_POLICY = Stage(
    name="trained_policy",
    command="train",
    after=("base_policy", "policy", "logged_labels", "rewards", "ref_logprobs"),
    kinds=frozenset({"deepspeed", "pytorch"}),
    table=None,
    checks=("made_progress", "effective_samples", "no_contamination"),
    description="""`policy[g]` trained on the replay mix by DeepSpeed. With the objective `tbrm` (Eq. 4) each
trajectory adds

( V_θ(s_1) + Σ_h (log π_θ(a_h|s_h) - log π_ref(a_h|s_h)) - r(τ)/β )²

to the loss, where logits are Q-values and V_θ = log Σ_a exp Q_θ. It is published as `policy[g+1]`.""",
)
BENCHMARK_SCORES = Stage(
    name="benchmark_scores",
    command="evaluate",
    after=("trained_policy",),
    kinds=frozenset({"parquet"}),
    table="scores",
    offset=1,
    checks=("no_regression",),
    description="Graded benchmark responses of `trained_policy[g]`: of `policy[g+1]` (stored under generation g+1).",
)
PINNED_SCORES = Stage(
    name="pinned_scores",
    command="evaluate",
    after=(),
    kinds=frozenset({"parquet"}),
    table=None,
    partitioned=False,
    options=("--pinned",),
    description="""Benchmark scores of the policies in `evaluation.pinned`, by this experiment's protocols: what the
generations are compared with from outside. Made by the schedule or by hand, not by the loop.""",
)


def stages_of(experiment: Experiment) -> list[Stage]:
    """The stages this experiment has. Pure offline experiments sample nothing; some are not evaluated."""
    base = [BASE_POLICY, BASE_SCORES] if experiment.evaluation else [BASE_POLICY]
    base += [LOGGED_LABELS] if experiment.replay.logged else []
    sampling = [ROLLOUTS, REWARDS, REF_LOGPROBS] if experiment.rollouts else []
    scoring = [BENCHMARK_SCORES] if experiment.evaluation else []
    return [*base, *sampling, TRAINED_POLICY, *scoring]


def is_finished(stage: Stage, store: Store, experiment: Experiment, generation: int) -> bool:
    """Whether the stage's result is committed in the store, whoever made it."""
    if stage is BASE_POLICY:
        return store.fs.exists(pointer_path(store, experiment.name, 0))
    if stage is LOGGED_LABELS:
        if not is_finished(BASE_POLICY, store, experiment, 0):  # the reference, and what the warm start logs
            return False
        return not any(missing_labels(experiment, store))
    if stage is PINNED_SCORES:
        return pinned_are_scored(experiment, store)
    if stage.table is None:
        return store.fs.exists(f"{trained_folder(store, experiment, generation)}/{POLICY_JSON}")
    if stage.table == "scores":
        return is_measured(store, experiment.name, generation + stage.offset)
    return store.partition(experiment.name, stage.table, generation + stage.offset).is_committed()


def trained_folder(store: Store, experiment: Experiment, generation: int) -> str:
    """Hugging Face folder of trained_policy[g]."""
    return store.join(experiment.name, "trained_policy", f"generation={generation:04d}")


def looped_stages(experiment: Experiment) -> list[Stage]:
    """The stages of every generation, in order."""
    return [stage for stage in stages_of(experiment) if stage.partitioned]


def is_evaluated(stage: Stage, experiment: Experiment, generation: int) -> bool:
    """False for the benchmark stage of a generation that `evaluation.every` leaves out; the last never is."""
    if stage is not BENCHMARK_SCORES or experiment.evaluation is None:
        return True
    return (generation + 1) % experiment.evaluation.every == 0 or generation + 1 == experiment.generations
