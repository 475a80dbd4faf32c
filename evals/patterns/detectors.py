"""Detectors of reasoning patterns in responses (paper, App. F.2 and H.2): readable rules, shown evidence.

The paper judges verification, backtracking, decomposition and enumeration, but prints no rules that a program could
repeat. These are our rules for English mathematical text. Each is a list of named regular expressions; one match
makes the pattern present, and the match is kept as evidence. They see words, not thoughts: a response that verifies
without saying so is missed, and one that says so without doing it is counted. docs/patterns.md says how often.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LIMIT = 200_000
"""At most so many characters of a response are looked at. Each rule starts at few places and looks a bounded distance
ahead, so that no text, however contrived, makes it slow."""
_OUTPUT = re.compile(r"```output.{0,4000}?```", re.DOTALL)


@dataclass(frozen=True)
class Pattern:
    """`rules`: name of a rule -> expressions that must match one after another; the first rule that does is shown."""

    name: str
    meaning: str
    rules: Mapping[str, Sequence[re.Pattern[str]]]


@dataclass(frozen=True)
class Evidence:
    """Where a rule matched: text[start:end]."""

    rule: str
    start: int
    end: int


def _rules(**rules: str | tuple[str, ...]) -> dict[str, list[re.Pattern[str]]]:
    return {
        name: [re.compile(part, re.IGNORECASE | re.VERBOSE) for part in ([text] if isinstance(text, str) else text)]
        for name, text in rules.items()
    }


_US = r"(?:\b(?:let['\u2019]?s|let\s+us|let\s+me|we|i|we['\u2019]ll|i['\u2019]ll)\s+(?:\w+\s+){0,3})"
_LINE = r"(?:^|\n)[\ \t*\#\d.\-]{0,12}"
"""Start of a line, with the marks of a list or heading."""
_FIRST, _SECOND = r"(?:1|one|i|a)\b", r"(?:2|two|ii|b)\b"
_WHEN = _LINE + r"(?:for|if|when)\s{1,3}[\\($]{0,3}\w{1,3}\s{0,3}=\s{0,3}-?\d+"
"""`- If a = 1`"""

PATTERNS: tuple[Pattern, ...] = (
    Pattern(
        "verification",
        "checks a result it already has: verifies, double-checks, substitutes it back",
        _rules(
            verify=_US + r"(?:verify|double[-\s]?check|re-?check|confirm)\b",
            to_verify=r"\bto\s+(?:verify|double[-\s]?check|confirm)\b(?!\s+(?:if|whether)\s+a\b)",
            verification=_LINE + r"verif(?:ication|ying)\b",
            check_result=r"\bcheck(?:ing)?\s+(?:our|the|this|that|my|if\s+(?:this|our|the))\s+(?:\w+\s+){0,2}"
            r"(?:answer|solution|result|calculations?|computations?|work)\b",
            check_holds=_US + r"check\s+(?:if|whether|that)\s+(?:this|these|it|they|\\?\(?\$?\w{1,3}\s*=)",
            substitute_back=r"\b(?:substitut|plug)\w*\s+(?:\S+\s+){0,6}?back\b(?=[^.\n]{0,160}"
            r"(?:check|verif|confirm|satisf|original\s+equation|true|holds))",
        ),
    ),
    Pattern(
        "backtracking",
        "gives up a step it took: names its own mistake, or starts again in another way",
        _rules(
            mistake=r"(?<!if\sthere\s)\b(?:made|was|is|contains?|found|spotted|noticed)\s+(?:a|an|some)\s+(?:\w+\s+){0,2}"
            r"(?:mistake|error|oversight|misunderstanding|miscalculation|misinterpretation|discrepancy)\b",
            again=_US + r"(?:re-?evaluate|reconsider|re-?examine|revisit|re-?calculate|re-?think|start\s+over"
            r"|try\s+again)\b",
            another_way=_US + r"(?:try|take|use|find|consider)\s+(?:a\s+different|another|an\s+alternative)\s+"
            r"(?:approach|method|way|strategy)\b",
            wait=r"(?:^|[.!?\n][\ \t]{0,4})(?:wait\b|hmm+\b|oops\b|hold\s+on\b|on\s+second\s+thought)",
            step_wrong=r"\b(?:this|that|which|calculation|approach|result|step|assumption)\s+(?:\w+\s+){0,2}(?:is|was|seems?|must\s+be)\s+"
            r"(?:clearly\s+|obviously\s+|also\s+)?(?:incorrect|wrong|not\s+(?:correct|right))\b",
            corrected=r"\b(?:correcting\s+(?:this|the|our|my|for)|let\s+(?:me|us)\s+correct|let['\u2019]?s\s+correct"
            r"|apologi[sz]e|apologies)\b",
        ),
    ),
    Pattern(
        "decomposition",
        "splits the problem into parts before or while solving it",
        _rules(
            break_down=r"\b(?:break|breaking|broken|split|splitting|decompose)\s+(?:it|this|(?:down\s+)?the\s+"
            r"(?:problem|question|solution|task|process|calculation|expression|steps?)|down)\b(?:[^.\n]{0,60}?\b(?:down|into|in)\b)?",
            steps=(_LINE + r"step\s{0,3}" + _FIRST, _LINE + r"step\s{0,3}" + _SECOND),
            follow_steps=r"\b(?:follow|use|take|perform|go\s+through|proceed\s+(?:with|in|through))\s+(?:these|the\s+following|the\s+"
            r"below|several|a\s+few|two|three|four|five)\s+(?:\w+\s+)?steps\b",
            subproblem=r"\b(?:sub-?problems?|sub-?goals?|sub-?tasks?)\b",
        ),
    ),
    Pattern(
        "enumeration",
        "goes through cases or candidates one by one",
        _rules(
            cases=(_LINE + r"case\s{0,3}\(?" + _FIRST, r"\bcase\s{0,3}\(?" + _SECOND),
            list_all=r"\b(?:(?:list|enumerate|write\s+out|check|try|test|examine|go\s+through|iterate\s+(?:over|through))"
            r"\s+(?:out\s+)?all|(?:consider|check|try|test|examine|iterate\s+(?:over|through))\s+(?:each|every))\s+(?:of\s+)?(?:the\s+)?(?:\w+\s+){0,3}"
            r"(?:possib\w+|values?|cases?|pairs?|combinations?|options?|factors?|divisors?|multiples?|numbers?|primes?|"
            r"sentences?|ways?|candidates?|outcomes?|integers?|choices?|solutions?|triples?|digits?)\b",
            for_each=(_WHEN, _WHEN, _WHEN),
            enumerating=r"\benumerat(?:e|ing|ion)\b",
        ),
    ),
)


def detect(text: str) -> dict[str, Evidence]:
    """The patterns present in a response, each with its first evidence. What a tool printed is not looked at."""
    text = _OUTPUT.sub(lambda found: " " * len(found[0]), text[:LIMIT])
    found: dict[str, Evidence] = {}
    for pattern in PATTERNS:
        for rule, expressions in pattern.rules.items():
            if place := _in_turn(expressions, text):
                found[pattern.name] = Evidence(rule, *place)
                break
    return found


def _in_turn(expressions: Sequence[re.Pattern[str]], text: str) -> tuple[int, int] | None:
    """Start of the first and end of the last match, where each is found behind the one before."""
    start, end = -1, 0
    for expression in expressions:
        match = expression.search(text, end)
        if match is None:
            return None
        start, end = match.start() if start < 0 else start, match.end()
    return start, end
