"""Right answers in other spellings, and wrong answers that look right, made from gold answers.

`python -m benchmarks.verdicts` counts how many of them a verifier gets wrong; the unit tests take a sample.
"""

import re
from collections.abc import Iterator
from fractions import Fraction

from pipeline.rewards.answers.numbers import Number, read_number
from pipeline.rewards.answers.reading import split_top

INTEGER = re.compile(r"-?[0-9]+")
_INTERVAL = re.compile(r"[(\[][^,()\[\]]+,[^,()\[\]]+[)\]]")
_UNIT = re.compile(r"\\(?:text|mbox) ?\{ ?(\w+) ?\}|\^\{?\\circ\}?")
_BASE = re.compile(r"([0-9]+)_\{?([0-9])\}?")


def boxed(answer: str) -> str:
    return f"So the answer is $\\boxed{{{answer}}}$."


def spellings(gold: str) -> Iterator[tuple[str, str]]:
    """(kind, response) of right responses."""
    yield "left and right", boxed(gold.replace("(", "\\left(").replace(")", "\\right)"))
    yield "display style", boxed(f"\\displaystyle {gold}")
    yield "spaces", boxed(f"\\,{gold}\\;")
    yield "a full stop", boxed(f"{gold}.")
    yield "dollars inside", boxed(f"${gold}$")
    yield "a box in a box", f"\\[\\boxed{{\\boxed{{{gold}}}}}\\]"
    yield "an earlier box", f"First $\\boxed{{99}}$ is tried. Then it follows that the answer is $\\boxed{{{gold}}}$."
    yield "answer tags", f"It is 99 or so.\n<answer>{gold}</answer>"
    yield "after thoughts", f"<think>\\boxed{{99}} perhaps</think>\nThe answer is \\boxed{{{gold}}}."
    yield (
        "final answer",
        f"A step gives $\\boxed{{99}}$.\nFinal Answer: The final answer is ${gold}$. I hope it is correct.",
    )
    if "\\frac" in gold:
        yield "dfrac", boxed(gold.replace("\\frac", "\\dfrac"))
        yield "tfrac", boxed(gold.replace("\\frac", "\\tfrac"))
    if "," not in gold and "=" not in gold and "\\in" not in gold and "text" not in gold:
        yield "named", boxed(f"x = {gold}")
    number = read_number(gold)
    if number:
        yield from _of_number(gold, number)
    pieces = split_top(gold, ",")
    if len(pieces) > 1 and "=" not in gold and "$" not in gold and not re.search(r"[0-9],[0-9]{3}|\\!", gold):
        yield "another order", boxed(", ".join(piece.strip() for piece in reversed(pieces)))
        yield "joined by and", boxed(", ".join(pieces[:-1]) + " \\text{ and } " + pieces[-1])
        yield "a set", boxed("\\{" + gold + "\\}")
    if _INTERVAL.fullmatch(gold) and ("infty" in gold or gold[0] == "[" or gold[-1] == "]"):
        low, high = gold[1:-1].split(",")
        left, right = ("\\le" if gold[0] == "[" else "<"), ("\\le" if gold[-1] == "]" else "<")
        if "infty" not in gold:
            yield "inequalities", boxed(f"{low} {left} x {right} {high}")
        elif "infty" not in high:
            yield "an inequality", boxed(f"x {right} {high}")
        else:
            yield "an inequality", boxed(f"{high and 'x'} {left.replace('le', 'ge').replace('<', '>')} {low}")


def _of_number(gold: str, number: Number) -> Iterator[tuple[str, str]]:
    value = number.value
    yield "ways", boxed(f"\\text{{There are }}{gold}\\text{{ ways}}")
    yield "unit", boxed(f"{gold}\\text{{ cm}}")
    yield "bare unit", boxed(f"{gold} dollars")
    yield "degree sign", boxed(f"{gold}\u00b0")
    yield "degrees", boxed(f"{gold}^\\circ")
    yield "in parentheses", boxed(f"({gold})")
    yield "bold", boxed(f"\\mathbf{{{gold}}}")
    yield "hundredths", boxed(_decimal(value * 100) + "\\%")
    yield "equation", boxed(f"{_decimal(value - 1)} + 1 = {gold}")
    if number.whole:
        n = int(value)
        yield "decimal", boxed(f"{n}.0")
        yield "half of double", boxed(f"\\frac{{{2 * n}}}{{2}}")
        if abs(n) >= 1_000:
            yield "commas", boxed(f"{n:,}")
            yield "thin spaces", boxed(f"{n:,}".replace(",", "\\,"))
            yield "spaces for thousands", boxed(f"{n:,}".replace(",", " "))
            yield "braced commas", boxed(f"{n:,}".replace(",", "{,}"))
    elif not number.rounded:
        yield "slash", boxed(f"{value.numerator}/{value.denominator}")
        yield "not in lowest terms", boxed(f"\\frac{{{3 * value.numerator}}}{{{3 * value.denominator}}}")
    if number.rounded:
        exponent = 0
        mantissa = abs(value)
        while mantissa >= 10:
            mantissa, exponent = mantissa / 10, exponent + 1
        while 0 < mantissa < 1:
            mantissa, exponent = mantissa * 10, exponent - 1
        sign = "-" if value < 0 else ""
        digits = _decimal(mantissa)
        if value.denominator % 3:
            yield "times ten", boxed(f"{sign}{digits} \\times 10^{{{exponent}}}")
            yield "cdot ten", boxed(f"{sign}{digits}\\cdot 10^{{{exponent}}}")
            yield "e", boxed(f"{sign}{digits}e{exponent}")
            yield "e+", boxed(f"{sign}{digits}e{exponent:+d}")
            yield "plain decimal", boxed(_decimal(value))


