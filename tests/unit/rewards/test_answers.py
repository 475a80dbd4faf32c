"""What counts as the same answer: our own cases for every kind that a verifier is talked into, or refuses."""

import logging

import pytest

from pipeline.config.rewards import RewardConventions, RewardsConfig
from pipeline.rewards import GradeItem, Grader, RewardLabel
from pipeline.rewards.answers.compare import Conventions, compare, fault, value_key
from pipeline.rewards.answers.numbers import read_number
from pipeline.rewards.verifiers import exact_integer, get_verifier, math_verify, r1_format
from tests.support.answer_variants import hard_negatives, spellings

logging.getLogger("math_verify").setLevel(logging.ERROR)

TWENTY_FIVE = [
    "25.",
    "25.0",
    "25^\\circ",
    "25°",
    "\\text{25}",
    "\\mathrm{25}",
    "25 \\text{ dollars}",
    "\\$25",
    "25 dollars",
    "\\text{There are }25\\text{ ways}",
    "x = 25",
    "x=25.",
    "\\textbf{25}",
    "\\mathbf{25}",
    "25\\text{ units}",
    "25\\,\\text{cm}",
    "25~\\text{cm}^2",
    "25 \\text{ square units}",
    "25\\,\\mathrm{m/s}",
    "25 km/h",
    "(25)",
    "{25}",
    "+25",
    "5^2",
    "\\frac{50}{2}",
    "50/2",
    "20+5",
    "25 \\text{ cm}^{3}",
    "n=25",
    "\\angle A = 25^\\circ",
    "f(3)=25",
    "a+b=25",
    "24+1=25",
    "25_{10}",
    "\\text{Answer: }25",
    "25\\checkmark",
    "\\displaystyle 25",
    "\\large 25",
    "25\\ ",
    "25\\quad",
    "\\sqrt{625}",
    "25 \\text{ people}",
    "The answer is 25",
    "25 (units)",
    "\\text{Total: } 25",
    "\\text{Area} = 25",
    "25\\ \\text{miles per hour}",
    "2.5\\times10^1",
    "2.5 \\times 10^{1}",
    "2.5e1",
    "\\color{red}{25}",
    "\\underline{25}",
    "\\boxed{25}",
    "25\\text{ days}",
    "\\mathbf{25}.",
    "m+n=25",
    "25\\,\\text{ cm}",
]
"""Answers that are 25."""
OTHERS = [
    "24 25",
    "24 \\quad 25",
    "24 \\\\ 25",
    "24 | 25",
    "24 \\to 25",
    "25?",
    "~24, 25",
    "25+",
    "\\geq 25",
    "25 \\pm 1",
    "between 24 and 26",
    "25 (maybe 26)",
    "\\text{25 or so}",
    "24/25",
    "24:25",
    "25!",
    "25\\ldots 30",
    "25-30",
    "25--30",
    "25 \\sim 30",
    "\\approx 24",
    "25x",
    "x^{25}",
    "25^2",
    "25 \\cdot 10^3",
    "25k",
    "25 thousand",
    "25\\text{ hundred}",
    "-25",
    "(25,26)",
    "[25,26]",
    "25 \\lor 26",
    "25 \\vee 26",
    "25 or\\ 26",
    "25 / 26",
    "25 OR 26",
    "25 | 0",
    "\\{25\\} \\cup \\{26\\}",
    "25 \\text{ if } x>0",
    "\\text{either }25",
    "\\text{all but }25",
    "25 \\land 26",
    "\\begin{cases}25\\\\26\\end{cases}",
    "\\begin{pmatrix}25\\\\26\\end{pmatrix}",
    "25\\text{ or }26\\text{ or }27",
    "\\text{25, 26}",
    "\\frac{25}{26}",
    "25\\, , 26",
    "x=25, y=26",
    "x = 25 \\text{ or } x=24",
    "25 \\& 26",
    "25 and 26",
    "25 & 26",
    "25_8",
    "25_{16}",
    "25e1",
    "25E3",
    "2 5",
    "2\\,5",
    "0.25",
    "25\\%",
    "\\neq 25",
    "\\ne 25",
    "!= 25",
    "x \\ne 25",
    "\\not= 25",
    "<25",
    "x<25",
    "25 < x",
    "\\text{not 25}",
    "\\overline{25}",
    "\\sqrt{25}",
    "25\\pi",
    "25i",
    "|25|x",
    "25\\degree\\text{F or }26",
    "\\text{at most }25",
    "no more than 25",
    "25 \\text{ is wrong, } 26",
    "26 \\text{ not } 25",
    "\\text{The answer is not }25",
    "24=25",
    "25=26",
    "25 \\approx 30",
    "25 \\neq 26",
    "25 \\le 26",
    "\\infty",
    "",
    "\\ ",
    "25 \\text{ percent}",
    "1/25",
    "(25)(2)",
    "25 \\mid 50",
    "\\{24,25\\}",
    "24,\\,25",
    "\\underline{24} 25",
    "\\cancel{24} 25 26",
    "25 \\times 1 + 1",
]
"""Answers that are not 25, or not only."""
SAME = [
    ("1\\,234", "1234"),
    ("1 234", "1234"),
    ("1{,}234", "1234"),
    ("1,234.00", "1234"),
    ("$1,234", "1234"),
    ("1,234 \\text{ dollars}", "1234"),
    ("x \\le 3", "(-\\infty,3]"),
    ("x > 2", "(2,\\infty)"),
    ("3 \\ge x", "(-\\infty, 3]"),
    ("-2 < x \\leq 7", "(-2,7]"),
    ("x\\in(-2,7]", "(-2,7]"),
    ("(2,\\infty)", "x>2"),
    ("x < -1 \\text{ or } x > 3", "(-\\infty,-1)\\cup(3,\\infty)"),
    ("(-\\infty,-1)\\cup(3,\\infty)", "x<-1 \\text{ or } x>3"),
    ("1 and 2", "1,2"),
    ("x=1 \\text{ or } x=2", "1,2"),
    ("x = 1, 2", "1,2"),
    ("x_1=1, x_2=2", "1,2"),
    ("\\pm 3", "3,-3"),
    ("1 + \\sqrt2, 1-\\sqrt2", "1\\pm\\sqrt2"),
    ("25.0\\%", "25\\%"),
    ("0.25", "25\\%"),
    ("25", "25\\%"),
    ("\\frac{1}{4}", "25\\%"),
    ("5 \\text{ hours}", "5\\text{ hrs}"),
    ("5 cm", "5\\text{ centimeters}"),
    ("5 ft", "5\\text{ feet}"),
    ("\\frac{\\pi}{2} \\approx 1.57", "\\frac{\\pi}{2}"),
    ("1.5707963", "\\frac{\\pi}{2}"),
    ("y=2x+3", "2x+3"),
    ("2x+3", "y=2x+3"),
    ("2x - y + 3=0", "y=2x+3"),
    ("52_8", "52_{8}"),
    ("52", "52_8"),
    ("\\begin{bmatrix}1\\\\2\\end{bmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("\\langle 1,2\\rangle", "(1,2)"),
    ("1:2", "1:2"),
    ("\\frac{1}{2}", "1:2"),
    ("\\text{C}", "\\text{(C)}"),
    ("C", "(C)"),
    ("\\text{No}", "no"),
    ("no solution", "\\text{no solution}"),
    ("\\emptyset", "\\varnothing"),
    ("\\{ \\}", "\\emptyset"),
    ("3\\sqrt{13}", "\\sqrt{117}"),
    ("\\dfrac{3}{56}", "\\frac{3}{56}"),
    ("-\\dfrac{3}{56}", "\\frac{-3}{56}"),
    ("2^{1009}", "2^{1009}"),
    ("4.5 \\times 10^{33} \\text{ erg/s}", "4.5e33"),
    ("10^{33}\\times 4.5", "4.5e33"),
    ("4.5 \\cdot 10^{33}\\;\\text{erg}", "4.5e33"),
    ("4.50 \\times 10^{33}", "4.5e33"),
]
"""(answer, gold)"""
DIFFERENT = [
    ("x \\ge 3", "(-\\infty,3]"),
    ("x<3", "(-\\infty,3]"),
    ("1, 2, 3", "1,2"),
    ("1", "1,2"),
    ("1 or 3", "1,2"),
    ("(2,1)", "(1,2)"),
    ("5 \\text{ minutes}", "5\\text{ hours}"),
    ("5 \\text{ cm}^2", "5\\text{ cm}^3"),
    ("5 \\text{ meters}", "5\\text{ cm}"),
    ("1.6 \\times 10^{-19}", "6.63\\times 10^{-34}"),
    ("0", "6.63e-34"),
    ("1e-30", "6.63e-34"),
    ("\\frac{1}{2006!}", "\\frac{1}{2004!}"),
    ("Eq(x**2/16 + y**2/12, 1)", "Eq(x**2/4 + y**2/3, 1)"),
    ("\\frac{x^2}{16}+\\frac{y^2}{12}=1", "\\frac{x^2}{4}+\\frac{y^2}{3}=1"),
    ("1.6 \\times 10^{-19} x", "6.63\\times 10^{-34} x"),
    ("y=2x+4", "y=2x+3"),
    ("N=m", "N=n"),
    ("1=0", "N=n"),
    ("0.33", "\\frac13"),
    ("0.3333", "\\frac13"),
    ("2500, 7501", "2500,7500"),
    ("\\text{yes}", "no"),
    ("[1,2]", "(1,2)"),
    ("(1,2]", "[1,2)"),
    ("D", "(C)"),
    ("\\text{C or D}", "\\text{(C)}"),
    ("C, D", "(C)"),
    ("\\pm3", "3"),
    ("3", "\\pm 3"),
    ("52_9", "52_8"),
    ("53", "52_8"),
]
GOLDS = [
    "25",
    "-125",
    "4.5e33",
    "-1./3",
    "0.006",
    "10,\\!080",
    "\\frac{3}{56}",
    "3\\sqrt{13}",
    "90^\\circ",
    "5.4 \\text{ cents}",
    "52_8",
    "(3,4]",
    "(-\\infty, 0]",
    "1,-2",
    "2,3,4",
    "p - q",
    "x=5",
    "6 - 5i",
    "\\left( 3, \\frac{\\pi}{2} \\right)",
    "62.5%",
]


def verdict_of(response: str, answer: str, verifier: str = "math_verify") -> RewardLabel:
    """In this process, without limits."""
    used = get_verifier(verifier)
    reduced = used.reduce(response)
    return used.shortcut(reduced, answer, False) or used.grade(reduced, answer, {})


@pytest.mark.parametrize("answer", TWENTY_FIVE)
def test_twenty_five_in_many_spellings(answer: str) -> None:
    assert verdict_of(f"\\boxed{{{answer}}}", "25").reward == 1.0


@pytest.mark.parametrize("answer", OTHERS)
def test_what_is_not_twenty_five(answer: str) -> None:
    assert verdict_of(f"\\boxed{{{answer}}}", "25").reward == 0.0


@pytest.mark.parametrize(("answer", "gold"), SAME)
def test_the_same_answer(answer: str, gold: str) -> None:
    assert compare(gold, answer).same, compare(gold, answer)


@pytest.mark.parametrize(("answer", "gold"), DIFFERENT)
def test_another_answer(answer: str, gold: str) -> None:
    assert compare(gold, answer).same is False, compare(gold, answer)


@pytest.mark.parametrize("gold", GOLDS)
def test_spellings_and_hard_negatives_of_gold_answers(gold: str) -> None:
    for kind, response in spellings(gold):
        assert verdict_of(response, gold).reward == 1.0, (kind, response)
    for kind, response in hard_negatives(gold):
        assert verdict_of(response, gold).reward == 0.0, (kind, response)


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("The answer is 43 or 42.", "42", False),
        ("not 42", "42", False),
        ("The answer is not 42", "42", False),
        ("It could be 42 or 43", "42", False),
        ("We get 42 but I put <answer>43</answer>", "42", False),
        ("<think>\\boxed{42}</think>", "42", False),
        ("<think>\\boxed{43}</think> \\boxed{42}", "42", True),
        ("\\boxed{42} then \\boxed{43", "42", False),
        ("\\boxed{42", "42", False),
        ("\\boxed{42}\n\\boxed{43}", "42", False),
        ("The answer is 42.", "42", True),
        ("Answer: $34$", "34", True),
        ("#### 42", "42", True),
        ("so x = 42", "42", True),
        ("\\boxed 7", "7", True),
        ("<answer>42</answer>", "42", True),
        ("<answer>\\(x = 42\\)</answer>", "42", True),
        ("\\boxed{42} of the first.\n<answer>43</answer>", "43", True),
        ("$\\boxed{5}$ for even $n$ and $\\boxed{6}$ for odd $n$", "5,6", True),
        ("$\\boxed{5}$ for even $n$ and $\\boxed{6}$ for odd $n$", "5", False),
        ("\\boxed{255}. Final Answer: The final answer is $10,455$. I hope it is correct.", "10455", True),
        ("\\boxed{42}\n\nThus the final answer is indeed correct.", "42", True),
        ("\\boxed{42}\n\\boxed{42}", "42", True),
    ],
)
def test_where_the_answer_stands(response: str, answer: str, right: bool) -> None:
    assert (verdict_of(response, answer).reward == 1.0) is right


