r"""When two answers agree. Of the response's answer nothing is passed over; a gold answer is read wholly or at fault.

What the readers leave open goes to Math-Verify's comparison: sets, matrices, and relations that are no intervals.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.rewards.answers.forms import (
    INDEXED_NUMBER,
    Brackets,
    as_union,
    based,
    bracketed,
    fits_base,
    flat,
    grouped,
    interval,
    is_set,
    name_and_value,
    names_only,
    plain_name,
    spread,
    union_pieces,
    value_of,
)
from pipeline.rewards.answers.numbers import Number, read_number
from pipeline.rewards.answers.numbers import agree as numbers_agree
from pipeline.rewards.answers.reading import (
    LABEL,
    Answer,
    Part,
    Unreadable,
    chain,
    currency,
    plain,
    read,
    split_top,
)
from pipeline.rewards.answers.symbols import DIGITS, SYMPY_ERRORS, expression, same_equation, same_value
from pipeline.rewards.types import DEFAULT, Conventions

NO_TIMEOUT = 0


_SILENT_SPACE = re.compile(r"(?<![A-Za-z0-9]) +| +(?![A-Za-z0-9])")


@dataclass(frozen=True, slots=True)
class Verdict:
    """`same` None: nobody can tell, and `reason` says why."""

    same: bool | None
    reason: str


def compare(gold: str, given: str, conventions: Conventions = DEFAULT, percent_said: bool = False) -> Verdict:
    """Whether an answer agrees with the gold answer. `same` is None where the gold answer is not understood.

    `percent_said`: the response speaks of percent outside of its answer as well.
    """
    signs = {sign for text in (gold, given) if (sign := currency(text))}
    if len(signs) > 1:
        return Verdict(False, "another currency")
    if _letters(gold) == _letters(given):
        return Verdict(True, "the same text")
    if conventions.decimal_comma:
        gold, given = _with_points(gold), _with_points(given)
    right, left = read(gold), read(given)
    if isinstance(right, Unreadable):
        return Verdict(None, f"the gold answer {gold!r:.200} {_why(right)}")
    if isinstance(left, Unreadable):
        return Verdict(False, f"the answer {_why(left)}")
    if right.words or left.words:
        return _words(right, left, gold)
    if signs and (wanted := _units(right, gold)) and (stated := _units(left, given)) and not wanted & stated:
        return Verdict(False, f"{', '.join(sorted(stated))} where the gold answer has {', '.join(sorted(wanted))}")
    return _Comparison(conventions, percent_said).answers(right, left, gold, given)


def _units(answer: Answer, text: str) -> set[str]:
    """What its values are of; nothing where one of them does not say it. A currency's sign speaks for all of these."""
    merged = grouped(answer.parts, text) if len(answer.parts) > 1 else None
    found = {part.unit_of_value or currency(text) for part in ([merged] if merged else answer.parts)}
    return set() if "" in found else found


def fault(gold: str) -> str | None:
    """Why a gold answer is not wholly understood, or None."""
    found = read(gold)
    if isinstance(found, Unreadable):
        return _why(found)
    if found.words:
        return None
    for part in found.parts:
        if not _understood(part.math):
            return f"holds {part.math!r:.100}, which is not understood"
    return None


def value_key(text: str) -> object:
    """Equal for answers that are easily seen to be the same; in linear time, and nothing is evaluated."""
    answer = read(text)
    if isinstance(answer, Unreadable) or answer.words:
        return _letters(text).lower()
    keys: list[str] = []
    for part in flat(spread(answer.groups)):
        value = value_of(part.math)
        number = read_number(value)
        keys.append(f"{number.value}{'%' * part.percent}" if number else _letters(value) + "%" * part.percent)
    return tuple(sorted(keys))


def _why(found: Unreadable) -> str:
    return (
        found.reason if found.reason.startswith(("says", "longer")) else f"is not one that can be read: {found.reason}"
    )


