"""What runs is what was checked: a run resolves its YAML once, and its stages are given that file of the store."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import AssetKey, DagsterInstance

from assets.definitions import build_definitions
from assets.experiment.source import read_experiment
from assets.graph.step import StoreLocation
from assets.processes.launcher import Ended, Launcher, Process
from pipeline.config import load_experiment
from tests.support.tiny import write_tiny


class Editor(Launcher):
    """Notes each stage's command, and what the experiment that it names says; then edits the YAML and fails."""

    file: str
    yaml: str

    def run(self, process: Process) -> Ended:
        command = list(process.command)
        named = load_experiment(command[command.index("--experiment") + 1])
        with Path(self.file).open("a") as file:
            file.write(json.dumps([command[3], "--set" in command, named.training.beta]) + "\n")
        path = Path(self.yaml)
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"training": {"beta": 77.0}}))
        return Ended(1, (), process.log)


@pytest.mark.parametrize("overrides", [[], ["training.prompt_batch=4"]])
def test_an_edit_in_between_does_not_reach_a_run_that_has_begun(tmp_path: Path, overrides: list[str]) -> None:
    path = write_tiny(tmp_path)
    editor = Editor(file=str(tmp_path / "commands"), yaml=str(path))
    source = read_experiment(str(path))
    definitions = build_definitions([source], store=StoreLocation(root=str(tmp_path / "data")), launcher=editor)
    stages = ("rewards", "ref_logprobs")

    def run() -> list[list[Any]]:
        before = (tmp_path / "commands").read_text().count("\n") if (tmp_path / "commands").exists() else 0
        with DagsterInstance.ephemeral() as instance:
            definitions.resolve_job_def("tiny_generation").execute_in_process(
                run_config={"ops": {f"tiny__{name}": {"config": {"overrides": overrides}} for name in stages}},
                instance=instance,
                partition_key="0000",
                raise_on_error=False,
                asset_selection=[AssetKey(["tiny", name]) for name in stages],
            )
        lines = (tmp_path / "commands").read_text().splitlines()[before:]
        return sorted(json.loads(line) for line in lines)

    assert run() == [["ref-logprobs", False, 0.01], ["rewards", False, 0.01]]
    assert run() == [["ref-logprobs", False, 77.0], ["rewards", False, 77.0]], "the next run reads the file again"
