"""Words beside a value: units, hedges, and sentences around an answer."""

import re

_SAME = (
    ("degree", "deg", "degrees"),
    ("meter", "m", "metre"),
    ("centimeter", "cm", "centimetre"),
    ("millimeter", "mm", "millimetre"),
    ("kilometer", "km", "kilometre"),
    ("inch", "in", "inches"),
    ("foot", "ft", "feet"),
    ("yard", "yd"),
    ("mile", "mi"),
    ("second", "s", "sec"),
    ("minute", "min"),
    ("hour", "h", "hr"),
    ("day",),
    ("week",),
    ("month",),
    ("year", "yr"),
    ("gram", "g", "gm"),
    ("kilogram", "kg"),
    ("milligram", "mg"),
    ("pound", "lb"),
    ("ounce", "oz"),
    ("liter", "l", "litre"),
    ("milliliter", "ml"),
    ("gallon", "gal"),
    ("dollar", "usd"),
    ("cent",),
    ("euro",),
    ("rupee", "rs"),
    ("radian", "rad"),
    ("joule", "j"),
    ("newton", "n"),
    ("watt", "w"),
    ("volt", "v"),
    ("kelvin", "k"),
    ("hertz", "hz"),
    ("erg",),
    ("acre",),
    ("hectare",),
    ("mph", "miles per hour"),
    ("km/h", "kmh", "kph"),
)
KNOWN = {spelling: names[0] for names in _SAME for spelling in names}
"""Units by their spellings. Two different ones make two different answers; anything else beside a value is a remark."""
SHORT = frozenset(name for name in KNOWN if len(name) <= 2 and len(name) > 1) | {"mph", "kmh", "min", "deg", "sec"}
"""Abbreviations that count as units without `\\text`."""
DENYING = frozenset(
    """
    not no never neither nor none isn isnt cannot can't except but without unless least most more less greater fewer
    above below over under than between maybe perhaps possibly either other others wrong false incorrect minus negative
    times half twice double triple plus hundred thousand million billion trillion dozen squared cubed root between if
    up until almost nearly different excluding versus vs instead rather otherwise alternatively guess guesses through
    one two three four five six seven eight nine ten eleven twelve twenty thirty forty
    fifty sixty seventy eighty ninety zero first last before after
    """.split()  # noqa: SIM905 - a table of words
)
"""Words that make an answer another one, or none. An answer with one of them is compared as text only."""
CONDITIONS = frozenset({"where", "when", "whenever", "provided", "if", "such"})
"""Words behind a value that make it one under a condition."""
JOINING = frozenset({"and", "or"})
FUNCTIONS = frozenset(
    """
    sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth asin acos atan log ln lg exp sqrt cbrt lim
    max min gcd lcm det mod deg dim ker inf sup tr rank erf arg pi infty alpha beta gamma delta theta lambda mu sigma
    omega phi rho tau eta zeta xi nu kappa epsilon psi abs floor ceil oo
    """.split()  # noqa: SIM905 - a table of words
)
"""Names that are mathematics without a backslash."""
SMALL = frozenset("is of or to in at if no an by so we it as be on up do am pm my he us go are the for".split())  # noqa: SIM905
"""Short words of sentences: two letters side by side are a product otherwise."""
_WORDS = re.compile(r"[A-Za-z/²³]+")


def canonical_unit(words: str) -> str:
    """The unit that a remark beside a value names, in one spelling; empty for what is no unit that is known here."""
    found = [word.lower() for word in _WORDS.findall(words)]
    power = "2" if re.search(r"\^\{?2|²", words) else "3" if re.search(r"\^\{?3|³", words) else ""
    named: list[str] = []
    for word in found:
        word = word.rstrip("²³")
        if word in ("square", "sq"):
            power = "2"
        elif word in ("cubic", "cu"):
            power = "3"
        elif name := KNOWN.get(word) or KNOWN.get(word.removesuffix("s")) or KNOWN.get(word.removesuffix("es")):
            named.append(name)
        elif "/" in word and all(KNOWN.get(piece) or KNOWN.get(piece.removesuffix("s")) for piece in word.split("/")):
            named += [KNOWN.get(piece) or KNOWN[piece.removesuffix("s")] for piece in word.split("/")]
        elif word == "per":
            continue
    return " per ".join(named) + (f"^{power}" if named and power else "")
