"""Study files: every arm of every size is a valid experiment, and runs are named by what decides them."""

import json
import re
from pathlib import Path

import pytest

from assets.studies.estimate import ASSUMED, SHAPES, arm_hours, generation_seconds
from assets.studies.pages import agreement, arms_figure, arms_table, sources_table
from assets.studies.registry import EXACT, StudyCost, costs, find, names
from assets.studies.spec import Arm, arm_experiment, base_experiment, load_study, studies_folder
from pipeline.config import load_experiment
from pipeline.errors import ConfigError
from pipeline.policies.refs import PolicyRef
from pipeline.store import open_store

BASE = PolicyRef("0123456789abcdef", "/somewhere/base")
FILES = sorted(p.stem for p in studies_folder().glob("*.yaml"))


@pytest.mark.parametrize("name", FILES)
def test_every_arm_is_a_valid_experiment_of_its_own(name: str) -> None:
    study = load_study(name)
    assert study.compare is None or study.compare in {a.name for a in study.sizes["tiny"].arms}
    assert study.sizes["tiny"].seeds >= 5
    for size in study.sizes.values():
        bases = {arm.name: PolicyRef(f"policy of {arm.base}", BASE.path) for arm in size.arms}
        runs = {arm_experiment(size, a, seed, bases[a.name]).name for a in size.arms for seed in range(size.seeds)}
        assert len(runs) == len(size.arms) * size.seeds
        for base in size.bases:
            experiment = base_experiment(size, base, 0)
            again = base_experiment(size, base, 1)
            warm_started = experiment.policy.warm_start is not None
            assert (experiment.name != again.name) == warm_started
        assert {a.base for a in size.arms} <= {None, *size.bases}


def test_a_run_is_named_by_its_settings_and_its_base_and_not_by_its_arm_or_place() -> None:
    size = load_study(FILES[0]).sizes["tiny"]
    one = arm_experiment(size, Arm(name="a"), 0, BASE)
    assert one.name == arm_experiment(size, Arm(name="b"), 0, PolicyRef(BASE.policy_id, "/elsewhere")).name
    others = [
        arm_experiment(size, Arm(name="a"), 1, BASE),
        arm_experiment(size, Arm(name="a", set={"training": {"beta": 0.5}}), 0, BASE),
        arm_experiment(size, Arm(name="a"), 0, PolicyRef("f" * 16, BASE.path)),
    ]
    assert len({one.name, *(o.name for o in others)}) == 4


def test_an_unknown_study_names_the_known_ones() -> None:
    assert set(EXACT) <= set(names())
    with pytest.raises(ConfigError, match="theory"):
        find("nothing")


def test_the_table_compares_by_seed_and_counts_diverged_runs() -> None:
    def run(rewards: list[float], diverged: str | None = None) -> dict[str, object]:
        rows = [{"generation": g, "reward": r, "kl": 1.0, "value_first": 9.0} for g, r in enumerate(rewards)]
        return {"generations": rows, "diverged": diverged, "cpu_seconds": 1}

    arms = [
        {"arm": "tbrm", "base": "base", "runs": [run([0.5, 0.8]), run([0.5, 0.6])]},
        {"arm": "brm", "base": "base", "runs": [run([0.5, 0.3]), run([0.5], "stopped")]},
    ]
    results = json.loads(json.dumps({"arms": arms}))
    tbrm, brm = arms_table(results, "tbrm").splitlines()[2:]
    assert tbrm.startswith("| tbrm | 0.500 | 0.700 [")
    assert "| -0.300 [" in brm
    assert brm.endswith("| 1 of 2 |")
    arms_figure(results)