@pytest.mark.parametrize("gold", ["ext{13}", "t(0,4]", "f(x)=ax+b$, where $b$ is an integer and $a>0", "not 5"])
def test_a_gold_answer_that_is_not_understood_is_at_fault(gold: str) -> None:
    assert fault(gold)
    found = math_verify.grade("\\boxed{13}", gold, {})
    assert (found.reward, found.status) == (0.0, "error")


@pytest.mark.parametrize(
    "gold",
    [
        "4.5e33",
        "np.arcsin(10/13)",
        "N=n",
        "\\frac{1}{m} t",
        "(-\\infty, 0) \\cup\\{1\\}$.",
        "864 \\mbox{ inches}^2",
        "E_{1},E_{2}",
        "\\hbar \\omega(v+1 / 2)-\\frac{E_{0}^{2} e^{2}}{2 m \\omega^{2}}",
        "221,$8",
        "\\text{Evelyn}",
    ],
)
def test_gold_answers_that_were_misread_are_understood(gold: str) -> None:
    assert fault(gold) is None


def test_the_same_text_is_right_even_where_nobody_understands_it() -> None:
    gold = "f(x)=a x+b$, where $b$ is an arbitrary integer"
    assert verdict_of(f"\\boxed{{{gold}}}", gold).reward == 1.0