def _decimal(value: Fraction) -> str:
    """The value as a decimal, or as a fraction where it has none that ends."""
    below = value.denominator
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    if below != 1:
        return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    digits = str(abs(int(value * 10**places))).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)


def wrong_value(gold: str) -> str | None:
    """An answer of the same form with another value, or None where the gold answer holds no digit to change."""
    match = re.search(r"[0-9]+(?!.*[0-9])", gold)
    if match:
        return f"{gold[: match.start()]}{int(match.group()) + 1}{gold[match.end() :]}"
    return f"{gold}+1" if re.fullmatch(r"[a-zA-Z\\{} ]+", gold) and "text" not in gold else None


def hard_negatives(gold: str) -> Iterator[tuple[str, str]]:
    """(kind, response) of wrong responses."""
    other = wrong_value(gold)
    scalar = "," not in gold and "text" not in gold and "\\pm" not in gold and "=" not in gold and "\\in" not in gold
    if other is not None:
        yield "last number", boxed(other)
        yield "tags against text", f"We find {gold}.\n<answer>{other}</answer>"
        yield "box in thoughts", f"<think>So \\boxed{{{gold}}}.</think> The answer is \\boxed{{{other}}}."
        yield "unclosed wrong box", f"\\boxed{{{gold}}} and then, no, $\\boxed{{{other}$."
        yield (
            "final answer",
            f"$\\boxed{{{gold}}}$.\nFinal Answer: The final answer is ${other}$. I hope it is correct.",
        )
        if scalar:
            yield "or in a box", boxed(f"{other} \\text{{ or }} {gold}")
            yield "or, last", boxed(f"0 or {other} or {gold}")
            yield "listed", boxed(f"{other}, {gold}")
            yield "listed last", boxed(f"{gold}, {other}")
            yield (
                "or in text",
                boxed(f"\\text{{{other} or {gold}}}") if "\\" not in gold else boxed(f"{gold} or {other}"),
            )
            yield "two boxes", f"The answer is $\\boxed{{{other}}}$ or $\\boxed{{{gold}}}$."
            yield "semicolon", boxed(f"{gold}; {other}")
            yield "either", boxed(f"\\text{{either }}{gold}\\text{{ or }}{other}")
            yield "in brackets", boxed(f"{gold} \\text{{ (or }}{other})")
            yield "units hide it", boxed(f"{other}\\text{{ cm }}{gold}\\text{{ cm}}")
            yield "or in tags", f"<answer>{other} or {gold}</answer>"
            yield "set", boxed(f"\\{{{other}, {gold}\\}}")
            yield "plus or minus", boxed(f"\\pm {gold}") if gold not in ("0",) else boxed(other)
    if scalar:
        yield "unequal", boxed(f"\\neq {gold}")
        yield "named unequal", boxed(f"x \\neq {gold}")
        yield "greater", boxed(f"x > {gold}")
        yield "not", boxed(f"\\text{{not }}{gold}")
        yield "not in tags", f"<answer>not {gold}</answer>"
        yield "negative", boxed(f"-{gold}" if not gold.startswith("-") else gold[1:]) if gold != "0" else boxed("1")
        yield "squared", boxed(f"({gold})^{{2}}") if gold not in ("0", "1") else boxed("3")
        yield "plus one", boxed(f"{gold} + 1")
        yield "at least", boxed(f"\\text{{at least }}{gold}")
    yield "only in thoughts", f"<think>So \\boxed{{{gold}}}.</think> That is all."
    number = read_number(gold)
    if number:
        yield "percent added", boxed(f"{gold}\\%") if number.value else boxed("1")
        yield "ten times", boxed(_decimal(number.value * 10)) if number.value else boxed("1")
        yield "a thousandth more", boxed(_decimal(number.value * Fraction(1001, 1000))) if number.value else boxed("1")
        yield "power of ten", boxed(f"{gold} \\times 10^{{3}}") if number.value else boxed("1")
        yield "million", boxed(f"{gold}\\text{{ million}}") if number.value else boxed("1")
        if not number.whole and not number.rounded:
            yield "upside down", boxed(f"\\frac{{{number.value.denominator}}}{{{number.value.numerator}}}")
        if number.whole and abs(int(number.value)) > 9:
            yield "a base added", boxed(f"{int(number.value)}_{{{11}}}")
    if match := _BASE.fullmatch(gold):
        yield "another base", boxed(f"{match[1]}_{{{int(match[2]) + 1}}}")
    if match := _UNIT.search(gold):
        unit = "radians" if "circ" in match.group() else "kg"
        yield "another unit", boxed(f"{gold[: match.start()]}\\text{{ {unit}}}{gold[match.end() :]}")
    if _INTERVAL.fullmatch(gold) and "infty" not in gold:
        swapped = {"(": "[", "[": "(", ")": "]", "]": ")"}
        yield "other brackets", boxed(swapped[gold[0]] + gold[1:-1] + swapped[gold[-1]])
    pieces = split_top(gold, ",")
    if len(pieces) > 1 and not re.search(r"[0-9],[0-9]{3}|\\!|=", gold):
        yield "one left out", boxed(",".join(pieces[:-1]))
        if other is not None:
            yield "one more", boxed(f"{gold},{wrong_value(pieces[-1]) or '77'},78")
