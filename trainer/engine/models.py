"""The models of a job: the policy, and a critic where the objective needs one, each in its own DeepSpeed engine."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.config.training import LoraConfig, TrainingConfig
from pipeline.errors import TbrmError, needing
from pipeline.policies.load_save import load_model
from pipeline.scoring.backbone import Share, hidden_states
from pipeline.scoring.batch import PackedBatch, Scores, ValueAt
from pipeline.scoring.scoring import check_scorable, score
from trainer.engine.checkpoint import CRITIC, POLICY, Checkpoint, trained_parts
from trainer.engine.deepspeed import (
    World,
    deepspeed_config,
    forget_moments,
    load_engine,
    save_engine,
    to_universal,
    wrap,
)
from trainer.job import TrainJob

PREFIX = "model."
"""Prefix of the policy's parameter names inside its wrapper."""


class PolicyModule(torch.nn.Module):
    """A causal language model whose forward pass scores the responses of a packed batch."""

    def __init__(self, model: Any, training: TrainingConfig) -> None:
        super().__init__()
        self.model = model
        self.training_config = training

    def forward(
        self, batch: PackedBatch, value: ValueAt, share: Share | None = None
    ) -> tuple[torch.Tensor | None, ...]:
        """The fields of `Scores` as a tuple: DeepSpeed looks for tensors in tuples, not in dataclasses."""
        options = self.training_config
        scores = score(
            self.model,
            batch,
            value=value,
            entropy=options.needs.entropy,
            temperature=options.temperature,
            chunk_tokens=options.head_chunk_tokens,
            share=share,
        )
        return tuple(getattr(scores, f.name) for f in dataclasses.fields(Scores))


class CriticModule(torch.nn.Module):
    """V_φ: a copy of the policy's backbone with one output, at the state before each response token.

    A critic of returns (`ppo`) gives rewards as they are. A critic of soft values (`sac_*`) stands in place of V_θ and
    has to reach r/β, which is hundreds of nats. A head would need too many steps to learn numbers of that size, so its
    output, of the size of a reward, is divided by β.
    """

    def __init__(self, model: Any, training: TrainingConfig) -> None:
        super().__init__()
        self.backbone = model.get_decoder()
        self.head = torch.nn.Linear(model.config.hidden_size, 1, dtype=model.dtype)
        self.unit = training.beta if training.needs.critic == "soft_values" else 1.0
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        """[R] values in fp32 (fp64 for an fp64 model), R the response tokens of the batch."""
        hidden = hidden_states(self.backbone, batch)[batch.predict]
        wide = torch.promote_types(hidden.dtype, torch.float32)  # one bf16 step at 0.5 is 1 nat at β = 0.002
        value = torch.nn.functional.linear(hidden.to(wide), self.head.weight.to(wide), self.head.bias.to(wide))
        return value.squeeze(-1) / self.unit


@dataclass(frozen=True)
class Models:
    """DeepSpeed engines."""

    policy: Any
    critic: Any | None


def build_models(job: TrainJob, world: World, resume: Checkpoint | None) -> Models:
    """Engines with the weights of `job.start`, ready for `load_models`.

    A checkpoint of another number of processes or ZeRO stage is converted first, by rank 0. Raises TbrmError for one
    that cannot be (to or from stage 0; in bf16, stage 3), and for settings in which DeepSpeed would train without
    master weights.
    """
    training = job.training
    if training.zero_stage == 0 and job.model.dtype != "float32":
        raise TbrmError(
            f"training.zero_stage: 0 keeps no fp32 master weights of a {job.model.dtype} policy, and small updates "
            "would be rounded away: set it to 1, which costs nothing on one process"
        )
    universal = resume is not None and _other_shape(resume, world, training.zero_stage)
    if universal and resume is not None:
        if 0 in (resume.zero_stage, training.zero_stage):
            raise TbrmError(
                f"{resume.path} was written with training.zero_stage: {resume.zero_stage}, now {training.zero_stage}: "
                "stage 0 and the others cannot read each other's optimizer state. Set the stage as it was, or, without "
                "a critic, training.optimizer_state: fresh for the next generation"
            )
        stages = {resume.zero_stage, training.zero_stage}
        if job.model.dtype != "float32" and len(stages) == 2 and 3 in stages:
            raise TbrmError(
                f"{resume.path} was written with training.zero_stage: {resume.zero_stage}, now {training.zero_stage}: "
                f"DeepSpeed keeps the master weights of a {job.model.dtype} policy in other files under stage 3, and "
                "cannot convert them. Set the stage as it was"
            )
        if world.leader:
            for tag in (POLICY, CRITIC) if training.needs.critic and CRITIC in resume.parts else (POLICY,):
                to_universal(resume.path, tag)
        torch.distributed.barrier()

    def engine(module_of: Callable[[Any], torch.nn.Module], learning_rate: float) -> Any:
        config = deepspeed_config(training, learning_rate, getattr(torch, job.model.dtype), universal)
        model = without_dropout(load_model(str(job.start), job.model).train())
        if training.activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if training.lora is not None:
            _add_adapters(model, training.lora)
        module = module_of(model)
        if training.zero_stage == 3 and isinstance(module, PolicyModule):
            _share_head(module)
        return wrap(module, config)

    policy = engine(lambda model: PolicyModule(model, training), training.learning_rate)
    if training.zero_stage < 3:  # under ZeRO 3 no process holds a model that could run alone
        check_scorable(policy.module.model)
    value = None
    if training.needs.critic:
        value = engine(lambda model: CriticModule(model, training), training.critic_learning_rate)
    return Models(policy, value)


