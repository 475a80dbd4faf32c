r"""Answers read wholly: what is mathematics in them, what is a unit, what is a remark, and what makes them no answer.

Every step is linear in the length of the text. Nothing is evaluated here; `symbols` builds expressions.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.rewards.answers.numbers import read_number
from pipeline.rewards.answers.units import (
    CONDITIONS,
    DENYING,
    FUNCTIONS,
    JOINING,
    KNOWN,
    SHORT,
    SMALL,
    canonical_unit,
)

LONGEST = 4_000
"""Characters of an answer that is read. The longest gold answer of the benchmarks has some 500."""
MOST_PARTS = 64
_UNICODE = str.maketrans(
    {
        "\u2212": "-",
        "\u2013": "-",
        "\u2010": "-",
        "\u2011": "-",
        "\u00d7": " \\times ",
        "\u00b7": " \\cdot ",
        "\u22c5": " \\cdot ",
        "\u00f7": "/",
        "\u2044": "/",
        "\u00b0": "^\\circ ",
        "\u03c0": "\\pi ",
        "\u03b8": "\\theta ",
        "\u03b1": "\\alpha ",
        "\u03b2": "\\beta ",
        "\u03bb": "\\lambda ",
        "\u221e": "\\infty ",
        "\u2264": "\\le ",
        "\u2265": "\\ge ",
        "\u2a7d": "\\le ",
        "\u2a7e": "\\ge ",
        "\u2260": "\\neq ",
        "\u2248": "\\approx ",
        "\u222a": "\\cup ",
        "\u2229": "\\cap ",
        "\u2208": "\\in ",
        "\u00b1": "\\pm ",
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
        "\u2061": "",
        "\u200b": "",
        "\u221a": "\\sqrt ",
        "\u00b2": "^2",
        "\u00b3": "^3",
        "\u2019": "'",
        "\u20ac": "",
        "\u00a3": "",
    }
)
_SPACES = re.compile(r"(?P<newline>\\\\)|\\[,;: ]|~|\\q?quad(?![A-Za-z])|\\enspace|\\thinspace|\s+|\\hspace\{[^{}]*\}")
_NOTHING = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|mleft|mright|large|Large|LARGE|huge|Huge"
    r"|checkmark|underline|overset\{[^{}]*\}|(?:text)?color ?\{[a-zA-Z]*\})(?![A-Za-z])|\\!|<\|[a-z_]{1,20}\|>"
)
_REMARK = re.compile(r"(?<=[0-9}]) ?\(([A-Za-z]{3,}(?: [A-Za-z]+)*)\)\Z")
_EMPTY = re.compile(r"\\left\s*\.|\\right\s*\.")
_TEXT = re.compile(
    r"\\(?P<kind>text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|sf|it|tt|bb)|mbox|hbox|operatorname|bf|rm|it)\*?\s*"
    r"\{(?P<inside>[^{}]*)\}(?P<power>\s*\^\s*(?:\{\s*-?[0-9]\s*\}|[0-9]))?"
)
_FONT = re.compile(r"\\(?:bf|rm|it|boldsymbol|pmb|bm)(?![A-Za-z])")
_FONT_OF_FORMULA = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it|sf)|boldsymbol|bm|mbox)(?= ?\{)")
_TOKEN = re.compile(
    r"(?P<command>\\[A-Za-z]+|\\.)|(?P<joined>orelse)|(?P<word>[A-Za-z][A-Za-z'\u00b2\u00b3]*(?:/[A-Za-z]+[\u00b2\u00b3]?)*)|(?P<rest>[^A-Za-z\\]+)",
    re.DOTALL,
)
_PERCENT = frozenset({"percent", "percentage", "pct"})
_NAMED_PART = re.compile(
    r"\b(part|case|item|question)\s*\(?(?:[a-z]|[ivx]{1,4}|[0-9])\)?(?![A-Za-z0-9])\)?", re.IGNORECASE
)
_GLUED = re.compile(r"(?<=[0-9)}\]])(or|and)(?=[A-Z(\\0-9\[])")
_BOLD = re.compile(r"(?<![\w)*])\*\*([^*]{1,200})\*\*(?!\w)")
_BROKEN_COMMAND = re.compile(r"(?<![A-Za-z\\])(?:ext|rac|oxed|qrt|imes|frac|text|boxed)\{")
_ROOT_OF_DIGITS = re.compile(r"\\sqrt ?([0-9]{2,20})(?![0-9.,])")
_BASE_IN_WORDS = re.compile(r"(?<=[0-9]) ?(?:\\text ?\{ ?)?\(?(?:in )?base ?([0-9]{1,2})\)? ?\}?")
_PRIME = re.compile(r" ?\^ ?(?:\{ ?\\prime ?\}|\\prime(?![A-Za-z]))")
_NO_ELEMENTS = re.compile(r"\\\{ *\\\}")
_POWER = re.compile(r"\^ ?\{? ?-?[0-9] ?\}?")
_CURRENCY = re.compile(r"(?<!\\)\\\$|[\u20ac\u00a3]")
_CURRENCIES = {"\\$": "dollar", "\u20ac": "euro", "\u00a3": "pound"}
_RATE = re.compile(r"(?:per|an?|each|every)\b|/")
_OPENED, _CLOSED = "\x02", "\x03"


@dataclass(frozen=True, slots=True)
class Part:
    """One value: mathematics, a remark beside it (most often a unit), and whether a percent sign stands there."""

    math: str
    remark: str = ""
    percent: bool = False

    @property
    def unit(self) -> str:
        return canonical_unit(self.remark)

    @property
    def unit_of_value(self) -> str:
        """`dollar` of `dollars per hour`; nothing of `per hour`, which leaves open what there is of each hour."""
        return "" if _RATE.match(self.remark) else self.unit.partition(" per ")[0]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was read wholly: either words, or groups (`;`, "and") of parts (`,`)."""

    groups: tuple[tuple[Part, ...], ...] = ()
    words: str = ""
    braces: bool = False
    """Whether the parts stand in `{…}`, as elements of a set."""

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(part for group in self.groups for part in group)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why a text is no answer."""

    reason: str


def currency(text: str) -> str:
    r"""The unit that the sign of a currency names: `dollar` for `\$5`. Nothing for two currencies, and for `\$5\$`."""
    text = text.strip()
    signs = set(_CURRENCY.findall(text))
    if len(signs) != 1 or (len(text) > 2 and text.startswith("\\$") and text.endswith("\\$")):
        return ""
    return _CURRENCIES[signs.pop()]


def plain(text: str) -> str:
    """The text without what only decides its looks: delimiters, fonts, kinds of space, dollar signs."""
    text = text[:LONGEST].strip().translate(_UNICODE)
    text = _EMPTY.sub("", text)
    text = text.replace("{,}", ",").replace("\\$", "").replace("$", " ").replace('\\"', " ").replace('"', " ")
    text = re.sub(r"\\\\(?=[A-Za-z(\[])(?!\\)", r"\\", text) if "\\begin" not in text else text
    text = text.replace("\\(", " ").replace("\\)", " ").replace("\\[", " ").replace("\\]", " ")
    text = _NOTHING.sub("", text)
    text = text.replace("\\lbrace", "\\{").replace("\\rbrace", "\\}").replace("\\lbrack", "[").replace("\\rbrack", "]")
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")
    text = re.sub(r"\\leqslant|\\leq(?![A-Za-z])", r"\\le ", text)
    text = re.sub(r"\\geqslant|\\geq(?![A-Za-z])", r"\\ge ", text)
    text = re.sub(r"\\lt(?![A-Za-z])", "<", re.sub(r"\\gt(?![A-Za-z])", ">", text))
    text = text.replace("\\langle", "(").replace("\\rangle", ")").replace("\\varnothing", "\\emptyset")
    text = _NO_ELEMENTS.sub(r"\\emptyset ", text)
    text = re.sub(r"\\ne(?![A-Za-z])|!=|\\not ?=", r"\\neq ", text).replace("<=", "\\le ").replace(">=", "\\ge ")
    text = _ROOT_OF_DIGITS.sub(r"\\sqrt{\1}", _PRIME.sub("'", text))
    text = _BASE_IN_WORDS.sub(r"_{\1}", text)
    text = _BOLD.sub(r"\1", _GLUED.sub(r" \1 ", text))
    return _SPACES.sub(lambda match: match["newline"] or " ", text).strip()


def read(text: str) -> Answer | Unreadable:
    """The whole of an answer, or why it is none."""
    if len(text) > LONGEST:
        return Unreadable(f"longer than {LONGEST} characters")
    text = plain(text).rstrip("\\").strip()
    text = text.strip("*").strip() if text.startswith("**") or text.endswith("**") else text
    while text and text[-1] in ".:;," and not text.endswith("\\,"):
        text = text[:-1].rstrip()
    while text.startswith("{") and len(text) > 2 and closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    if not text:
        return Unreadable("empty")
    if _BROKEN_COMMAND.search(text):
        return Unreadable("a command without its backslash")
    text = _REMARK.sub(f" {_OPENED}\\1{_CLOSED} ", text)
    items = list(_items(_NAMED_PART.sub(lambda match: " " + match[1] + " ", text) if "(" in text else text))
    if not any(kind == "math" for kind, _ in items):
        return Answer(words=_words(items))
    return _assembled(items)


def _words(items: list[tuple[str, str]]) -> str:
    return " ".join(" ".join(value for _, value in items).split())


def _items(text: str) -> Iterator[tuple[str, str]]:
    """(kind, value): `math`, `prose` (one word), `join` (and, or), `percent`, `break` (`,` or `;`), or `denial`."""
    text = _unfold_text(_FONT.sub("", text))
    buffer: list[str] = []
    depth, in_text = 0, False

    def flushed() -> Iterator[tuple[str, str]]:
        joined = "".join(buffer)
        buffer.clear()
        if joined.strip():
            yield "math", joined.strip()

    for match in _TOKEN.finditer(text):
        kind, value = match.lastgroup, match.group()
        if (kind == "word" and depth == 0) or kind == "joined":
            previous = buffer[-1] if buffer else ""
            if previous == " ":
                previous = next((c for c in reversed(buffer[-4:]) if c != " "), "") + " "
            name = _kind_of_word(value, previous, in_text)
            if name == "math":
                buffer.append(value)
            else:
                yield from flushed()
                yield name, value
            continue
        if kind == "word" and value in ("or", "not", "nor", "either", "neither"):
            yield "denial", value
        if kind == "word":
            buffer.append(" \\infty " if value in ("inf", "infinity", "oo") else value)
            continue
        if kind == "command":
            if depth == 0 and value in ("\\lor", "\\vee", "\\land", "\\wedge", "\\And", "\\Or"):
                yield from flushed()
                yield "join", value
                continue
            if value == "\\%":
                yield from flushed()
                yield "percent", "%"
                continue
            depth += value in ("\\{", "\\begin")
            depth -= value in ("\\}", "\\end") and depth > 0
            buffer.append(value)
            continue
        for character in value:
            if character == _OPENED:
                in_text = True
            elif character == _CLOSED:
                in_text = False
            elif character == "%":
                yield from flushed()
                yield "percent", "%"
            elif character in ",;" and depth == 0 and not in_text:
                yield from flushed()
                yield "break", character
            elif in_text and character in ".:!?,;()'\"" and not any(map(str.isdigit, value)):
                yield from flushed()
                if character in ",;":
                    yield "break", character
            else:
                depth += character in "([{"
                depth -= character in ")]}" and depth > 0
                buffer.append(character)
    yield from flushed()


def _unfold_text(text: str) -> str:
    r"""`\text{…}` as its words between marks; names of functions and single letters stay mathematics."""

    def unfold(match: re.Match[str]) -> str:
        inside = match["inside"].strip()
        bare = inside.strip("() .")
        power = (match["power"] or "").replace(" ", "")
        behind_value = match.start() > 0 and (text[match.start() - 1] in "0123456789}) ")
        if inside in FUNCTIONS and inside not in KNOWN:
            return f" \\{inside} {power}"
        if len(bare) == 1 and not (behind_value and _value_before(text, match.start()) and bare in KNOWN):
            return f"{bare}{power}" if match["kind"] != "mathbb" else f"\\mathbb{{{bare}}}{power}"
        if read_number(inside) or re.fullmatch(r"[0-9.,+\-/ ]*", inside):
            return f"{inside}{power}"
        if match.start() > 0 and text[match.start() - 1] in "_^":
            return "{" + re.sub(r"[^A-Za-z0-9]", "", inside) + "}" + power  # a name's index
        if match.start() > 1 and text[match.start() - 1] == "{" and text[match.start() - 2] in "_^":
            return re.sub(r"[^A-Za-z0-9]", "", inside) + power
        if match["kind"] in ("operatorname",):
            return f" {inside} {power}"
        if not re.search(r"[0-9]", inside):
            inside = re.sub(r"[().:!?\"]", " ", inside)
        return f" {_OPENED}{inside}{_power_word(power)}{_CLOSED} "

    return _FONT_OF_FORMULA.sub("", _TEXT.sub(unfold, text))


def _power_word(power: str) -> str:
    digits = power.strip("^{}")
    return {"2": "²", "3": "³"}.get(digits, "") if power else ""


def _value_before(text: str, end: int) -> bool:
    return text[:end].rstrip()[-1:] in tuple("0123456789})")


def _kind_of_word(word: str, before: str, in_text: bool) -> str:
    lower = word.lower().rstrip("'")
    if lower in _PERCENT:
        return "percent"
    if in_text:
        return "join" if lower in JOINING else "prose"
    if before.endswith(("_", "^")) or word in FUNCTIONS:
        return "math"
    if lower in JOINING:
        return "join"
    if len(word) == 1:
        return "math"
    if lower in SMALL and word != "E" and not before.endswith("\\"):
        return "prose"
    if "/" in word:
        behind = before.rstrip()[-1:].isdigit()
        return "prose" if behind and canonical_unit(word) else "math"
    if len(word) == 2:
        return "prose" if lower in SHORT and before.rstrip()[-1:] in tuple("0123456789})") else "math"
    if word.isupper():
        return "math"
    return "prose"


def _assembled(items: list[tuple[str, str]]) -> Answer | Unreadable:
    """Groups of parts from the items; prose is a remark of its part, and a word that denies makes all unreadable."""
    groups: list[list[Part]] = [[]]
    current: list[tuple[str, str]] = []
    parts = 0

    after_or = False

    def close() -> str | None:
        nonlocal parts
        if after_or and not any(kind in ("math", "percent") for kind, _ in current):
            return "says 'or'"
        if not current:
            return None
        part = _part(current)
        current.clear()
        if isinstance(part, Unreadable):
            return part.reason
        if part is not None:
            groups[-1].append(part)
            parts += 1
        return None

    for kind, value in items:
        if kind == "prose" and value.lower() in CONDITIONS and (groups[-1] or any(k == "math" for k, _ in current)):
            return Unreadable(f"says {value!r}")
        if kind == "denial" or (kind == "prose" and value.lower().replace("'", "") in DENYING):
            return Unreadable(f"says {value!r}")
        if kind in ("join", "break"):
            if kind == "join" and current and not any(k in ("math", "percent") for k, _ in current) and not groups[-1]:
                current.append(("prose", value))  # words that are joined before any value
                continue
            if reason := close():
                return Unreadable(reason)
            after_or = kind == "join" and value.lower() == "or" and bool(groups[0])
            if kind == "join" or value == ";":
                groups.append([])
            continue
        current.append((kind, value))
        if parts > MOST_PARTS:
            return Unreadable(f"more than {MOST_PARTS} parts")
    if reason := close():
        return Unreadable(reason)
    found = tuple(tuple(group) for group in groups if group)
    if not found:
        return Answer(words=_words(items))
    return _without_braces(Answer(found))


def _part(items: list[tuple[str, str]]) -> Part | Unreadable | None:
    """One value with its remarks; None for a remark alone."""
    math: list[str] = []
    remark: list[str] = []
    percent = False
    for place, (kind, value) in enumerate(items):
        if kind == "percent":
            if percent or not math:
                return Unreadable("a percent sign without a value")
            percent = True
        elif kind == "prose":
            remark.append(value)
        elif math and percent:
            return Unreadable("a value behind a percent sign")
        elif math:
            if remark and _is_label(math[-1]) and _copula(items[:place]):
                math = [f"{math[-1]}={value}"]
                remark = []
                continue
            if remark and _POWER.fullmatch(value):
                remark[-1] += value  # `cm^2`
                continue
            return Unreadable("several values with words between them")
        else:
            math.append(value)
    if not math:
        return None
    value = math[0].strip()
    unit = re.search(r"\^ ?(?:\{ ?\\circ ?\}|\\circ) ?(?P<scale>[CFK])?$|\\degrees? ?$", value)
    if unit:
        value, remark = (
            value[: unit.start()].rstrip(),
            [*remark, "degree" + (unit["scale"] or "" if unit.lastgroup else "")],
        )
    return Part(_tidy(value), " ".join(remark), percent)


def _copula(items: list[tuple[str, str]]) -> bool:
    return bool(items) and items[-1][0] == "prose" and items[-1][1].lower() in ("is", "are", "equals", "be")


def _is_label(text: str) -> bool:
    return bool(LABEL.fullmatch(text.strip()))


def _tidy(text: str) -> str:
    text = text.strip()
    while text and text[-1] in ".:," and not text.endswith("\\,"):
        text = text[:-1].rstrip()
    text = _LEADING.sub("", text.lstrip(":").strip())
    while (inner := _unwrapped(text)) is not None:
        text = inner
    return text


def _unwrapped(text: str) -> str | None:
    """What stands in brackets that enclose all of it, where they only group: braces, and parentheses of no list."""
    if len(text) < 2 or text[0] not in "({" or text[-1] not in ")}":
        return None
    if closing(text, 0) != len(text) - 1:
        return None
    inner = text[1:-1].strip()
    return inner if inner and (text[0] == "{" or not split_top(inner, ",;")[1:]) else None


def _without_braces(answer: Answer) -> Answer:
    r"""`\{1, 2\}` as the parts 1 and 2."""
    if len(answer.parts) != 1 or answer.parts[0].remark or answer.parts[0].percent:
        return answer
    math = _MEMBER.sub("", answer.parts[0].math)
    if math.startswith("\\{") and math.endswith("\\}") and math.find("\\}") == len(math) - 2 and "\\mid" not in math:
        inner = [piece for piece in split_top(math[2:-2], ",;") if piece.strip()]
        if inner and not any("|" in piece or ":" in piece for piece in inner):
            return Answer((tuple(Part(_tidy(piece)) for piece in inner),), braces=True)
    return answer


LABEL = re.compile(
    r"(?:\\(?:angle|triangle|overline|vec|hat|mathbb|max|min|text) ?)?\{?(?:\\[A-Za-z]+|[A-Za-z]{1,4})\}?'*"
    r"(?: ?_ ?(?:\{[^{}]*\}|[A-Za-z0-9]|\\[A-Za-z]+))?'*(?: ?\([A-Za-z0-9,_{} \\]{1,20}\))?"
)
"""Names that values are given to: `x`, `x_1`, `f(x)`, `\\angle ABC`, `m_{\\max}`."""
_MEMBER = re.compile(r"\A\\?[A-Za-z]+(?:_[A-Za-z0-9])? ?\\in ?(?=\\\{)")
_LEADING = re.compile(r"\A(?:\\(?:approx|therefore|Rightarrow|implies|simeq)(?![A-Za-z])|=) *")


def closing(text: str, start: int) -> int:
    """Where the bracket at `start` is closed, whatever kinds of brackets close what; -1 when it is not."""
    depth = 0
    for position in range(start, len(text)):
        depth += text[position] in "([{"
        depth -= text[position] in ")]}"
        if depth == 0:
            return position
    return -1


def split_top(text: str, separators: str) -> list[str]:
    """The text cut at the separators that stand in no brackets."""
    pieces: list[str] = []
    depth, start = 0, 0
    for position, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth = max(depth - 1, 0)
        elif depth == 0 and character in separators:
            pieces.append(text[start:position])
            start = position + 1
    pieces.append(text[start:])
    return pieces


_RELATION = re.compile(r"\\(?:le|ge|neq|approx|simeq|sim|equiv|in|notin|to|mid)(?![A-Za-z])|:=|=|<|>|[()\[\]{}]|\\[{}]")
_SPELLED = {":=": "=", "==": "=", "\\simeq": "\\approx", "\\equiv": "="}


def chain(text: str) -> tuple[list[str], list[str]]:
    """Sides and the relations between them, outside of brackets: `x = 5 \\approx 6` is ([x, 5, 6], [=, \\approx])."""
    sides: list[str] = []
    relations: list[str] = []
    depth, start = 0, 0
    for match in _RELATION.finditer(text.replace("==", "= ")):
        token = match.group()
        if token in "([{" or token == "\\{":
            depth += 1
        elif token in ")]}" or token == "\\}":
            depth = max(depth - 1, 0)
        elif depth == 0:
            sides.append(text[start : match.start()].strip())
            relations.append(_SPELLED.get(token, token))
            start = match.end()
    sides.append(text[start:].strip())
    return sides, relations