def test_the_tolerance_is_relative_and_can_be_set() -> None:
    assert compare("\\frac13", "0.333333").same
    assert not compare("\\frac13", "0.33333").same
    assert compare("\\frac13", "0.333", Conventions(relative_tolerance=1e-3)).same
    assert compare("6.63e-34", "6.6300000001e-34").same
    assert not compare("6.63e-34", "6.64e-34").same
    assert not compare("12345678", "12345679.0").same  # whole numbers state every digit
    assert not compare("0", "1e-12").same


def test_percent_and_decimal_commas_are_conventions() -> None:
    assert not compare("25", "25\\%").same
    assert compare("25", "25\\%", Conventions(percent_is_the_number=True)).same
    assert compare("25", "25.0\\%", Conventions(percent_is_the_number=True)).same
    assert not compare("2.74", "2,74").same
    assert compare("2.74", "2,74", Conventions(decimal_comma=True)).same


def test_conventions_come_from_the_configuration_and_change_the_version() -> None:
    loose = RewardConventions(percent_is_the_number=True, answer_in_thoughts=True)
    items = [GradeItem("\\boxed{25\\%}", "25"), GradeItem("<think>\\boxed{5}</think>", "5"), GradeItem("5", "5")]
    with Grader(RewardsConfig(workers=1)) as grader:
        assert [label.reward for label in grader.grade(items)] == [0.0, 0.0, 1.0]
        strict = grader.verifier_of(items[0]).version
    with Grader(RewardsConfig(workers=1, conventions=loose)) as grader:
        assert [label.reward for label in grader.grade(items)] == [1.0, 1.0, 1.0]
        assert grader.verifier_of(items[0]).version != strict


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("x = 25", 25),
        ("\\text{25}", 25),
        ("25\\text{ cm}", 25),
        ("25^\\circ", 25),
        ("25 dollars", 25),
        ("25.", 25),
        ("1\\,234", 1234),
        ("1 234", 1234),
        ("$25$", 25),
        ("-7", -7),
        ("25\\%", None),
        ("24 or 25", None),
        ("\\text{not }25", None),
        ("\\neq 25", None),
        ("x > 25", None),
        ("25_8", None),
        ("\\frac{50}{2}", None),
        ("24, 25", None),
        ("25 \\text{ million}", None),
    ],
)
def test_exact_integers_with_names_and_units(answer: str, value: int | None) -> None:
    assert exact_integer.to_integer(answer) == value


@pytest.mark.parametrize(
    ("inside", "right"),
    [
        ("42", True),
        ("43 or 42", False),
        ("not 42", False),
        ("42 or 43", False),
        ("$x = 42$.", True),
        ("7^2 - 7 = 42", True),
    ],
)
def test_tags_of_r1(inside: str, right: bool) -> None:
    response = f"so</think> <answer>{inside}</answer>"
    assert r1_format.tagged_answer(response) == inside
    assert (verdict_of(response, "42", "r1_format").reward == 1.0) is right


@pytest.mark.parametrize(
    "text", ["--5", "1,23", "1.2.3", "5e99999", "1/0", "\\frac{1}{0}", "x", "", "\u0665", "1e", "3 \\frac{7}{2}", "(5"]
)
def test_what_is_no_number(text: str) -> None:
    assert read_number(text) is None


def test_values_have_one_key() -> None:
    assert len({value_key(text) for text in ("12", "12.0", "x = 12", "$12$", "12.", "1.2e1")}) == 1
    assert value_key("12") != value_key("12\\%")
    assert value_key("1, 2") == value_key("\\{2,1\\}") != value_key("(1,2)")
    assert value_key("\\sqrt{ 2 }") == value_key("\\sqrt{2}")
