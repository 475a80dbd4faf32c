"""How a generation is trained: the objective, the updates, and how the job uses the machine."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, Field, model_validator

from pipeline.config.base import Config, DecidesNothing
from pipeline.errors import did_you_mean


@dataclass(frozen=True)
class ObjectiveNeeds:
    """What an objective asks of the data, the batch and the job, and which options apply to it."""

    value: Literal["none", "first", "all"] = "none"
    """Where V_θ = logsumexp of the logits is computed: nowhere, at the first response token, at every one."""
    behavior_logprobs: bool = False
    """The log-probs of the policy that sampled the trajectory."""
    groups: bool = False
    """Several responses to one prompt (a baseline or V̂ over the prompt)."""
    pairs: bool = False
    """Two responses to one prompt meet in one term of the loss."""
    critic: Literal["returns", "soft_values"] | None = None
    """A separate trained value model, of what is still to be rewarded or of V in nats."""
    frozen_target: bool = False
    """V of θ_t, the policy at the start of the generation."""
    entropy: bool = False
    """The entropy of π_θ at every response token."""
    reference: bool = True
    """The stored reference log-probs."""
    mean_over: Literal["trajectories", "pairs", "tokens"] = "trajectories"
    """What the loss of a batch is the mean over."""
    batch_of: Literal["prompts", "trajectories"] = "prompts"
    """What `prompt_batch` counts: prompts, with all their responses, or single trajectories."""
    trajectory_residual: bool = False
    """The loss is one squared residual for each trajectory, so that `length_normalized` and `residual_clip` apply."""
    value_offset: bool = False
    """The residual holds V_θ(s_1), so that `value_offset` applies."""


OBJECTIVE_NEEDS: dict[str, ObjectiveNeeds] = {
    "tbrm": ObjectiveNeeds(value="first", trajectory_residual=True, value_offset=True),
    "brm": ObjectiveNeeds(value="all"),
    "tbrm_iterative": ObjectiveNeeds(frozen_target=True, trajectory_residual=True),
    "sql_single": ObjectiveNeeds(frozen_target=True),
    "sql_multi": ObjectiveNeeds(frozen_target=True),
    "sac_single": ObjectiveNeeds(critic="soft_values"),
    "sac_multi": ObjectiveNeeds(critic="soft_values"),
    "daa_point": ObjectiveNeeds(groups=True, trajectory_residual=True),
    "daa_pair": ObjectiveNeeds(groups=True, pairs=True, mean_over="pairs"),
    "grpo": ObjectiveNeeds(groups=True, behavior_logprobs=True),
    "ppo": ObjectiveNeeds(behavior_logprobs=True, critic="returns", entropy=True, mean_over="tokens"),
    "imitation": ObjectiveNeeds(reference=False, batch_of="trajectories"),
    "filtered_imitation": ObjectiveNeeds(value="first"),
}
"""One row for each objective. Its loss is the function in `trainer/objectives/` that is registered under the same name.

