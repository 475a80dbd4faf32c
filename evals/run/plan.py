"""What is to be measured: which problems, by which protocol, shown and sampled how."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from evals.benchmarks.registry import SUITES, find_benchmark, load_problems_of, problems_hash
from evals.benchmarks.types import Benchmark, ProblemSource
from pipeline.config import Experiment, stage_hash
from pipeline.config.base import Config
from pipeline.config.evaluation import EvaluationConfig, Protocol
from pipeline.config.experiment import declared_rewards
from pipeline.config.policy import PolicyConfig
from pipeline.config.rewards import RewardsConfig
from pipeline.config.rollouts import EngineConfig, RolloutsConfig
from pipeline.errors import TbrmError
from pipeline.prompts import Problem

NO_CHANGES = Protocol()
Part = TypeVar("Part", bound=Config)
_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,47}")


@dataclass(frozen=True)
class Setting:
    """How policies are asked and graded, whatever the benchmark. `experiment` None: no experiment is involved."""

    evaluation: EvaluationConfig
    engine: EngineConfig
    rewards: RewardsConfig
    policy: PolicyConfig
    template: str
    max_tokens: int
    """Longest response where no protocol says otherwise."""
    stop: tuple[str, ...] = ()
    """Texts that end a response, as in sampling."""
    seed: int = 0
    experiment: Experiment | None = None
    every: Protocol = NO_CHANGES
    """Changes to the protocol of every benchmark, stronger than `evaluation.protocols`."""
    large_model_on_cpu: bool = False
    """As in the experiment: more than 200M parameters without a GPU."""


@dataclass(frozen=True)
class FullProtocol:
    """A protocol with nothing left open; it is stored with every score."""

    benchmark: str
    samples: int
    temperature: float
    top_p: float
    max_tokens: int
    max_problems: int | None
    template: str


@dataclass(frozen=True)
class Entry:
    """One line of results: a benchmark by one protocol. `problems_hash` is that of the problems asked."""

    name: str
    problems: list[Problem]
    protocol: FullProtocol
    problems_hash: str
    flawed: tuple[str, ...] = ()
    """Ids of problems that cannot be answered as stated."""
    remark: str = ""
    """How the problems differ from those that the registry knows."""
    verifiers: tuple[str, ...] = ()
    """Built-in verifiers that the problems may name besides the experiment's."""
    tasks: tuple[str, ...] = ()
    """Tasks of reasoning-gym that they may name."""

    def key(self, policy_id: str, setting: Setting) -> str:
        """Names the responses: equal key, equal responses. The engine and its batching are not part of it."""
        protocol, seed, dtype = asdict(self.protocol), setting.seed, setting.policy.dtype
        return stage_hash(protocol, self.problems_hash, policy_id, seed, dtype, *setting.stop)


def setting_of(experiment: Experiment) -> Setting:
    """The setting that an experiment's YAML describes."""
    sampling = experiment.rollouts or RolloutsConfig()
    return Setting(
        evaluation=experiment.evaluation or EvaluationConfig(),
        engine=sampling.how(),  # but not `rollouts.policy`: here the policy that is measured answers
        rewards=declared_rewards(experiment),
        policy=experiment.policy,
        template=experiment.prompts.template,
        max_tokens=sampling.max_tokens,
        stop=sampling.stop,
        seed=experiment.seed,
        experiment=experiment,
        large_model_on_cpu=experiment.large_model_on_cpu,
    )


def setting_without_experiment() -> Setting:
    """The paper's template and limits, for a policy that belongs to no experiment."""
    policy = PolicyConfig(base="evaluated")
    longest = RolloutsConfig().max_tokens
    return Setting(EvaluationConfig(), EngineConfig(), RewardsConfig(), policy, "qwen-math", longest)


@dataclass(frozen=True)
class Changes:
    """What the command line changes for every benchmark; None: as the experiment has it."""

    template: str | None = None
    max_tokens: int | None = None
    max_problems: int | None = None
    engine: str | None = None
    dtype: str | None = None
    large_model_on_cpu: bool = False


