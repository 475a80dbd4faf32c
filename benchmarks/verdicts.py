"""How often a verdict is wrong: on cases of other projects, on spellings of right answers, and on hard negatives.

`python -m benchmarks.verdicts --data ../shared/data` writes benchmarks/results/verdicts.json. The last two are
made from the gold answers of the six benchmarks by tests/support/answer_variants.py.
"""

import argparse
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.config.rewards import BUILTIN_VERIFIERS, RewardsConfig
from pipeline.rewards.grader import Grader
from pipeline.rewards.types import GradeItem
from tests.support.answer_variants import hard_negatives, spellings

FILES = ("aime24", "aime25", "amc23", "math500", "minerva_math", "olympiadbench")
Case = tuple[str, str, GradeItem, bool]
"""Set, kind, what is graded, and whether it is right."""


def variants(folder: Path, share: float) -> Iterator[Case]:
    """Spellings and hard negatives of a share of the gold answers, always the same ones."""
    for name in FILES:
        for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            gold = str(row["answer"])
            if int(hashlib.sha256(str(row["id"]).encode()).hexdigest()[:8], 16) / 2**32 >= share:
                continue
            for kind, response in spellings(gold):
                yield "spellings", kind, GradeItem(response, gold), True
            for kind, response in hard_negatives(gold):
                yield "hard negatives", kind, GradeItem(response, gold), False


def peers(folder: Path) -> Iterator[Case]:
    """Cases of other projects that mathematics decides."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["expected"] is not None:
                yield "cases of others", row["id"], GradeItem(row["response"], row["answer"]), row["expected"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Folder with benchmarks/ and peer_cases/verifier/.")
    parser.add_argument("--share", type=float, default=0.25, help="Of the gold answers that variants are made of.")
    parser.add_argument("--verifier", default="math_verify", choices=BUILTIN_VERIFIERS)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "verdicts.json")
    options = parser.parse_args()
    cases = [*peers(options.data / "peer_cases" / "verifier"), *variants(options.data / "benchmarks", options.share)]
    started = time.monotonic()
    totals: Counter[str] = Counter()
    wrong: dict[str, Counter[str]] = {}
    with Grader(RewardsConfig(verifier=options.verifier, workers=options.workers)) as grader:
        for (name, kind, item, right), label in zip(cases, grader.grade(case[2] for case in cases), strict=True):
            side = f"{name}, {'right' if right else 'wrong'}"
            totals[side] += 1
            if (label.reward > 0.5) != right:
                wrong.setdefault(side, Counter())[kind] += 1
                print(  # noqa: T201
                    f"{side}, {kind}: gold {item.answer!r:.60}, {item.response[-90:]!r}, {label.status} {label.detail}"
                )
    result = {
        "what": "cases, and those whose verdict is wrong, by kind",
        "verifier": options.verifier,
        "share_of_gold_answers": options.share,
        "cases": dict(totals),
        "wrong": {side: dict(kinds.most_common()) for side, kinds in wrong.items()},
        "seconds": round(time.monotonic() - started, 1),
        "load": os.getloadavg(),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({side: [sum(wrong.get(side, {}).values()), count] for side, count in totals.items()}))  # noqa: T201


if __name__ == "__main__":
    main()