def test_a_study_run_again_is_compared_with_what_it_said_before() -> None:
    def arm(name: str, *rewards: float) -> dict[str, object]:
        return {"arm": name, "runs": [{"generations": [{"reward": reward}]} for reward in rewards]}

    before = {"arms": [arm("same", 0.5, 0.6), arm("other", 0.10, 0.11), arm("single", 0.5), arm("gone", 1.0)]}
    now = {"arms": [arm("same", 0.55, 0.65), arm("other", 0.80, 0.81), arm("single", 0.9), arm("added", 0.1)]}
    head, *apart = agreement(before, now)
    assert head.startswith("2 of 3 arms")
    assert apart == ["  other: 0.105 before, 0.805 now"]


def test_rewards_by_task_are_those_of_the_last_policy() -> None:
    def run(*rewards: tuple[float, float]) -> dict[str, object]:
        rows = [{"reward": (a + b) / 2, "reward_by_source": {"islands": a, "locks": b}} for a, b in rewards]
        return {"generations": rows}

    arms = [
        {"arm": "tbrm", "runs": [run((0.2, 0.4), (0.8, 0.6)), run((0.2, 0.4), (0.8, 0.8))]},
        {"arm": "grpo", "runs": [run((0.2, 0.4), (0.3, 0.5)), run((0.2, 0.4), (0.3, 0.7))]},
    ]
    head, _, base, tbrm, grpo = sources_table({"arms": arms}, "tbrm").splitlines()
    assert head == "|  | islands | locks | all | less tbrm |"
    assert base == "| policy[0] | 0.20 [0.20, 0.20] | 0.40 [0.40, 0.40] | 0.30 [0.30, 0.30] | - |"
    assert tbrm.startswith("| tbrm | 0.80 [0.80, 0.80] | 0.70 [")
    assert grpo.endswith("| -0.30 [-0.30, -0.30] |")


@pytest.mark.parametrize("name", [n for n in FILES if load_study(n).sizes.keys() - {"tiny"}])
def test_costs_that_nobody_has_paid_are_those_that_are_counted(name: str) -> None:
    for size in load_study(name).sizes.values():
        if size.experiment not in SHAPES:
            continue
        told = re.search(r"about (\d+)(?: to (\d+))? (hours|minutes)", size.cost)
        assert told, size.cost
        unit = {"hours": 1, "minutes": 60}[told[3]]
        hours = [arm_hours(arm_experiment(size, arm, 0, BASE), SHAPES[size.experiment]) for arm in size.arms]
        assert (int(told[1]), int(told[2] or told[1])) == (round(unit * min(hours)), round(unit * max(hours)))
        assert "assets.studies.estimate" in size.cost


def test_an_estimate_is_made_of_parts_that_can_be_counted_by_hand() -> None:
    experiment = load_experiment("qwen25_math_1p5b_onpolicy")
    parts = generation_seconds(experiment, SHAPES[experiment.name])
    checkpoint = 14 * 1.54e9
    assert parts["checkpoints"] == pytest.approx(2 * (checkpoint / 1e9 + checkpoint / 1.5e9))
    tokens = 128 * 4 * (1_024 + 150)
    assert parts["updates"] == pytest.approx(8 * 1.54e9 * tokens / (4 * 0.4 * 989e12))
    assert parts["engine start"] == ASSUMED.engine_start_s
    assert arm_hours(experiment, SHAPES[experiment.name]) == pytest.approx(760 * sum(parts.values()) / 3_600)


def test_what_a_study_costs_is_told_from_its_finished_runs(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    known = {(cost.study, cost.size): cost for name in ("beta", "theory") for cost in costs(name, store, workers=2)}
    begun = known["beta", "tiny"]
    assert (begun.finished, begun.seconds_left) == (0, None)
    assert "how long they take here is not known yet. About 45 minutes of one core" in str(begun)
    half = StudyCost("beta", "tiny", finished=5, runs=10, seconds_left=7_500.0, cost="Written.")
    assert str(half).startswith("5 of 10 runs are finished, about 2 h 5 min left. Written.")
    assert str(StudyCost("beta", "tiny", 10, 10, 0.0, "Written.")) == "10 of 10 runs are finished. Written."
    assert "tables only" in str(known["theory", "tiny"])
