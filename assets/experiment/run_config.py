"""What a run that is started in the UI may change of an experiment: nothing that names code, hosts or places.

A run's `overrides` come from whoever reaches the UI; the YAML is the owner's. So every field of the configuration is
in one of the two tables below, and a field in neither is refused: a new one must be looked at first.
"""

import re
from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from pipeline.config import Experiment
from pipeline.config.cluster import LaunchConfig, RayConfig
from pipeline.config.evaluation import EvaluationConfig, Protocol
from pipeline.config.policy import PolicyConfig, ReferenceConfig, ServerModel, WarmStart, named_policy
from pipeline.config.prompts import ArithmeticConfig, Columns, OverlapConfig, PromptsConfig, ReasoningGymConfig
from pipeline.config.replay import Filters, LoggedSource, ReplayConfig
from pipeline.config.rewards import BUILTIN_VERIFIERS, RewardComponents, RewardConventions, RewardsConfig
from pipeline.config.rollouts import AgreementConfig, RolloutsConfig
from pipeline.config.training import LoraConfig, TrainingConfig
from pipeline.errors import TbrmError
from pipeline.sampling.endpoint import is_named

_STEM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,127}")
_BENCHMARK = re.compile(r"[a-z0-9][a-z0-9_]{0,47}")

A_RUN_MAY_SET: Mapping[type[BaseModel], str] = {
    Experiment: "description seed generations policy prompts rollouts rewards reference replay training evaluation "
    "large_model_on_cpu",
    PolicyConfig: "dtype attention warm_start",
    WarmStart: "trajectories behaviour_accuracy steps batch learning_rate",
    ReferenceConfig: "max_tokens",
    PromptsConfig: "source columns arithmetic reasoning_gym template per_generation max_prompt_tokens exclude_overlap",
    Columns: "id problem answer answer_after",
    ArithmeticConfig: "low high heldout",
    ReasoningGymConfig: "size",
    OverlapConfig: "min_share",
    RolloutsConfig: "engine n temperature top_p top_k max_tokens stop prompts_per_shard batch_size auto_min_parameters "
    "max_model_len gpu_memory_utilization cpu_kv_cache_gb prefix_caching eager warm tensor_parallel pipeline_parallel "
    "agreement",
    AgreementConfig: "sample max_mean_gap max_token_gap max_response_gap",
    RewardsConfig: "verifier require_boxed conventions components timeout_s cpu_s memory_mb timeout_reward "
    "max_undecided_share token_rewards audit_sample workers batch",
    RewardConventions: "relative_tolerance percent_is_the_number decimal_comma answer_in_thoughts",
    RewardComponents: "correctness format length length_free_tokens length_max_tokens",
    ReplayConfig: "window lag generation_weight generation_decay logged filters max_per_prompt min_per_prompt dedup "
    "rewards ref_logprobs",
    LoggedSource: "name weight generation rewards ref_logprobs",
    Filters: "finish_reasons min_response_tokens max_response_tokens max_prompt_tokens statuses success_rate "
    "success_reward",
    TrainingConfig: "objective beta learning_rate warmup_updates learning_rate_decay weight_decay adam_betas adam_eps "
    "grad_clip optimizer_state prompt_batch updates_per_generation critic_learning_rate clip_ratio kl_coefficient "
    "entropy_coefficient gae_lambda value_offset length_normalized drop_truncated residual_clip temperature "
    "micro_batch_tokens head_chunk_tokens activation_checkpointing zero_stage offload processes sequence_parallel lora "
    "checkpoint_every keep_checkpoints max_residual diagnostics_sample control_every control_sample dual_clip "
    "old_logprobs importance_cap stop_grace_s collective_timeout_s",
    LoraConfig: "rank alpha target_modules",
    EvaluationConfig: "benchmarks protocols responses_per_shard endpoint_requests every",
    Protocol: "benchmark samples temperature top_p max_tokens max_problems",
}
"""Numbers, switches, choices of a list, and names of what the store, the package or the YAML has.

`rewards.verifier` is one of the built-in verifiers or of those that the YAML declares; a benchmark is a name and no
path, unless it stands in the YAML.
"""

