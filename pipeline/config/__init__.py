"""An experiment is configured in one YAML file; see `Experiment` for the tree."""

from pipeline.config.base import Config, stage_hash
from pipeline.config.experiment import Experiment
from pipeline.config.load import (
    build_experiment,
    changed_experiment,
    experiments_folder,
    find_experiment,
    load_experiment,
    parse_yaml,
)

__all__ = [
    "Config",
    "Experiment",
    "build_experiment",
    "changed_experiment",
    "experiments_folder",
    "find_experiment",
    "load_experiment",
    "parse_yaml",
    "stage_hash",
]
