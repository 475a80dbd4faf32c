"""reasoning-gym: every task is classified, none of the allowed scorers runs text, and ours score as the package's."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from code_in_answers import Entry, code_carrying, entries
from pydantic import ValidationError
from reasoning_gym.factory import DATASETS

from pipeline.config.reasoning_gym import (
    READ_VERSION,
    REFUSED,
    SCORED_BY_GRAMMAR,
    SCORER_EVALUATES_NOTHING,
    refusal,
)
from pipeline.config.rewards import RewardsConfig
from pipeline.errors import TbrmError
from pipeline.rewards.expressions import OutsideOfGrammar, integer, literal, symbolic
from pipeline.rewards.grader import Grader
from pipeline.rewards.types import GradeItem
from pipeline.rewards.verifiers.gym_scorers import SCORERS
from pipeline.rewards.verifiers.reasoning_gym import package_scorer, scorer

UNSAFE = ("os.", "subprocess", "socket", "shutil", "ctypes", "pty", "exec")


def test_every_task_of_the_installed_package_is_classified_once() -> None:
    """Fails when a new version brings a task, or changes scorers: read them, then classify, then raise READ_VERSION."""
    from importlib.metadata import version

    assert version("reasoning-gym") == READ_VERSION
    classes = (SCORER_EVALUATES_NOTHING, SCORED_BY_GRAMMAR, frozenset(REFUSED))
    assert sorted(task for names in classes for task in names) == sorted(DATASETS)
    assert set(SCORERS) == SCORED_BY_GRAMMAR


class _Watch:
    """Audit events of this process while `on`. A hook cannot be removed, so there is one for all tests."""

    def __init__(self) -> None:
        self.on, self.seen = False, list[str]()
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.on and event.startswith(UNSAFE):
            self.seen.append(f"{event} {arguments!r:.200}")
        if self.on and event == "open" and isinstance(arguments[2], int) and arguments[2] & 0o1103:
            self.seen.append(f"open for writing {arguments[0]!r}")

    def __enter__(self) -> list[str]:
        self.on, self.seen = True, []
        return self.seen

    def __exit__(self, *_: object) -> None:
        self.on = False


@pytest.fixture(scope="module")
def watch() -> _Watch:
    return _Watch()


def hostile_entries(entry: Entry, code: str) -> Iterator[Entry]:
    """The entry with code in its gold answer, and in every text of its metadata."""
    yield {**entry, "answer": code}

    def poisoned(value: object) -> object:
        if isinstance(value, dict):
            return {key: poisoned(part) for key, part in value.items()}
        if isinstance(value, list):
            return [poisoned(part) for part in value[:3]]
        return code if isinstance(value, str) else value

    yield {**entry, "metadata": poisoned(entry["metadata"])}


@pytest.mark.parametrize("task", sorted(SCORER_EVALUATES_NOTHING | SCORED_BY_GRAMMAR))
def test_no_scorer_runs_an_answer_or_a_row(task: str, watch: _Watch, tmp_path: Path) -> None:
    """Python reports every `exec`, process, socket and file that is opened for writing."""
    (entry,) = entries(task, 1)
    score = scorer(task)
    answers = code_carrying(tmp_path / "marker", 9)
    for answer in [str(entry["answer"]), *answers]:
        _call(score, answer, entry)  # sympy imports what it needs, which runs modules
    with watch as seen:
        for answer in answers:
            _call(score, answer, entry)
        for code in answers[:3]:
            for poisoned in hostile_entries(entry, code):
                _call(score, code, poisoned)
                _call(score, "1", poisoned)
    assert seen == []
    assert list(tmp_path.iterdir()) == []


def _call(score: Any, answer: str, entry: Mapping[str, Any]) -> None:
    with contextlib.suppress(Exception):  # a damaged row may end in anything: its label is then an error
        score(answer, dict(entry))


def test_the_watch_sees_what_the_packages_own_scorer_does(watch: _Watch, tmp_path: Path) -> None:
    (entry,) = entries("spiral_matrix", 1)
    score = package_scorer("spiral_matrix")
    with watch as seen:
        score(f"[open({str(tmp_path / 'marker')!r}, 'w')]", entry)
    assert any(event.startswith("exec") for event in seen)
    assert (tmp_path / "marker").exists()


def wrong_answers(gold: str, other: str) -> list[str]:
    """Answers near the right one, and the right one spelled otherwise."""
    listed = [line.split() for line in gold.split("\n")]
    near = [other, gold + " ", gold + "1", "no", "", f"({gold})", f"-{gold}", f"2*{gold}", gold.replace("+", "-")]
    return [*near, str(listed), str(gold.split()), str(list(gold)), gold.replace(" ", ""), "0", "1/0", "x", "24"]


@pytest.mark.parametrize("task", sorted(SCORED_BY_GRAMMAR - {"intermediate_integration"}))
def test_our_scorers_score_as_the_packages(task: str) -> None:
    package, ours = package_scorer(task), SCORERS[task]
    found = entries(task, 5)
    right = 0
    for entry, other in zip(found, found[1:] + found[:1], strict=True):
        for answer in [entry["answer"], *wrong_answers(entry["answer"], other["answer"])]:
            expected = float(package(answer, dict(entry)))
            assert ours(answer, entry) == pytest.approx(expected), (answer, entry)
            right += expected == 1.0
    assert right >= 5  # the oracle's answers


INTEGRALS = [
    ("4*sqrt(-2*x - 8)", "-4*(-2*x - 8)**(3/2)/3 + C", "-4*(-2*x - 8)**(3/2) + C"),
    ("2*x**3*sin(x)", "-2*x**3*cos(x) + 6*x**2*sin(x) + 12*x*cos(x) - 12*sin(x) + C", "2*x**3*cos(x)"),
    ("3*log(x)", "3*x*log(x) - 3*x + C", "3*x*log(x)"),
    ("2*exp(x)*sin(x)", "exp(x)*sin(x) - E**x*cos(x) + k", "exp(x)*cos(x)"),
    ("-asin(3*x)", "-x*asin(3*x) - sqrt(1 - 9*x**2)/3 + C", "asin(x)"),
]


@pytest.mark.parametrize(("integrand", "right", "wrong"), INTEGRALS)
def test_integrals_score_as_in_the_package(integrand: str, right: str, wrong: str) -> None:
    entry = {"answer": right, "metadata": {"integrand": integrand, "variable": "x"}}
    for answer, expected in ((right, 1.0), (wrong, 0.0), ("x +", 0.0), (right.replace("**", "^"), None)):
        package = float(package_scorer("intermediate_integration")(answer, dict(entry)))
        assert expected in (package, None)
        assert SCORERS["intermediate_integration"](answer, entry) == package


def test_what_the_package_takes_for_right_and_is_no_answer() -> None:
    (entry,) = entries("complex_arithmetic", 1)
    assert float(package_scorer("complex_arithmetic")("nan", entry)) == 1.0
    assert SCORERS["complex_arithmetic"]("nan", entry) == 0.0
    (entry,) = entries("number_sorting", 1)
    count = len(json.loads(entry["answer"].replace("'", '"')))
    assert SCORERS["number_sorting"](json.dumps([float("nan")] * count), entry) == 0.0
    asked = {"answer": "", "metadata": {"integrand": "2*x", "variable": "x"}}
    assert float(package_scorer("simple_integration")("Integral(2*x, x)", dict(asked))) == 1.0
    assert SCORERS["simple_integration"]("Integral(2*x, x)", asked) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        *("f(1)", "a.b", "a[0]", "lambda: 1", "[1]", "1 if 1 else 2", "'a'", "1 < 2", "x := 1", "1; 2", "", "yield"),
        *("9**9**9", "2**100000", "(" * 300, "1" * 5_000, "-" * 5_000, "sqrt(x, evaluate=x)", "__import__('os')"),
        *("sqrt.__class__", "x @ y", "1 << 2", "1 // 2", "5 % 3", "2j", "True", "x" * 5_000),
    ],
)
def test_what_is_outside_of_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(OutsideOfGrammar):
        symbolic(text)


def test_the_grammars_of_integers_and_literals() -> None:
    assert integer("((0xd6e3 * 0x2c49) + -(0x41 >> 0x1)) << 0x2") == ((0xD6E3 * 0x2C49) + -(0x41 >> 1)) << 2
    for text in ("1 << 10**9", "1 << 100000", "2 ** 3", "1.5", "True", "x", "f()", "1 / 2"):
        with pytest.raises(OutsideOfGrammar):
            integer(text)
    assert literal(" [[1, 'a'], (2, 3)]") == [[1, "a"], (2, 3)]
    for text in ("[f()]", "a", "[x for x in y]", "1 +", "f'{x}'"):
        with pytest.raises(OutsideOfGrammar):
            literal(text)


def item(task: str, answer: str = "1") -> GradeItem:
    return GradeItem(f"<answer>{answer}</answer>", "1", "reasoning_gym", {"task": task, "entry": {"metadata": {}}})


@pytest.mark.parametrize(
    ("declared", "task", "message"),
    [
        ({}, "gcd", "'reasoning_gym', which this experiment does not declare"),
        ({"row_verifiers": ("reasoning_gym",)}, "gcd", "task 'gcd', which this experiment does not declare"),
        ({"verifier": "reasoning_gym"}, "gcd", "task 'gcd', which this experiment does not declare"),
        ({"verifier": "reasoning_gym", "reasoning_gym_tasks": ("lcm",)}, "gcd", "does not declare"),
    ],
)
def test_a_row_names_only_what_the_experiment_declares(declared: dict[str, Any], task: str, message: str) -> None:
    with Grader(RewardsConfig(**declared)) as grader, pytest.raises(TbrmError, match=message):
        list(grader.grade([item(task)]))


@pytest.mark.parametrize("task", ["composite", "of_a_later_version"])
def test_tasks_that_nobody_read_are_refused_with_a_reason(task: str) -> None:
    assert refusal(task)
    with pytest.raises(ValidationError, match="is not graded"):
        RewardsConfig(reasoning_gym_tasks=(task,))
    config = RewardsConfig(verifier="reasoning_gym").declaring([], [task])  # as prompts declare it
    with Grader(config) as grader, pytest.raises(TbrmError, match=f"{task}' are not graded"):
        list(grader.grade([item(task)]))
    with pytest.raises(ValueError, match="is not graded"):
        scorer(task)


def test_the_packages_scorer_runs_code_only_where_the_yaml_says_so() -> None:
    named = RewardsConfig(verifier="reasoning_gym", tasks_whose_scorer_runs_answers_as_code=("countdown",))
    with Grader(named) as grader:
        used = grader.verifier_of(item("countdown"))
        assert (used.name, used.runs_code) == ("reasoning_gym_running_code", True)
    with Grader(RewardsConfig(verifier="reasoning_gym", reasoning_gym_tasks=("countdown",))) as grader:
        used = grader.verifier_of(item("countdown"))
        assert (used.name, used.runs_code) == ("reasoning_gym", False)
    with Grader(named) as grader, pytest.raises(TbrmError, match="does not declare"):
        grader.verifier_of(GradeItem("1", "1", "reasoning_gym_running_code"))


def test_prompts_of_reasoning_gym_declare_their_tasks() -> None:
    from pipeline.config import load_experiment
    from pipeline.config.experiment import declared_rewards

    assert not load_experiment("arith_tiny").rewards.may_run("reasoning_gym")
    prompts = {"source": "reasoning_gym", "reasoning_gym": {"tasks": ["gcd", "lcm"]}, "per_generation": 8}
    experiment = load_experiment("arith_tiny", [f"prompts={json.dumps(prompts)}"])
    found = declared_rewards(experiment)
    assert found.may_run("reasoning_gym")
    assert [found.may_grade(task) for task in ("gcd", "lcm", "countdown")] == [True, True, False]
    assert found.deciding() == experiment.rewards.deciding()