def without_dropout(model: Any) -> Any:
    """The model with all dropout off, in place; its configuration is left as it is.

    The reference was scored without dropout, and the model's logits are the Q-function: with it, log-ratios and V would
    be random, those of θ_t too. `eval` is no way, because activation checkpointing needs a model that is training.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):  # what attention functions are given
                setattr(module, name, 0.0)
    return model


def _add_adapters(model: Any, config: LoraConfig) -> None:
    """Give `model` adapters that start at zero, and freeze everything else. Raises TbrmError without peft."""
    with needing("lora", "training.lora"):
        import peft
    targets = config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
    settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets, task_type="CAUSAL_LM")  # pyright: ignore[reportArgumentType]
    try:
        peft.inject_adapter_in_model(settings, model)
    except ValueError as error:
        raise TbrmError(f"training.lora.target_modules: {error}") from error


def save_models(models: Models, folder: Path) -> None:
    """All ranks: both engines, and this rank's random state, into a checkpoint's folder."""
    from safetensors.torch import save_file

    save_engine(models.policy, folder, POLICY)
    if models.critic is not None:
        save_engine(models.critic, folder, CRITIC)
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    save_file(states, folder / f"rng-{torch.distributed.get_rank():05d}.safetensors")
    torch.distributed.barrier()


def load_models(models: Models, checkpoint: Checkpoint, world: World, job: TrainJob, fresh: bool) -> None:
    """All ranks: the inverse of `save_models`. With `fresh`, the optimizers start anew from the checkpoint's weights.

    A critic that the checkpoint does not have, or that has learned another quantity, starts anew. Random states are
    restored when the number of processes is the same.
    """
    from safetensors.torch import load_file

    suffix = "-universal" if _other_shape(checkpoint, world, job.training.zero_stage) else ""
    load_engine(models.policy, checkpoint.path, POLICY + suffix)
    has_critic = checkpoint.parts.get(CRITIC) == trained_parts(job.model, job.training).get(CRITIC)
    if models.critic is not None and has_critic:
        load_engine(models.critic, checkpoint.path, CRITIC + suffix)
    for engine in (models.policy, models.critic):
        if fresh and engine is not None:
            forget_moments(engine)
    if checkpoint.world_size == world.size:
        states = load_file(checkpoint.path / f"rng-{world.rank:05d}.safetensors")
        torch.set_rng_state(states["cpu"])
        if "cuda" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state(states["cuda"])


def _other_shape(checkpoint: Checkpoint, world: World, zero_stage: int) -> bool:
    """Whether DeepSpeed needs the checkpoint converted: not without ZeRO, where every process holds everything."""
    if zero_stage == 0 and checkpoint.zero_stage == 0:
        return False
    return checkpoint.world_size != world.size or checkpoint.zero_stage != zero_stage


def _share_head(module: PolicyModule) -> None:
    """Tell ZeRO 3 to gather the head's weight too: it gathers those of the modules it calls, and scoring does not call
    the head.
    """
    import deepspeed

    deepspeed.zero.register_external_parameter(module, module.model.get_output_embeddings().weight)