ONLY_THE_YAML_SETS: Mapping[type[BaseModel], str] = {
    Experiment: "name servers ray launch tracker",
    PolicyConfig: "base revision",
    WarmStart: "logged",
    ReferenceConfig: "policy revision",
    PromptsConfig: "path revision subset split",
    ReasoningGymConfig: "tasks options",
    OverlapConfig: "source benchmarks",
    RolloutsConfig: "policy adapter",
    RewardsConfig: "user_verifiers row_verifiers reasoning_gym_tasks tasks_whose_scorer_runs_answers_as_code",
    RayConfig: "address stages workers cpus gpus attempts straggler_factor",
    LaunchConfig: "by stages address pod",
    TrainingConfig: "machines machines_by",
    EvaluationConfig: "source pinned schedule",
}
"""Code, hosts, folders, hub repositories, jobs of a cluster, and where results go."""


def check_overrides(yaml: Experiment, run: Experiment) -> None:
    """Raise TbrmError naming the fields that `run` sets otherwise than `yaml`, though no run may."""
    refused = [*_refused("", yaml, run), *_refused_names(yaml, run)]
    if refused:
        raise TbrmError(
            f"a run started in the UI cannot set {', '.join(refused)}: it names code, hosts or places. Put it into the "
            f"YAML file of {yaml.name}; it is read again by the next run"
        )


def check_server(yaml: Experiment | None, address: str) -> None:
    """Raise TbrmError when `address` is a server that the experiment does not name."""
    server = isinstance(named_policy(address), ServerModel)
    if "://" not in address or (server and yaml is not None and is_named(address, yaml.named_servers)):
        return
    where = f"the YAML file of {yaml.name}" if yaml else "an experiment's YAML file, and that in `experiment`"
    raise TbrmError(
        f"`policy`: {address!r:.200} is no server that a run of the UI may ask: name it under `servers` in {where}"
    )


def check_name(field: str, name: str) -> None:
    """Raise TbrmError when an experiment is given by the path of a file instead of its name."""
    if not _STEM.fullmatch(name):
        raise TbrmError(
            f"`{field}`: {name!r:.200} is no name of an experiment. A run started in the UI reads no YAML file from "
            "elsewhere: put it into experiments/"
        )


def check_local(field: str, *paths: str) -> None:
    """Raise TbrmError for an address where a folder, a file or a hub id is meant."""
    for path in paths:
        if "://" in path:
            raise TbrmError(f"`{field}`: {path!r:.200} is an address. A run of the UI takes folders and hub ids")


def check_benchmarks(field: str, names: Sequence[str], declared: Sequence[str] = ()) -> None:
    """Raise TbrmError for a benchmark that is a path, and not one of those that the YAML names."""
    for name in names:
        if not _BENCHMARK.fullmatch(name) and name not in declared:
            raise TbrmError(
                f"`{field}`: {name!r:.200} is no name of a benchmark. A definition from elsewhere is named in the "
                "experiment's YAML, under `evaluation.benchmarks`"
            )


def _refused(path: str, before: BaseModel | None, after: BaseModel) -> list[str]:
    """Paths of the fields of `after` that differ from `before` (None: from their defaults), and are the YAML's."""
    free = A_RUN_MAY_SET.get(type(after), "").split()
    found: list[str] = []
    for name, field in type(after).model_fields.items():
        # Of a required field there is no default: what it is set to differs from it.
        old = getattr(before, name) if before is not None else field.get_default(call_default_factory=True)
        new = getattr(after, name)
        where = f"{path}{name}"
        if new == old:
            continue
        if name not in free:
            found.append(f"`{where}`")
        elif isinstance(new, BaseModel):
            found += _refused(f"{where}.", old if isinstance(old, BaseModel) else None, new)
        elif isinstance(new, tuple | dict):
            items = new.items() if isinstance(new, dict) else enumerate(new)
            for key, item in items:
                if isinstance(item, BaseModel):
                    same = old.get(key) if isinstance(old, dict) else None
                    found += _refused(f"{where}.{key}.", same, item)
    return found


def _refused_names(yaml: Experiment, run: Experiment) -> list[str]:
    """Verifier and benchmarks: names, as long as they are known ones."""
    verifier = run.rewards.verifier
    found = [] if verifier in BUILTIN_VERIFIERS or yaml.rewards.may_run(verifier) else ["`rewards.verifier`"]
    if run.evaluation is None:
        return found
    old = yaml.evaluation or EvaluationConfig()
    declared = {*old.benchmarks, *(one.benchmark for one in old.protocols.values())}
    if any(not _BENCHMARK.fullmatch(name) and name not in declared for name in run.evaluation.benchmarks):
        found.append("`evaluation.benchmarks`")
    for key, protocol in run.evaluation.protocols.items():
        name = protocol.benchmark
        if name is not None and not _BENCHMARK.fullmatch(name) and name not in declared:
            found.append(f"`evaluation.protocols.{key}.benchmark`")
    return found
