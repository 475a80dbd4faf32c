"""Which stages the loop runs in which generation."""

from pathlib import Path

from assets.experiment.stages import loop
from pipeline.config import load_experiment
from tests.support.tiny import write_tiny


def test_stages_come_once_or_in_every_generation_in_which_they_are_due(tmp_path: Path) -> None:
    path = write_tiny(tmp_path, generations=4)
    path.write_text(path.read_text() + "evaluation: {benchmarks: [heldout], every: 3}\n")
    experiment = load_experiment(str(path), ["replay.logged=[{name: log}]"])
    found = {generation: [stage.name for stage in stages] for generation, stages in loop(experiment)}
    sampled = ["rollouts", "rewards", "ref_logprobs", "trained_policy"]
    assert found == {
        None: ["base_policy", "base_scores", "logged_labels"],
        0: sampled,
        1: sampled,
        2: [*sampled, "benchmark_scores"],
        3: [*sampled, "benchmark_scores"],
    }
    forked = {generation: [stage.name for stage in stages] for generation, stages in loop(experiment, first=2)}
    assert forked == {None: ["base_policy", "logged_labels"], 2: found[2], 3: found[3]}
