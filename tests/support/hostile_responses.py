"""200 responses that hang, swell or break a verifier without limits, as a policy under optimization may write them."""

from pipeline.rewards.types import GradeItem


def box(text: str) -> str:
    return f"Therefore \\boxed{{{text}}}."


def hostile_items() -> list[GradeItem]:
    """Twenty responses of each of ten kinds; the gold answers are of the kind that makes the comparison expensive."""
    kinds = [
        [(box(f"{k}^{{{k}^{{{k}^{{{k}}}}}}}"), "7") for k in range(3, 23)],
        [(box(f"{k}00000!"), "1") for k in range(1, 11)] + [(box("10" + "!" * k), "3628800") for k in range(2, 12)],
        [(box(f"\\sum_{{i=1}}^{{10^{{{k}}}}} i^{{i}}"), f"{k}") for k in range(5, 15)]
        + [(box(f"\\prod_{{i=1}}^{{10^{{{k}}}}} (i^2+1)"), f"\\frac{{1}}{{{k}}}") for k in range(5, 15)],
        [(box("(" * k + "1" + ")" * k), "1") for k in range(200, 2200, 200)]
        + [(box("\\left(" * k + "x" + "\\right)" * k), "x") for k in range(200, 2200, 200)],
        [("answer" * k + "1" * k + ":" + "$" * k, "1") for k in range(200, 2200, 200)]
        + [("final answer is " + "1 ," * (500 * k) + "+(" * (100 * k), "2") for k in range(1, 11)],
        [(box("\\frac{1}{" * k + "2" + "}" * k), "\\frac{1}{2}") for k in range(50, 1050, 100)]
        + [(box("\\sqrt{" * k + "2" + "}" * k), "2") for k in range(50, 1050, 100)],
        [(box("".join(map(chr, range(k)))), "0") for k in range(13, 33)],
        [(box(f"{chr(0xD800 + k)}5"), "5") for k in range(10)] + [(f"{chr(0xDC00 + k)} is 5", "5") for k in range(10)],
        [(box(f"(x+y+1)^{{{k}000}} - (x+y)^{{{k}001}}"), "(1+y+x)^{9000}") for k in range(1, 11)]
        + [(box(f"\\int_0^1 x^{{x^{{{k}}}}} \\sin(\\sin(x)) dx"), "\\int_0^1 \\tan(\\tan x) dx") for k in range(1, 11)],
        [("\\boxed{" * (k * 10_000), "1") for k in range(1, 6)]
        + [("{" * (k * 100_000) + "\\boxed{1}", "2") for k in range(1, 6)]
        + [("1" * (k * 200_000), "1") for k in range(1, 6)]
        + [(box("9" * (k * 20_000)), "9") for k in range(1, 6)],
    ]
    return [GradeItem(response, answer) for kind in kinds for response, answer in kind]