def _understood(text: str) -> bool:
    if read_number(text) is not None:
        return True
    if (inside := bracketed(text)) and all(map(_understood, inside.pieces)):
        return True
    if (ratio := split_top(text, ":"))[1:] and all(map(_understood, ratio)):
        return True
    pieces = union_pieces(text)
    if len(pieces) > 1:
        return all(map(_understood, pieces))
    if based(text) or interval(text):
        return True
    if expression(text) is not None:
        return True
    sides, relations = chain(text)
    if relations and LABEL.fullmatch(sides[0]) and relations[0] == "=":
        return all(map(_understood, sides[1:]))
    return False


def _letters(text: str) -> str:
    """The text without the spaces that say nothing: `1 2` is not `12`."""
    return _SILENT_SPACE.sub("", plain(text))


def _with_points(text: str) -> str:
    return re.sub(r"(?<![0-9,])([0-9]+),([0-9]+)(?![0-9,])", r"\1.\2", text)


def _words(gold: Answer, given: Answer, text: str) -> Verdict:
    if gold.words and given.words:
        same = _bare(gold.words) == _bare(given.words)
        return Verdict(same, "compared as words")
    one, other = gold.words or _only_math(gold), given.words or _only_math(given)
    if one and other:
        return Verdict(_bare(one) == _bare(other), "compared as words")
    return Verdict(False, f"words and a value: {text!r:.80}")


def _only_math(answer: Answer) -> str:
    return answer.parts[0].math if len(answer.parts) == 1 and answer.parts[0].math.isalpha() else ""


