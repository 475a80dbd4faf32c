"""A study as a YAML file: arms over one experiment, at three sizes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, ValidationError

from pipeline.config import Experiment, stage_hash
from pipeline.config.base import Config
from pipeline.config.load import build_experiment, experiments_folder, find_experiment, read_yaml
from pipeline.errors import ConfigError
from pipeline.policy import PolicyRef


class Arm(Config):
    """One line of the study's table."""

    name: str
    """Short name, as the table shows it."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Fields of the experiment, over those of the size."""
    base: str | None = None
    """Name of the warm start in `bases`; None: the first."""


class Size(Config):
    """What runs, and what it costs."""

    cost: str
    """Time and machine, in words; measured for `tiny`, estimated elsewhere."""
    experiment: str
    """File in experiments/ that every arm starts from."""
    seeds: int = Field(default=5, gt=0)
    """Runs of each arm; seed s changes sampling, batches and order, not the base policy."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Fields of the experiment, for every arm."""
    bases: dict[str, dict[str, Any]] = Field(default_factory=lambda: {"base": {}})
    """Fields that make a base policy; each is made once and shared by all arms and seeds that name it."""
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


def base_experiment(size: Size, base: str) -> Experiment:
    """The experiment whose policy[0] is the base policy `base`. Studies with equal settings share it."""
    tree = _merged(_tree(size), size.bases[base]) | {"name": "unnamed"}
    built = build_experiment(tree, f"base {base}")
    made_of = stage_hash(built.policy, built.prompts, built.seed)
    return build_experiment(tree | {"name": f"study_base_{made_of}"}, f"base {base}")


def arm_experiment(size: Size, arm: Arm, seed: int, base: PolicyRef) -> Experiment:
    """The experiment of one arm and seed, from a base policy; its name holds the hash of all that decides it."""
    tree = _merged(_tree(size), arm.set)
    policy = {**tree["policy"], "warm_start": None}
    decisive = tree | {"policy": policy | {"base": base.policy_id}, "seed": 1_000 + seed, "description": ""}
    decisive["name"] = f"study_run_{stage_hash(decisive | {'name': ''})}"
    return build_experiment(decisive | {"policy": policy | {"base": base.path}}, f"arm {arm.name}")


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
