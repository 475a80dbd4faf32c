"""Detectors of reasoning patterns: what they find, what they leave alone, what hostile text cannot do to them."""

import pytest

from evals.patterns.detectors import LIMIT, PATTERNS, detect
from evals.patterns.rates import StoredResponse, spread


@pytest.mark.parametrize(
    ("text", "pattern", "rule"),
    [
        ("So x = 4. Let's verify this with x = 4.", "verification", "verify"),
        ("So x = 4.\n\nVerification: 4 + 1 = 5.", "verification", "verification"),
        ("We double-check the sum.", "verification", "verify"),
        ("We check our answer once more.", "verification", "check_result"),
        ("Substituting x = 2 back into it, the original equation holds.", "verification", "substitute_back"),
        ("Let us check whether n = 5 works.", "verification", "check_holds"),
        ("However, we made a mistake in the second step.", "backtracking", "mistake"),
        ("That gives 7. Wait, the sign is wrong.", "backtracking", "wait"),
        ("We need to reconsider the form.", "backtracking", "again"),
        ("Let's try a different approach.", "backtracking", "another_way"),
        ("we get 23 = 25, which is incorrect.", "backtracking", "step_wrong"),
        ("Let's break the problem into two parts.", "decomposition", "break_down"),
        ("### Step 1: find a\na = 2\n### Step 2: find b", "decomposition", "steps"),
        ("We can follow these steps:", "decomposition", "follow_steps"),
        ("Case 1: n is even.\nCase 2: n is odd.", "enumeration", "cases"),
        ("List all possible pairs of marbles.", "enumeration", "list_all"),
        ("- If a = 1, b = 2.\n- If a = 2, b = 4.\n- If a = 3, b = 6.", "enumeration", "for_each"),
    ],
)
def test_found_with_its_rule(text: str, pattern: str, rule: str) -> None:
    found = detect(text)
    assert found[pattern].rule == rule
    assert text[found[pattern].start : found[pattern].end].strip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "57",
        "The number of ways the waiter could serve the incorrect meal is 9.",
        "We check the possible values of n.",
        "Divide it by 2 and square it.",
        "Print the quotient to see if there was an error.",
        "We consider all possible numbers with three digits: there are 900.",
        "From the symmetry property, case closed.",
        "```output\nwas an error\nLet's verify\n```",
        "Step 1 is all there is.",
    ],
)
def test_left_alone(text: str) -> None:
    assert detect(text) == {}


@pytest.mark.parametrize(
    "unit",
    ["let's ", "step 1\n", "case 1 ", "```output", "check all the ", "if a = 1\n", "\n" * 9, " ", "substitute a "],
)
def test_long_hostile_text_is_read_to_its_limit(unit: str) -> None:
    detect(unit * (40_000 // len(unit)))
    assert detect("x" * LIMIT + " Let's verify this.") == {}


def test_every_pattern_says_what_it_means() -> None:
    assert [p.name for p in PATTERNS] == ["verification", "backtracking", "decomposition", "enumeration"]
    assert all(p.meaning and p.rules for p in PATTERNS)


def test_a_sample_is_spread_over_the_whole() -> None:
    rows = [StoredResponse(str(i), "p", "policy", "") for i in range(10)]
    assert [row.id for row in spread(rows, 5)] == ["0", "2", "4", "6", "8"]
    assert spread(rows, 20) == rows
