"""Where an experiment stands, from its store alone: finished, running, out of date, and what the rest costs."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from assets.experiment.status import Cost, StageState, cost_of_run, size, status_of
from pipeline.cli.main import tbrm
from pipeline.config import Experiment, changed_experiment
from pipeline.rewards.stage import run_rewards
from pipeline.store import Store, exclusive, open_store
from pipeline.store.locks import written_by
from tests.support.base_stores import copies


def states(store: Store, experiment: Experiment) -> dict[tuple[str, int | None], str]:
    return {(one.stage, one.generation): one.state for one in status_of(store, experiment).stages}


@pytest.fixture
def copied(made: tuple[Store, Any], tmp_path: Path) -> Store:
    """A copy of the store with one whole generation, to be changed."""
    return copies(Path(made[0].base), tmp_path)("copied")


def test_nothing_is_known_before_anything_is_made(tmp_path: Path, experiment: Experiment) -> None:
    store = open_store(str(tmp_path / "empty"))
    found = status_of(store, experiment)
    assert (found.finished, found.published, found.to_do) == (0, None, 7)
    assert found.next == StageState("base_policy", None, "open")
    assert found.cost.unknown[:2] == ("base_policy", "base_scores")
    assert "7 stages to do: time and disk are not known yet, as nothing of" in cost_of_run(store, experiment)
    assert not (tmp_path / "empty").exists(), "a look writes nothing"


def test_what_is_left_costs_what_the_same_took(made: tuple[Store, Any], experiment: Experiment) -> None:
    store, reports = made
    assert set(states(store, experiment).values()) == {"finished"}
    assert cost_of_run(store, experiment) == "small: everything is finished"
    longer = changed_experiment(experiment, ["generations=4"])
    found = status_of(store, longer)
    assert (found.finished, found.published, found.to_do) == (1, 1, 15)
    assert found.next == StageState("rollouts", 1, "open")
    rollouts = store.partition("small", "rollouts", 0).manifest()
    assert found.next_cost == Cost(float(str(rollouts.stats["seconds"])), rollouts.bytes)
    measured = sum(reports[name]["metrics"]["seconds"] for name in ("rollouts", "rewards", "ref_logprobs"))
    assert found.cost.unknown == ()
    assert found.cost.seconds > 3 * measured
    trained = store.join("small", "trained_policy", "generation=0000", "_manifest.json")
    weights = sum(shard["bytes"] for shard in json.loads(store.read_bytes(trained))["shards"])
    assert found.cost.bytes > 3 * weights
    assert "15 stages to do: about " in cost_of_run(store, longer)
    assert found.free_bytes
    assert found.free_bytes > 0


def test_labels_written_anew_put_the_training_out_of_date(copied: Store, experiment: Experiment) -> None:
    other = changed_experiment(experiment, ["rewards.components.length=2.0"])
    run_rewards(other, copied, 0, replace=True)
    found = status_of(copied, other)
    (stale,) = [one for one in found.stages if one.state == "out of date"]
    assert (stale.stage, stale.generation) == ("trained_policy", 0)
    assert "small/rewards/generation=0000, which changed since" in stale.why
    assert found.refused == ""
    assert "rewards.components.length" in status_of(copied, experiment).refused
    shown = CliRunner().invoke(tbrm, ["status", str(kept(copied, experiment)), "--root", copied.root])
    assert shown.exit_code == 0, shown.output
    assert "trained_policy[0]: out of date (made from small/rewards" in shown.output
    assert "`tbrm run` would stop here" in shown.output


def kept(store: Store, experiment: Experiment) -> Path:
    path = Path(store.base).parent / "small.yaml"
    path.write_text(experiment.model_dump_json())
    return path


def test_a_stage_under_way_is_seen_and_not_disturbed(copied: Store, experiment: Experiment) -> None:
    folder = copied.join("small", "rollouts", "generation=0001")
    longer = changed_experiment(experiment, ["generations=2"])
    with exclusive(folder):
        assert written_by(copied, folder) == f"process {os.getpid()} on {os.uname().nodename}"
        assert states(copied, longer)["rollouts", 1] == "running"
    assert written_by(copied, folder) is None
    assert states(copied, longer)["rollouts", 1] == "open"
    handle = os.open(f"{folder}/_lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody else holds it
    os.close(handle)


def test_the_command_says_it_in_words_and_in_json(made: tuple[Store, Any], experiment: Experiment) -> None:
    store, _ = made
    words = [str(kept(store, experiment)), "--root", store.root]
    longer = [*words, "--set", "generations=30"]
    shown = CliRunner().invoke(tbrm, ["status", *longer]).output
    assert "small: 1 of 30 generations finished; policy[1] is published" in shown
    assert "1 to 29" in shown
    assert "next: rollouts[1]: about " in shown
    document = json.loads(CliRunner().invoke(tbrm, ["status", *longer, "--json"]).stdout)
    assert document["next"] == {"stage": "rollouts", "generation": 1, "state": "open", "why": ""}
    assert document["to_do"] == 29 * 5
    assert "nothing is left to do" in CliRunner().invoke(tbrm, ["status", *words]).output
    every = json.loads(CliRunner().invoke(tbrm, ["status", "--root", store.root, "--json"]).stdout)
    assert {"arith_tiny", "smollm2_135m"} <= {one["experiment"] for one in every["experiments"]}
    assert every["broken"] == {}


@pytest.mark.parametrize(("count", "said"), [(0, "0 bytes"), (999, "999 bytes"), (1_234, "1.2 kB"), (48.2e9, "48 GB")])
def test_bytes_are_said_in_two_digits(count: float, said: str) -> None:
    assert size(count) == said