The rows stand here because configuration knows neither torch nor the trainer: so a wrong experiment is refused in a
second. Nothing else knows an objective by its name.
"""


def _known(name: str) -> str:
    if name not in OBJECTIVE_NEEDS:
        *most, last = (repr(known) for known in OBJECTIVE_NEEDS)
        raise ValueError(f"Input should be {', '.join(most)} or {last}.{did_you_mean(name, OBJECTIVE_NEEDS)}")
    return name


ObjectiveName = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": list(OBJECTIVE_NEEDS)})]


class LoraConfig(Config):
    """Train low-rank adapters instead of all weights (needs the extra `lora`); the published policy has them merged."""

    rank: int = Field(default=16, gt=0)
    """Rank of the adapters."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale: an adapter's output is multiplied by alpha / rank."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Names of the layers that get an adapter."""


class TrainingConfig(Config):
    """One training stage. The defaults of the optimization are the paper's (n = 4, 1.5B)."""

    objective: ObjectiveName = "tbrm"
    """The loss; one word changes the method."""
    beta: float = Field(default=0.002, gt=0)
    """β of the KL-regularized objective; rewards enter the loss as r/β, so β must be above 0."""

    learning_rate: float = Field(default=2.5e-6, gt=0)
    """Peak AdamW learning rate of the policy."""
    warmup_updates: int = Field(default=0, ge=0)
    """Updates over which the learning rate rises linearly."""
    learning_rate_decay: Literal["none", "linear"] = "none"
    """`none` keeps the peak; `linear` falls to 0 over the updates of each generation."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW weight decay."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """AdamW decay rates of the two moments."""
    adam_eps: float = Field(default=1e-8, gt=0)
    """AdamW ε: added to the root of the second moment before it divides."""
    grad_clip: float = Field(default=1.0, ge=0)
    """Largest global gradient norm; 0 switches clipping off."""
    optimizer_state: Literal["carry", "fresh"] = "carry"
    """`carry` continues the previous generation's AdamW moments and warm-up, as one long run would (what one update
    a generation needs); `fresh` starts them anew in every generation. A critic, and the fp32 master weights of a
    bfloat16 policy, go on in either case."""
    prompt_batch: int = Field(default=128, gt=0)
    """Prompts of one update; all their stored responses are in it."""
    updates_per_generation: int = Field(default=1, gt=0)
    """Updates of one training stage. The mix is reshuffled and repeated as often as this needs."""

    critic_learning_rate: float = Field(default=1e-5, gt=0)
    """AdamW learning rate of the value model (`ppo`, `sac_*`)."""
    clip_ratio: float = Field(default=0.2, gt=0, lt=1)
    """Clip range of the probability ratio (`grpo`, `ppo`)."""
    dual_clip: float | None = Field(default=3.0, gt=1)
    """Where the advantage A is negative, the gain of a token is at least this times A (`grpo`, `ppo`): the first clip
    leaves it unbounded there. None: unbounded."""
    old_logprobs: Literal["recomputed", "behaviour"] = "recomputed"
    """What the ratio of `grpo` and `ppo` divides by: the policy's log-probs at the start of the generation,
    `recomputed` by the trainer in one more forward pass, or those that the sampling engine stored. The engine's differ
    in precision and kernels even for the same weights."""
    importance_cap: float | None = Field(default=2.0, gt=0)
    """With recomputed log-probs, each token's gain in `grpo` and `ppo` is weighted by min(π_old/π_sampler, this)
    (truncated importance sampling). None: no weight."""
    kl_coefficient: float = Field(default=0.001, ge=0)
    """Weight of the KL to the reference: a loss term in `grpo` (k3), part of the reward in `ppo`."""
    entropy_coefficient: float = Field(default=0.001, ge=0)
    """Weight of the entropy bonus (`ppo`)."""
    gae_lambda: float = Field(default=1.0, ge=0, le=1)
    """λ of generalized advantage estimation (`ppo`)."""

    value_offset: Literal["none", "reference"] = "none"
    """`reference` subtracts the stored V_ref(s_1) from V_θ(s_1): training starts from a soft value of 0 instead of
    about 30, so a policy that is rarely right does not unlearn first. It changes where V ends, not where π does."""
    length_normalized: bool = False
    """Divide the residual by the response length. Long responses then weigh less; no longer Eq. 4."""
    drop_truncated: bool = False
    """Do not train on responses cut at the length limit: their reward says nothing about the answer they would have
    given. It still counts in the statistics of their prompt (`grpo`'s baseline, V̂ of `daa_point`)."""
    residual_clip: float | None = Field(default=None, gt=0)
    """Beyond ±this residual the loss grows linearly instead of quadratically (Huber). None: Eq. 4 as printed."""
    temperature: float = Field(default=1.0, gt=0)
    """Logits are divided by this before log π and V (the paper's footnote 1), in training and in the reference's
    scores alike. Use the sampling temperature or 1. Objectives with behaviour log-probs, which engines store at 1, need
    1."""

    micro_batch_tokens: DecidesNothing[int] = Field(default=16_384, gt=0)
    """Tokens of one packed forward and backward pass of one process. Lower it when the GPU runs out of memory."""
    head_chunk_tokens: DecidesNothing[int] = Field(default=1_024, gt=0)
    """Response tokens whose logits exist at one time. Lower it when the vocabulary is large and memory short."""
    activation_checkpointing: DecidesNothing[bool] = False
    """Recompute layer activations in the backward pass: about a third more time for much less memory."""
    zero_stage: DecidesNothing[Literal[0, 1, 2, 3]] = 1
    """What DeepSpeed splits between processes: 1 optimizer state, 2 gradients too, 3 weights too. 0 is for float32
    policies: DeepSpeed keeps no fp32 master weights then."""
    offload: DecidesNothing[Literal["none", "optimizer", "all"]] = "none"
    """Keep the optimizer state (`optimizer`), or the weights too (`all`, ZeRO 3 only), in CPU memory."""
    processes: DecidesNothing[int] = Field(default=1, gt=0)
    """Processes on each machine, one for each GPU."""
    sequence_parallel: DecidesNothing[int] = Field(default=1, gt=0)
    """Processes that share the tokens of one pack (DeepSpeed-Ulysses), for responses that do not fit one GPU. It must
    divide the processes and the model's heads; where the model has fewer key-value heads, it must be a multiple of
    them. Not for objectives with a critic."""
    machines: DecidesNothing[int] = Field(default=1, gt=0)
    """Machines that train together, `processes` on each, with one torchrun agent a machine. They share the file system
    of the store, or of this user's cache of an object store."""
    machines_by: DecidesNothing[Literal["slurm", "ray"]] = "slurm"
    """Who starts the agents: `srun` on the nodes of the stage's Slurm job, or the Ray cluster that this machine is part
    of (extra `ray`)."""
    lora: LoraConfig | None = None
    """Train low-rank adapters only, in the warm start too. None: all weights."""

    checkpoint_every: DecidesNothing[int] = Field(default=50, gt=0)
    """Updates between checkpoints; a killed job repeats at most this many."""
    keep_checkpoints: DecidesNothing[int] = Field(default=2, gt=0)
    """Newest checkpoints kept while the job runs."""
    stop_grace_s: DecidesNothing[float] = Field(default=300.0, gt=0)
    """Seconds that a training which is stopped from outside gets to end its update and save a checkpoint, before it is
    killed. That of a bfloat16 model has 14 bytes a parameter: 22 GB of 1.5B, written once and read for its hash."""
    collective_timeout_s: DecidesNothing[float] = Field(default=3_600.0, gt=0)
    """Seconds that processes wait for each other before they count as lost: rank 0 hashes a checkpoint meanwhile."""
    max_residual: DecidesNothing[float] = Field(default=1e6, gt=0)
    """Divergence guard: a batch whose mean absolute residual is above this, or not a number, stops the job."""
    diagnostics_sample: DecidesNothing[int] = Field(default=128, ge=0)
    """Trajectories of each source and generation lag, drawn by the seed, that are scored once before the first update
    for the off-policy diagnostics. 0: none are made."""
    control_every: DecidesNothing[int] = Field(default=8, ge=0)
    """Updates from one measurement of `control_cosine` to the next: the cosine of the update's gradient with that of
    `filtered_imitation` on the same responses. Near 1 the objective does no more than clone rewarded responses. It
    needs memory for two more gradients; 0: never. Not measured at `zero_stage: 3` or with `sequence_parallel`."""
    control_sample: DecidesNothing[int] = Field(default=32, gt=0)
    """Trajectories of the batch that `control_cosine` is measured on."""

    @property
    def needs(self) -> ObjectiveNeeds:
        """What the objective asks for."""
        return OBJECTIVE_NEEDS[self.objective]

    @property
    def looks_back(self) -> bool:
        """Whether the objective needs the scores of θ_t, the policy at the start of the generation: V or log-probs."""
        return self.needs.frozen_target or (self.needs.behavior_logprobs and self.old_logprobs == "recomputed")

    @model_validator(mode="before")
    @classmethod
    def _without_monitor(cls, tree: object) -> object:
        """Stores that an earlier version wrote keep a field `monitor`, which said nothing where all of it was off."""
        if isinstance(tree, dict) and "monitor" in tree:
            given = dict(cast(dict[str, Any], tree))
            if not any((given.pop("monitor") or {}).values()):
                return given
        return tree

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.offload == "all" and self.zero_stage != 3:
            raise ValueError(f"offload: all moves split weights to the CPU: set zero_stage: 3, not {self.zero_stage}")
        if self.offload == "optimizer" and self.zero_stage == 0:
            raise ValueError("offload: optimizer needs zero_stage 1, 2 or 3")
        if self.sequence_parallel > 1 and self.needs.critic:
            raise ValueError(f"sequence_parallel: the critic of {self.objective} cannot be shared yet; set it to 1")
        together = self.processes * self.machines
        if together % self.sequence_parallel:
            raise ValueError(f"sequence_parallel: {self.sequence_parallel} does not divide processes: {together}")
        if any(not 0 <= b < 1 for b in self.adam_betas):
            raise ValueError(f"adam_betas must lie in [0, 1), got {self.adam_betas}")
        if not self.needs.trajectory_residual and (self.length_normalized or self.residual_clip is not None):
            having = sorted(name for name, needs in OBJECTIVE_NEEDS.items() if needs.trajectory_residual)
            raise ValueError(
                f"length_normalized and residual_clip act on one residual per trajectory, which {self.objective} does "
                f"not have; objectives that do: {', '.join(having)}"
            )
        if self.temperature != 1.0 and self.needs.behavior_logprobs:
            raise ValueError(
                f"{self.objective} divides by behaviour log-probs, which are stored at temperature 1: temperature must "
                f"be 1, not {self.temperature:g}"
            )
        if self.value_offset == "reference" and not self.needs.value_offset:
            having = ", ".join(name for name, needs in OBJECTIVE_NEEDS.items() if needs.value_offset)
            raise ValueError(
                f"value_offset: reference shifts V_θ(s_1) of {having}; {self.objective} trains no such value"
            )
        return self