def changed(setting: Setting, changes: Changes) -> Setting:
    """The setting with `changes`."""
    return replace(
        setting,
        template=changes.template or setting.template,
        every=Protocol(max_tokens=changes.max_tokens, max_problems=changes.max_problems),
        engine=_with(setting.engine, "engine", changes.engine),
        policy=_with(setting.policy, "dtype", changes.dtype),
        large_model_on_cpu=setting.large_model_on_cpu or changes.large_model_on_cpu,
    )


def _with(config: Part, field: str, value: str | None) -> Part:
    """The configuration with another value of a field, checked as a whole."""
    return type(config).model_validate(config.model_dump() | {field: value}) if value else config


def plan_entries(setting: Setting, names: Sequence[str] = (), folder: str | None = None) -> list[Entry]:
    """The entries to measure; `names` and `folder` take the place of `evaluation.benchmarks` and `.source`.

    Raises TbrmError for an unknown benchmark, or problems that cannot be had.
    """
    source = ProblemSource(folder or setting.evaluation.source, setting.experiment)
    return [_entry(name, setting, source) for name in _wanted(setting, names)]


def plan_protocols(setting: Setting) -> dict[str, FullProtocol]:
    """The protocol of every entry by name; no problems are loaded. Raises TbrmError for an unknown benchmark."""
    folder = setting.evaluation.source
    found = (_protocol(name, setting, folder) for name in _wanted(setting, ()))
    return {name: protocol for name, _, protocol in found}


def _wanted(setting: Setting, names: Sequence[str]) -> list[str]:
    every = (part for name in names or setting.evaluation.benchmarks for part in SUITES.get(name, (name,)))
    return list(dict.fromkeys(every))


def _protocol(name: str, setting: Setting, folder: str | None) -> tuple[str, Benchmark, FullProtocol]:
    """(the entry's name, the benchmark that it samples, its protocol)."""
    wanted = setting.evaluation.protocols.get(name, Protocol())
    benchmark = find_benchmark(wanted.benchmark or name, folder)
    name = benchmark.name if Path(name).suffix else name
    if setting.every.max_problems:  # an entry of its own, beside the whole benchmark
        name = f"{name}_first_{setting.every.max_problems}"
    if not _NAME.fullmatch(name):
        raise TbrmError(f"evaluation.protocols: {name!r} must be 1 to 48 of a-z, 0-9, _, as it names a table")
    layers = (benchmark.protocol, wanted, setting.every)
    given: dict[str, Any] = {}
    for layer in layers:
        given |= layer.model_dump(exclude_none=True)
    protocol = FullProtocol(
        benchmark=given.get("benchmark", benchmark.name),
        samples=given.get("samples", 1),
        temperature=given.get("temperature", 0.0),
        top_p=given.get("top_p", 1.0),
        max_tokens=given.get("max_tokens", setting.max_tokens),
        max_problems=given.get("max_problems"),
        template=setting.template,
    )
    if protocol.temperature == 0 and protocol.samples > 1:
        raise TbrmError(
            f"evaluation.protocols.{name}: {protocol.samples} samples at temperature 0 are the same response "
            f"{protocol.samples} times; set `samples: 1` or a temperature"
        )
    return name, benchmark, protocol


def _entry(name: str, setting: Setting, source: ProblemSource) -> Entry:
    name, benchmark, protocol = _protocol(name, setting, source.folder)
    everything = load_problems_of(benchmark, source)
    problems = everything[: protocol.max_problems]
    found = problems_hash(everything)
    differs = benchmark.content_hash is not None and found != benchmark.content_hash
    return Entry(
        name=name,
        problems=benchmark.with_our_golds(problems),
        protocol=protocol,
        problems_hash=found if problems == everything else problems_hash(problems),
        flawed=tuple(problem.id for problem in problems if benchmark.flaw(problem)),
        remark=f"problems {found} differ from the registry's {benchmark.content_hash}" if differs else "",
        verifiers=benchmark.verifiers,
        tasks=benchmark.tasks,
    )


def rewards_for(setting: Setting, entries: Sequence[Entry]) -> RewardsConfig:
    """How responses to the entries' problems are graded: as the experiment says, with what the benchmarks declare."""
    verifiers = [name for entry in entries for name in entry.verifiers]
    return setting.rewards.declaring(verifiers, [task for entry in entries for task in entry.tasks])