def _bare(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", words.lower()).strip().removeprefix("the ").removeprefix("option ")


_LETTER_UNIT = re.compile(r"([^A-Za-z]*[0-9][^A-Za-z]*) ([mgshlLJNWVK](?:\^\{?[23]\}?)?)")
"""A number and a letter behind a space, which is a unit where the gold answer is a number."""


class _Comparison:
    """Answers of one pair, compared part by part."""

    def __init__(self, conventions: Conventions, percent_said: bool) -> None:
        self.conventions = conventions
        self.percent_is_the_number = conventions.percent_is_the_number == "always" or (
            percent_said and conventions.percent_is_the_number == "where_said"
        )
        self.unknown = ""

    def answers(self, gold: Answer, given: Answer, gold_text: str, given_text: str) -> Verdict:
        one, other = spread(gold.groups), spread(given.groups)
        flat_one, flat_other = flat(one), flat(other)
        merged = self._whole_numbers(flat_one, flat_other, gold_text, given_text)
        if merged is not None:
            return merged
        if len(flat_one) == 1 and len(flat_other) == 1:
            return self._done(self.parts(flat_one[0], flat_other[0]), "compared as values")
        for mine, theirs, turned in ((flat_one, flat_other, False), (flat_other, flat_one, True)):
            if (
                len(mine) == 1
                and (brackets := bracketed(mine[0].math))
                and brackets.opened == "("
                and brackets.closed == ")"
            ):
                inner = [Part(piece) for piece in brackets.pieces]
                if len(inner) == len(theirs) and not any(bracketed(part.math) for part in theirs):
                    pairs = zip(theirs, inner, strict=True) if turned else zip(inner, theirs, strict=True)
                    return self._done(self._all(self.parts(a, b) for a, b in pairs), "compared in order")
        united = [as_union(flat_one), as_union(flat_other)]
        if any(united) and len(flat_one) != len(flat_other):
            gold_set, given_set = united[0] or flat_one, united[1] or flat_other
            # As many pieces on both sides: `x > 3 or x > 2` is a hedge, though it is x > 2.
            same_count = len(union_pieces(gold_set[0].math)) == len(union_pieces(given_set[0].math))
            if len(gold_set) == len(given_set) == 1 and same_count:
                return self._done(self.parts(gold_set[0], given_set[0]), "compared as sets")
        if (same := self.named_groups(one, flat_other)) is not None:
            return self._done(same, "compared as tuples of the named values")
        if len(flat_one) != len(flat_other):
            return self._count(flat_one, flat_other)
        if len(one) == len(other) > 1 and sorted(map(len, one)) == sorted(map(len, other)) and max(map(len, one)) > 1:
            same = _matched(one, other, lambda a, b: _matched(a, b, self.parts))
        else:
            same = _matched(flat_one, flat_other, self.parts)
        return self._done(same, "compared part by part, in any order")

    def named_groups(self, gold: list[list[Part]], given: list[Part]) -> bool | None:
        """`(5,2), (7,2)` for `p=5, q=2; p=7, q=2`: None where the answers are of other forms."""
        if len(gold) != len(given) or min(map(len, gold)) < 2:
            return None
        if not all(name_and_value(part.math) for group in gold for part in group):
            return None
        tuples = [bracketed(part.math) for part in given]
        if not all(found and len(found.pieces) == len(gold[0]) for found in tuples):
            return None

        def same(group: list[Part], found: Brackets) -> bool | None:
            pairs = zip(group, found.pieces, strict=True) if len(group) == len(found.pieces) else ()
            return bool(pairs) and self._all(self.values(value_of(part.math), piece) for part, piece in pairs)

        return _matched(gold, tuples, same)

    def _count(self, gold: Sequence[Part], given: Sequence[Part]) -> Verdict:
        distinct: list[Part] = []
        for part in given:
            if not any(self.parts(seen, part) for seen in distinct):
                distinct.append(part)
        if len(distinct) == len(gold) < len(given):
            return self._done(_matched(list(gold), distinct, self.parts), "compared part by part, repeats counted once")
        only = len(gold) == 1
        return Verdict(False, f"{len(given)} answers where {'one is' if only else f'{len(gold)} are'} asked for")

    def _whole_numbers(self, gold: list[Part], given: list[Part], gold_text: str, given_text: str) -> Verdict | None:
        """`1,234` is a list of two numbers or one number: one where the other side is one number."""
        if len(gold) == len(given) and len(gold) > 1:
            return None
        one = grouped(gold, gold_text) if len(gold) > 1 else None
        other = grouped(given, given_text) if len(given) > 1 else None
        if one is None and other is None:
            return None
        gold, given = [one] if one else gold, [other] if other else given
        if len(gold) == len(given) == 1:
            return self._done(self.parts(gold[0], given[0]), "compared as values")
        return None

    def _done(self, same: bool | None, reason: str) -> Verdict:
        return Verdict(same, self.unknown or "not comparable") if same is None else Verdict(same, reason)

    def _all(self, verdicts: Any) -> bool | None:
        found = list(verdicts)
        return False if False in found else None if None in found else True

    def parts(self, gold: Part, given: Part) -> bool | None:
        """Two values with their units."""
        if gold.unit and given.unit and gold.unit != given.unit:
            return False
        gold_number, given_number = _scalar(gold.math), _scalar(given.math)
        if gold_number and not given_number and (match := _LETTER_UNIT.fullmatch(given.math)):
            return self.parts(gold, Part(match[1], match[2], given.percent))
        if gold_number and given_number:
            return self.numbers(gold, given, gold_number, given_number)
        if given.percent and not gold.percent and not self.percent_is_the_number:
            return self.values(gold.math, f"\\frac{{{given.math}}}{{100}}")
        same = self.values(gold.math, given.math)
        if same is not True and gold.percent and not given.percent:
            return self.values(f"\\frac{{{gold.math}}}{{100}}", given.math) or same
        return same

    def numbers(self, gold: Part, given: Part, one: Number, other: Number) -> bool:
        """Two numbers. A gold `50%` is 50 or 0.5; `50%` is right for a gold 0.5, and by convention for a gold 50."""
        tolerance = self.conventions.relative_tolerance
        if gold.percent == given.percent:
            return numbers_agree(one, other, tolerance)
        hundredth = Number(one.value / 100, one.rounded) if gold.percent else one
        hundredth_given = Number(other.value / 100, other.rounded) if given.percent else other
        if numbers_agree(hundredth, hundredth_given, tolerance):
            return True
        return (gold.percent or self.percent_is_the_number) and numbers_agree(one, other, tolerance)

    def values(self, gold: str, given: str) -> bool | None:
        """Two mathematical texts."""
        if _letters(gold) == _letters(given):
            return True
        if gold in _CHOICES and gold == given.upper():
            return True
        one, other = _scalar(gold), _scalar(given)
        if one and other:
            return numbers_agree(one, other, self.conventions.relative_tolerance)
        if (same := self.bases(gold, given)) is not None:
            return same
        if (same := self.relations(gold, given)) is not None:
            return same
        return self.structures(gold, given)

    def bases(self, gold: str, given: str) -> bool | None:
        """Digits in a base. A base that is left out is that of the question; a stated one has to be the gold's."""
        one, other = based(gold), based(given)
        if one and other:
            return one == other
        if (one or other) and INDEXED_NUMBER.match(given if one else gold):
            return False
        if one and re.fullmatch(r"-?[0-9A-Za-z]+", given):
            return given.upper() == one[0]
        if other and (number := _scalar(gold)):
            return fits_base(*other) and int(other[0], other[1]) == number.value
        return None

    def relations(self, gold: str, given: str) -> bool | None:
        """Names, chains and inequalities are taken off or compared; None where neither side has a relation."""
        interval_gold, interval_given = interval(gold), interval(given)
        if interval_gold and interval_given:
            same_name = plain_name(interval_gold[0]) == plain_name(interval_given[0])
            return same_name and self.values(interval_gold[1], interval_given[1])
        if interval_gold and (is_set(given) or (name_and_value(given) and is_set(given))):
            return self.values(interval_gold[1], value_of(given))
        if interval_given and is_set(gold):
            return self.values(value_of(gold), interval_given[1])
        sides_gold, relations_gold = chain(gold)
        sides_given, relations_given = chain(given)
        if not relations_gold and not relations_given:
            return None
        if "\\neq" in relations_given and "\\neq" not in relations_gold:
            return False
        if {"<", ">", "\\le", "\\ge"} & set(relations_given) and not relations_gold:
            return False
        named_gold, named_given = name_and_value(gold), name_and_value(given)
        if named_gold and named_given:
            if plain_name(named_gold[0]) == plain_name(named_given[0]):
                same = self.values(named_gold[1], named_given[1])
                if same or "(" not in named_gold[0]:
                    return same
                return self._wholes(gold, given) if named_gold[0] != named_given[0] else same
            return self._wholes(gold, given)
        if named_gold and not relations_given:
            return self.values(named_gold[1], given)
        if not set(relations_given) <= {"=", "\\approx"} or not set(relations_gold) <= {"=", "\\approx"}:
            return None
        if not relations_gold:
            value = self._last(sides_given, relations_given)
            return value is not None and self.values(gold, value)
        if not relations_given:
            if "=" in relations_gold and not names_only(sides_gold[0]):
                return False
            value = self._last(sides_gold, relations_gold)
            return value is not None and self.values(value, given)
        if len(sides_gold) == len(sides_given) == 2:
            return self._wholes(gold, given)
        one, other = self._last(sides_gold, relations_gold), self._last(sides_given, relations_given)
        if one is None or other is None:
            return False
        names = [plain_name(sides[0]) for sides in (sides_gold, sides_given) if LABEL.fullmatch(sides[0])]
        return (len(names) < 2 or names[0] == names[1]) and self.values(one, other)

    def _last(self, sides: list[str], relations: list[str]) -> str | None:
        """What a chain comes to: its last exact side. None where its numbers contradict each other."""
        exact = [sides[0]]
        for relation, side in zip(relations, sides[1:], strict=True):
            if relation == "=":
                exact.append(side)
        rough = [side for relation, side in zip(relations, sides[1:], strict=True) if relation == "\\approx"]
        value = exact[-1]
        if LABEL.fullmatch(value) and not _scalar(value) and len(exact) == 1 and rough:
            value = rough[0]
        numbers = [number for side in exact if (number := _scalar(side))]
        labelled = bool(LABEL.fullmatch(sides[0]))
        if not labelled and any(not numbers_agree(numbers[0], number, 1e-2) for number in numbers[1:]):
            return None
        final = _scalar(value)
        roughly = [number for side in rough if (number := _scalar(side))]
        if (
            final
            and not labelled
            and any(abs(number.value - final.value) > abs(final.value) / 20 for number in roughly)
        ):
            return None
        return value

    def _wholes(self, gold: str, given: str) -> bool | None:
        """Two equations as expressions."""
        import sympy

        one, other = expression(gold), expression(given)
        if isinstance(one, sympy.Eq) and isinstance(other, sympy.Eq):
            same = same_equation(one, other, self.conventions.relative_tolerance)
            if same is not None:
                return same
        return self._by_math_verify(one, other, gold, given)

    def structures(self, gold: str, given: str) -> bool | None:
        """Tuples, intervals and their unions piece by piece; the others as expressions."""
        pieces, others = union_pieces(gold), union_pieces(given)
        if len(pieces) > 1 and len(pieces) == len(others):
            same = _matched(pieces, others, self.values)
            if same:
                return True
        one, other = bracketed(gold), bracketed(given)
        if one and other:
            if len(one.pieces) != len(other.pieces) or (one.opened, one.closed) != (other.opened, other.closed):
                return False
            return self._all(self.values(a, b) for a, b in zip(one.pieces, other.pieces, strict=True))
        if (one is None) != (other is None) and not (
            len(pieces) > 1 or len(others) > 1 or is_set(gold) or is_set(given)
        ):
            return False
        ratio, other_ratio = split_top(gold, ":"), split_top(given, ":")
        if len(ratio) == len(other_ratio) > 1:
            return self._all(self.values(a.strip(), b.strip()) for a, b in zip(ratio, other_ratio, strict=True))
        return self._expressions(gold, given)

    def _expressions(self, gold: str, given: str) -> bool | None:
        if _SENSELESS.search(given):
            return False
        one, other = _object(gold), _object(given)
        if one is None:
            self.unknown = f"the gold answer holds {gold!r:.100}, which is not understood"
            return None
        if other is None:
            return False
        same = same_value(one, other, self.conventions.relative_tolerance)
        return self._by_math_verify(one, other, gold, given) if same is None else same

    def _by_math_verify(self, gold: Any, given: Any, gold_text: str, given_text: str) -> bool | None:
        from math_verify import verify

        if gold is None or given is None:
            if gold is None:
                self.unknown = f"the gold answer holds {gold_text!r:.100}, which is not understood"
                return None
            return False
        try:
            return bool(
                verify(gold, given, timeout_seconds=NO_TIMEOUT, raise_on_error=True, allow_set_relation_comp=True)
            )
        except SYMPY_ERRORS as error:
            # One way to compare failed; the others decide. If none says "equal", nothing is known.
            if verify(gold, given, timeout_seconds=NO_TIMEOUT):
                return True
            self.unknown = f"not comparable: {type(error).__name__}: {error}"[:500]
            return None


_CHOICES = frozenset("ABCDEF")
"""Letters that are answers of multiple choice, where `c` is C."""
_SENSELESS = re.compile(r"__|\blambda\b|['\"]\w|\bimport\b")
"""What stands in code and in no answer."""


def _object(text: str) -> Any:
    """A number exactly as it is read here, anything else by the grammars."""
    number = _scalar(text)
    if number is None:
        return expression(text)
    import sympy

    exact = sympy.Rational(number.value.numerator, number.value.denominator)
    return exact.evalf(DIGITS) if number.rounded else exact


@functools.lru_cache(maxsize=4096)
def _scalar(text: str) -> Number | None:
    return read_number(text)


def _matched(gold: Sequence[Any], given: Sequence[Any], same: Callable[[Any, Any], bool | None]) -> bool | None:
    """Whether each of one side has a partner of its own on the other, in any order."""
    if len(gold) != len(given):
        return False
    left = list(given)
    unknown = False
    for one in gold:
        for place, other in enumerate(left):
            verdict = same(one, other)
            unknown = unknown or verdict is None
            if verdict:
                del left[place]
                break
        else:
            return None if unknown else False
    return True
