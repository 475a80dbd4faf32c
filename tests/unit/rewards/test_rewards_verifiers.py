"""What a policy would learn to write if it were paid for it, and what honest answers look like."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.rewards import BUILTIN_VERIFIERS, RewardsConfig
from pipeline.errors import ConfigError
from pipeline.rewards.grader import Grader
from pipeline.rewards.types import GradeItem, RewardLabel
from pipeline.rewards.verifiers import exact_integer, get_verifier, math_verify, multiple_choice, plain, r1_format

PAPER_TASKS = ("course_schedule", "family_relationships", "largest_island", "quantum_lock", "shortest_path")


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    everything = RewardsConfig(workers=1, row_verifiers=BUILTIN_VERIFIERS, reasoning_gym_tasks=PAPER_TASKS)
    with Grader(everything) as running:
        yield running


def label(grader: Grader, response: str, answer: str, verifier: str = "math_verify", **extra: object) -> RewardLabel:
    return next(grader.grade([GradeItem(response, answer, verifier, extra)]))  # type: ignore[arg-type]


RIGHT = [
    ("so \\boxed{57}", "57"),
    ("57", "57"),
    ("\\boxed{\\frac34}", "\\frac{3}{4}"),
    ("\\boxed{0.5}", "\\frac{1}{2}"),
    ("\\boxed{x=5}", "5"),
    ("\\boxed{5}", "x=5"),
    ("\\boxed{5\\text{ cm}}", "5"),
    ("\\boxed{\\boxed{5}}", "5"),
    ("\\boxed{1,234}", "1234"),
    ("\\boxed{1234}", "1,234"),
    ("\\boxed{10,\\!080}", "10080"),
    ("\\boxed{50\\%}", "\\frac{1}{2}"),
    ("\\boxed{50}", "50\\%"),
    ("\\boxed{(1, 2)}", "(1,2)"),
    ("\\boxed{2, 1}", "1,2"),
    ("\\boxed{\\{1,2\\}}", "1,2"),
    ("\\boxed{3, -3}", "\\pm 3"),
    ("\\boxed{[0, \\infty)}", "[0,\\infty)"),
    ("first \\boxed{3}, so the answer is \\boxed{4}", "4"),
    ("\\boxed{36^\\circ}", "36"),
    ("x" * 1_000_000 + "\\boxed{7}", "7"),
]
WRONG = [
    ("\\boxed{58}", "57"),
    ("\\boxed{5} or \\boxed{6}", "6"),
    ("\\boxed{1}\\boxed{2}\\boxed{30}", "30"),
    ("\\boxed{1, 2, 3, 4}", "3"),
    ("\\boxed{30 \\text{ min}, 80 \\text{ min}}", "30"),
    ("\\boxed{30 \\text{ or 31}}", "30"),
    ("\\boxed{30 \\text{ cm} 31 \\text{ cm}}", "30"),
    ("\\boxed{5; 6}", "5"),
    ("\\boxed{\\text{three}}", "3"),
    ("\\boxed{x}", "5"),
    ("\\boxed{x}", "x+1"),
    ("\\boxed{\u0665}", "5"),
    ("\\boxed{\uff15}", "5"),
    ("the problem says 57. \\boxed{12}", "57"),
    ("57 \\boxed{}", "57"),
    ("\\boxed{57}\\boxed{}", "57"),
    ("\\boxed{\\pm 3}", "3"),
    ("\\boxed{3}", "\\pm 3"),
    ("\\boxed{(1, 2)}", "[1,2]"),
    ("\\boxed{(1, 5)}", "5"),
    ("\\boxed{0 \\le x \\le 9}", "9"),
    ("\\boxed{1,234}", "234"),
    ("\\boxed{0.3}", "\\frac{1}{3}"),
    ("", "5"),
]


@pytest.mark.parametrize(("response", "answer"), RIGHT)
def test_honest_answers_are_right(grader: Grader, response: str, answer: str) -> None:
    found = label(grader, response, answer)
    assert (found.reward, found.status) == (1.0, "ok"), found


@pytest.mark.parametrize(("response", "answer"), WRONG)
def test_degenerate_answers_earn_nothing(grader: Grader, response: str, answer: str) -> None:
    found = label(grader, response, answer)
    assert found.reward == 0.0, found
    assert found.status in ("ok", "wrong_format")


def test_numbers_that_contradict_each_other_earn_nothing(grader: Grader) -> None:
    for response, answer in [("\\boxed{5 \\approx 6}", "5"), ("\\boxed{31 = 30}", "30"), ("\\boxed{50\\%}", "50")]:
        assert label(grader, response, answer).reward == 0.0
        assert label(grader, response, answer, "plain").reward == 0.0


def test_an_empty_box_and_a_missing_box_are_wrong_format(grader: Grader) -> None:
    assert label(grader, "\\boxed{ }", "5").status == "wrong_format"
    with Grader(RewardsConfig(workers=1, require_boxed=True)) as strict:
        assert [found.status for found in strict.grade([GradeItem("5", "5"), GradeItem("\\boxed{5}", "5")])] == [
            "wrong_format",
            "ok",
        ]


def test_an_unreadable_gold_answer_is_an_error_not_a_wrong_response(grader: Grader) -> None:
    assert label(grader, "\\boxed{x^2}", "").status == "error"
    assert label(grader, "\\boxed{5}", "1.5", "exact_integer").status == "error"


@given(st.integers(-(10**17), 10**17), st.integers(-(10**17), 10**17), st.booleans())
@settings(deadline=None, max_examples=40)
def test_the_integer_shortcut_decides_as_math_verify_does(given_: int, gold: int, boxed: bool) -> None:
    for answer in (gold, given_):
        text = f"\\boxed{{{given_}}}" if boxed else str(given_)
        short = math_verify.shortcut(math_verify.reduce(text), str(answer), require_boxed=False)
        whole = math_verify.grade(text, str(answer), {})
        assert short is not None
        assert (short.reward, short.status) == (whole.reward, whole.status)


@pytest.mark.parametrize(
    ("response", "answer", "reward", "status"),
    [
        ("\\boxed{025}", "25", 1.0, "ok"),
        ("\\boxed{336^\\circ}", "336", 1.0, "ok"),
        ("\\boxed{1,234}", "1234", 1.0, "ok"),
        ("the answer is 27.0", "27", 1.0, "ok"),
        ("\\boxed{26}", "27", 0.0, "ok"),
        ("\\boxed{\\frac{54}{2}}", "27", 0.0, "wrong_format"),
        ("\\boxed{1,2}", "12", 0.0, "wrong_format"),
        ("\\boxed{\u0665}", "5", 0.0, "wrong_format"),
        ("nothing", "5", 0.0, "wrong_format"),
    ],
)
def test_exact_integer(response: str, answer: str, reward: float, status: str) -> None:
    found = exact_integer.shortcut(exact_integer.reduce(response), answer, require_boxed=False)
    assert (found.reward, found.status) == (reward, status)


@pytest.mark.parametrize(
    ("response", "answer", "reward", "status"),
    [
        ("\\boxed{B}", "B", 1.0, "ok"),
        ("\\boxed{\\text{b}}", "(B)", 1.0, "ok"),
        ("The answer is (C).", "C", 1.0, "ok"),
        ("Answer: D", "C", 0.0, "ok"),
        ("b", "B", 1.0, "ok"),
        ("\\boxed{A, B, C, D}", "B", 0.0, "wrong_format"),
        ("\\boxed{A} or \\boxed{B}", "B", 0.0, "wrong_format"),
        ("I do not know", "B", 0.0, "wrong_format"),
    ],
)
def test_multiple_choice(response: str, answer: str, reward: float, status: str) -> None:
    found = multiple_choice.shortcut(multiple_choice.reduce(response), answer, require_boxed=False)
    assert (found.reward, found.status) == (reward, status)


@pytest.mark.parametrize(
    ("response", "reward", "status"),
    [
        ("so 5</think> <answer>5</answer>", 1.0, "ok"),
        ("so 5</think>\n<answer> \\boxed{5} </answer>\n", 1.0, "ok"),
        ("so</think> <answer>The value is $x = 5$.</answer>", 1.0, "ok"),
        ("so</think> <answer>6</answer>", 0.0, "ok"),
        ("so</think> <answer></answer>", 0.0, "wrong_format"),
        ("5", 0.0, "wrong_format"),
        ("<answer>5</answer>", 0.0, "wrong_format"),
        ("</think> <answer>5</answer> and then prose", 0.0, "wrong_format"),
        ("</think> <answer>4</answer> <answer>5</answer>", 0.0, "wrong_format"),
        ("</think></think> <answer>5</answer>", 0.0, "wrong_format"),
    ],
)
def test_r1_format(grader: Grader, response: str, reward: float, status: str) -> None:
    found = label(grader, response, "5", "r1_format")
    assert (found.reward, found.status) == (reward, status)
    assert r1_format.tagged_answer(response) is None or status == "ok" or not r1_format.tagged_answer(response)


def test_reasoning_gym_uses_the_tasks_own_scorer(grader: Grader) -> None:
    import json

    import reasoning_gym

    for task in PAPER_TASKS:
        entry = reasoning_gym.create_dataset(task, size=1, seed=3)[0]
        stored = json.loads(json.dumps(entry, default=str))
        right = label(
            grader, f"… <answer>{entry['answer']}</answer>", entry["answer"], "reasoning_gym", task=task, entry=stored
        )
        wrong = label(grader, "<answer>no idea</answer>", entry["answer"], "reasoning_gym", task=task, entry=stored)
        assert (right.reward, right.status) == (1.0, "ok"), task
        assert wrong.reward < 1.0
    assert label(grader, "5", "5", "reasoning_gym").status == "error"


@pytest.mark.parametrize(
    ("given_", "gold", "same"),
    [
        ("\\frac{1}{2}", "0.5", True),
        ("\\dfrac12", "\\frac{1}{2}", True),
        ("50\\%", "0.5", True),
        ("1{,}234", "1234", True),
        ("2\\sqrt{3}", "\\sqrt{12}", True),
        ("(x+1)^2", "x^2+2x+1", True),
        ("\\text{Evelyn}", "evelyn", True),
        ("5 \\text{ cm}", "5", True),
        ("x = 5", "5", True),
        ("\\frac{1}{3}", "0.33", False),
        ("x", "5", False),
        ("9**9**9**9", "1", False),
        ("__import__('os')", "1", False),
    ],
)
def test_plain_comparison(given_: str, gold: str, same: bool) -> None:
    assert plain.equivalent(given_, gold)[0] is same


def test_the_registry_holds_what_the_configuration_names() -> None:
    for name in BUILTIN_VERIFIERS:
        verifier = get_verifier(name)
        assert verifier.name == name
        assert verifier.version
    with pytest.raises(ConfigError, match="there is no verifier 'vibes'"):
        get_verifier("vibes")
    with pytest.raises(ConfigError, match="there is no module 'no_such_module'"):
        get_verifier("no_such_module:grade")
