"""A study as a YAML file: arms over one experiment, at three sizes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, ValidationError

from pipeline.config import Experiment, stage_hash
from pipeline.config.base import Config
from pipeline.config.load import build_experiment, experiments_folder, find_experiment, read_yaml
from pipeline.errors import ConfigError
from pipeline.policies.refs import PolicyRef

_BASE_SEED, _RUN_SEED = 2_000, 1_000
"""Added to the seed of a warm start and of a run, so that a run's problems are not those that its base has imitated."""


class Arm(Config):
    """One line of the study's table."""

    name: str
    """Short name, as the table shows it."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Fields of the experiment, over those of the size."""
    base: str | None = None
    """Name of the warm start in `bases`; None: the first."""


class Log(Config):
    """A logged data set of a scripted behaviour policy, which arms name in `replay.logged`."""

    trajectories: int = Field(gt=0)
    """How many it holds."""
    behaviour_accuracy: float = Field(ge=0, le=1)
    """Share of right answers."""


class Size(Config):
    """What runs, and what it costs."""

    cost: str
    """Time and machine, in words; measured for `tiny`, estimated elsewhere."""
    experiment: str
    """File in experiments/ that every arm starts from."""
    seeds: int = Field(default=5, gt=0)
    """Runs of each arm; seed s changes the warm start, the logs, sampling, batches and order."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Fields of the experiment, for every arm."""
    bases: dict[str, dict[str, Any]] = Field(default_factory=lambda: {"base": {}})
    """Fields that make a base policy; each is made once a seed and shared by all arms that name it."""
    logs: dict[str, Log] = Field(default_factory=dict)
    """Logged data sets, each written once a seed. Others that arms name must be in the store."""
    arms: tuple[Arm, ...] = Field(min_length=1)
    """The lines of the table, in order."""


class Study(Config):
    """The whole file."""

    title: str
    """Heading of the page."""
    claim: str
    """What the paper says."""
    compare: str | None = None
    """Arm that the others are compared with, by seed."""
    shows: Literal["rewards", "needs", "costs", "sources"] = "rewards"
    """The page's table: what the arms earn; `needs`: and what their objectives need; `costs`: their time and memory;
    `sources`: what they earn on each task of the prompt set."""
    sizes: dict[str, Size]
    """`tiny`, `small`, `paper`."""
    reading: str
    """What the committed results show."""


def studies_folder() -> Path:
    """`experiments/studies/`."""
    return experiments_folder() / "studies"


def load_study(name: str) -> Study:
    """Raises ConfigError naming the studies there are, or each wrong field."""
    path = studies_folder() / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in studies_folder().glob("*.yaml"))) or "none"
        raise ConfigError(f"there is no study {name!r} at {path}. Known studies: {known}")
    try:
        return Study.model_validate(read_yaml(path))
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise ConfigError(f"{path} is not a valid study:\n" + "\n".join(lines)) from error


def base_experiment(size: Size, base: str, seed: int) -> Experiment:
    """The experiment whose policy[0] is the base policy `base` of a seed. Studies with equal settings share it.

    A warm start is repeated for every seed, because policies that imitate the same data differ between seeds (and
    between machines) by more than the runs that start from one of them.
    """
    tree, seed = _merged(_tree(size), size.bases[base]), ground_seed(size, base, seed)
    if warm := tree["policy"].get("warm_start"):
        own = {"warm_start": {"logged": _of_seed(warm["logged"], seed)}}
        tree = _merged(tree, {"seed": _BASE_SEED + seed, "policy": own})
    built = build_experiment(tree | {"name": "unnamed"}, f"base {base}")
    made_of = stage_hash(built.policy, built.prompts.model_dump(exclude={"per_generation"}), built.seed)
    return build_experiment(tree | {"name": f"study_base_{made_of}"}, f"base {base}")


def base_of(size: Size, arm: Arm) -> str:
    """Name of the base policy that an arm starts from."""
    return arm.base or next(iter(size.bases))


def ground_seed(size: Size, base: str, seed: int) -> int:
    """The seed of the base policy and the logs that a run of `seed` starts from; 0 without a warm start."""
    warm_started = _merged(_tree(size), size.bases[base])["policy"].get("warm_start") is not None
    return seed if warm_started else 0


def logs_of_seed(size: Size, base: str, seed: int) -> dict[str, Log]:
    """The size's `logs` by the names that they have for a run of `seed`."""
    return {_of_seed(name, ground_seed(size, base, seed)): log for name, log in size.logs.items()}


def arm_experiment(size: Size, arm: Arm, seed: int, base: PolicyRef) -> Experiment:
    """The experiment of one arm and seed, from a base policy; its name holds the hash of all that decides it."""
    tree = _merged(_tree(size), arm.set)
    policy, replay = {**tree["policy"], "warm_start": None}, tree.get("replay", {})
    if logged := replay.get("logged"):
        own = ground_seed(size, base_of(size, arm), seed)
        named = [
            log | {"name": _of_seed(log["name"], own) if log["name"] in size.logs else log["name"]} for log in logged
        ]
        tree["replay"] = replay | {"logged": named}
    decisive = tree | {"policy": policy | {"base": base.policy_id}, "seed": _RUN_SEED + seed, "description": ""}
    decisive["name"] = f"study_run_{stage_hash(decisive | {'name': ''})}"
    return build_experiment(decisive | {"policy": policy | {"base": base.path}}, f"arm {arm.name}")


def _of_seed(logged: str, seed: int) -> str:
    return f"{logged}_{seed}"


def _tree(size: Size) -> dict[str, Any]:
    tree = _merged(read_yaml(find_experiment(size.experiment)), size.set)
    return {name: value for name, value in tree.items() if name != "evaluation"}  # rewards are what is measured


def _merged(tree: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(tree)
    for name, value in change.items():
        old = merged.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[name] = _merged(cast(Mapping[str, Any], old), cast(Mapping[str, Any], value)) if both else value
    return merged
