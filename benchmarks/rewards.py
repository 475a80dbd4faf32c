"""Labels per second beside a plain loop over Math-Verify and TRL's accuracy reward, and how far the labels agree.

    python benchmarks/rewards.py --data ../shared/data --rounds 3        # writes benchmarks/results/rewards.json

Every measurement is its own process, pinned to one or two cores; methods take turns within a round and medians over
rounds are reported, so that other load on the machine hits all of them alike. Processor time is counted beside wall
time. Imports and worker start-up are timed apart. TRL is measured where it is importable:
`pip install --no-deps --target /tmp/trl trl==1.16.0` and PYTHONPATH=/tmp/trl.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.rewards import RewardsConfig
from pipeline.rewards.grader import Grader
from pipeline.rewards.types import GradeItem
from pipeline.rewards.verifiers import math_verify

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "rewards.json"
WARM_UP = [GradeItem(f"\\boxed{{\\frac{{{i}}}{{11}}}}", "1") for i in range(8)]
ENDLESS_ROW = 849
Labels = list[float]


def logged(data: str) -> list[GradeItem]:
    """The 3,200 logged rollouts but one, which Math-Verify without a timeout never finishes."""
    lines = (Path(data) / "logged" / "qwen25math1p5b_grpo_rollouts.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [GradeItem(row["response"], row["answer"]) for number, row in enumerate(rows) if number != ENDLESS_ROW]


def latex(rows: int) -> list[GradeItem]:
    """Different boxed expressions after 1,500 characters of reasoning, half of them right."""
    dice = random.Random(0)
    items: list[GradeItem] = []
    for number in range(rows):
        gold, wrong = expressions(dice, number)[:2]
        items.append(GradeItem(f"{thoughts(dice)} So $\\boxed{{{gold if dice.random() < 0.5 else wrong}}}$.", gold))
    return items


def expressions(dice: random.Random, number: int) -> list[str]:
    """A gold expression of one of five forms, and two wrong ones."""
    a, b = dice.randint(2, 96), dice.randint(2, 99)
    forms = ["\\frac{%d}{%d}", "%d\\sqrt{%d}", "x^2+%dx+%d", "(%d,%d]", "\\frac{%d\\pi}{%d}"]
    return [forms[number % 5] % (a + off, b) for off in range(3)]


def generation(answers: Callable[[random.Random, int], list[str]], prompts: int) -> list[GradeItem]:
    """A generation with n = 16: every response worded differently, three different answers to a prompt."""
    dice = random.Random(1)
    return [
        GradeItem(f"{thoughts(dice)} So \\boxed{{{dice.choices(given, (8, 1, 1))[0]}}}.", given[0])
        for number in range(prompts)
        for given in [answers(dice, number)]
        for _ in range(16)
    ]


def integers(dice: random.Random, number: int) -> list[str]:
    value = dice.randint(0, 999)
    return [str(value), str(value + 1), str(-value)]


def thoughts(dice: random.Random) -> str:
    return " ".join(f"We add ${dice.randint(1, 99)} + x_{i}$ to both sides, which gives more." for i in range(28))


INPUTS: dict[str, Callable[[str], list[GradeItem]]] = {
    "logged": logged,
    "latex": lambda _: latex(600),
    "n16_latex": lambda _: generation(expressions, 64),
    "n16_integers": lambda _: generation(integers, 128),
}


def plain_loop(items: Sequence[GradeItem]) -> Labels:
    """What everybody writes first: no worker, the library's own alarm."""
    from math_verify import parse, verify

    return [float(verify(parse(f"\\boxed{{{item.answer}}}"), parse(item.response))) for item in items]


def trl(items: Sequence[GradeItem]) -> Labels:
    from trl.rewards import accuracy_reward  # type: ignore[import-not-found]

    found = accuracy_reward([[{"content": item.response}] for item in items], [f"\\boxed{{{i.answer}}}" for i in items])
    return [float(reward or 0.0) for reward in found]


def unprotected(items: Sequence[GradeItem]) -> Labels:
    """The same verifier without workers: what the protection is measured against."""
    return [math_verify.grade(math_verify.reduce(item.response), item.answer, {}).reward for item in items]


def ours(workers: int, remember: bool) -> Callable[[Sequence[GradeItem]], Labels]:
    grader = Grader(RewardsConfig(workers=workers), memoize=remember, shortcuts=remember)
    list(Grader.grade(grader, WARM_UP * workers))
    return lambda items: [label.reward for label in grader.grade(items)]


METHODS: dict[str, tuple[int, Callable[[], Callable[[Sequence[GradeItem]], Labels]]]] = {
    "math_verify_loop": (1, lambda: plain_loop),
    "trl_accuracy_reward": (1, lambda: trl),
    "verifier_without_workers": (1, lambda: unprotected),
    "grader_every_row_1_core": (1, lambda: ours(1, remember=False)),
    "grader_every_row_2_cores": (2, lambda: ours(2, remember=False)),
    "grader_1_core": (1, lambda: ours(1, remember=True)),
    "grader_2_cores": (2, lambda: ours(2, remember=True)),
}


def measure(name: str, source: str, data: str) -> None:
    """Runs in a process of its own: prints seconds and labels."""
    cores, make = METHODS[name]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    items = INPUTS[source](data)
    begun = time.perf_counter()
    method = make()
    method(WARM_UP)
    start_up = time.perf_counter() - begun
    begun, used = time.perf_counter(), processor_seconds()
    labels = method(items)
    found = {"seconds": time.perf_counter() - begun, "cpu_s": processor_seconds() - used}
    sys.stdout.write(json.dumps(found | {"start_up_s": start_up, "labels": labels}))
    sys.stdout.flush()
    os._exit(0)  # workers are of no more use; they see the closed pipe


def processor_seconds() -> float:
    """User and system time of this process, of its workers, which the fork server owns, and of all below them."""
    ticks, nanoseconds, todo = 0, 0, [process.pid for process in multiprocessing.active_children()]
    while todo:
        folder = Path(f"/proc/{todo.pop()}")
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[13:15]))  # of children that have ended
        nanoseconds += int((folder / "schedstat").read_text().split()[0])
        todo += [int(child) for child in (folder / "task" / folder.name / "children").read_text().split()]
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK") + nanoseconds / 1e9


def child(*args: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, *args], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def speeds(sources: Iterable[str], rounds: int, data: str) -> dict[str, Any]:
    names = [name for name in METHODS if name != "trl_accuracy_reward" or importlib.util.find_spec("trl")]
    table: dict[str, Any] = {}
    for source in sources:
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for number in range(rounds):
            for name in names if number % 2 == 0 else reversed(names):
                runs[name].append(child("--measure", name, "--input", source, "--data", data))
                sys.stderr.write(f"{source} round {number} {name}: {runs[name][-1]['seconds']:.2f} s\n")
        rows = len(runs[names[0]][0]["labels"])
        seconds = {name: statistics.median(run["seconds"] for run in runs[name]) for name in names}
        cpu = {name: statistics.median(run["cpu_s"] for run in runs[name]) for name in names}
        table[source] = {
            "rows": rows,
            "labels_per_wall_s": {name: round(rows / value, 1) for name, value in seconds.items()},
            "labels_per_cpu_s": {name: round(rows / value, 1) for name, value in cpu.items()},
            "start_up_s": {n: round(statistics.median(run["start_up_s"] for run in runs[n]), 2) for n in names},
            "equal_labels_with_loop": {
                name: sum(a == b for a, b in zip(runs[name][0]["labels"], runs[names[0]][0]["labels"], strict=True))
                for name in names
            },
            "wall_s_of_each_round": {name: [round(run["seconds"], 3) for run in runs[name]] for name in names},
            "load_average": os.getloadavg()[0],
            "ratios": ratios(seconds, cpu) | {"two_cores_over_one_best_round": best_scaling(runs)},
        }
    return table


def ratios(wall: dict[str, float], cpu: dict[str, float]) -> dict[str, float]:
    """Figures of merit, larger is better. On a machine that others use too, processor time is the fairer measure."""
    every, remembering = "grader_every_row_1_core", "grader_1_core"
    pairs = {
        "protected_over_loop": ("math_verify_loop", every),
        "protected_over_unprotected": ("verifier_without_workers", every),
        "remembering_over_every_row": (every, remembering),
        "remembering_over_loop": ("math_verify_loop", remembering),
    }
    found = {
        f"{name}_{kind}": t[a] / t[b] for name, (a, b) in pairs.items() for kind, t in (("wall", wall), ("cpu", cpu))
    }
    found["two_cores_over_one_wall"] = wall[every] / wall["grader_every_row_2_cores"]
    return {name: round(value, 2) for name, value in sorted(found.items())}


def best_scaling(runs: dict[str, list[dict[str, Any]]]) -> float:
    """Two workers against one, the quietest round of each: another user of the second core hides it in medians."""
    one, two = (min(run["seconds"] for run in runs[f"grader_every_row_{n}"]) for n in ("1_core", "2_cores"))
    return round(one / two, 2)


def hostile() -> dict[str, Any]:
    """The 200 hostile responses between 200 honest ones."""
    sys.path.insert(0, str(ROOT / "tests" / "integration" / "rewards"))
    from tests.support.hostile_responses import hostile_items  # type: ignore[import-not-found]

    items: list[GradeItem] = []
    for number, bad in enumerate(hostile_items()):
        items += [GradeItem(f"\\boxed{{\\frac{{{number}}}{{7}}}}", f"{number}/7"), bad]
    config = RewardsConfig(cpu_s=0.2, timeout_s=20, memory_mb=512)
    begun = time.perf_counter()
    with Grader(config) as grader:
        labels = list(grader.grade(items))
    return {
        "seconds": round(time.perf_counter() - begun, 1),
        "limits": {"cpu_s": 0.2, "timeout_s": 20, "memory_mb": 512},
        "status": dict(Counter(label.status for label in labels[1::2])),
        "honest_rows_unharmed": sum(label.reward == 1.0 for label in labels[::2]),
        "peak_rss_of_parent_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def agreement(data: str) -> dict[str, Any]:
    """Confusion of the upstream label with ours, by the verifier that means the same."""
    lines = (Path(data) / "logged" / "qwen25math1p5b_grpo_rollouts.jsonl").read_text().splitlines()
    rows = list(enumerate(map(json.loads, lines)))
    table: dict[str, Any] = {}
    for run, config in (
        ("question_only", RewardsConfig(require_boxed=True)),
        ("on_policy", RewardsConfig(verifier="r1_format")),
    ):
        chosen = [(number, row) for number, row in rows if run in row["policy"]]
        with Grader(config) as grader:
            labels = list(grader.grade(GradeItem(row["response"], row["answer"]) for _, row in chosen))
        cells: dict[str, list[int]] = {}
        for (number, row), label in zip(chosen, labels, strict=True):
            ours = "right" if label.reward else "wrong"
            cells.setdefault(f"upstream {'right' if row['is_correct'] else 'wrong'}, ours {ours}", []).append(number)
        table[run] = {
            "verifier": config.verifier,
            "cells": {name: len(found) for name, found in sorted(cells.items())},
            "rows_that_differ": {
                n: found for n, found in sorted(cells.items()) if len({*n.replace(",", "").split()}) > 3
            },
        }
    return table


def gold_against_gold(data: str) -> dict[str, Any]:
    table: dict[str, Any] = {}
    with Grader(RewardsConfig()) as grader:
        for file in sorted([*Path(data, "benchmarks").glob("*.jsonl"), *Path(data, "prompts").glob("*.jsonl")]):
            if file.stem.startswith("overlap"):
                continue
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            labels = grader.grade(GradeItem(f"\\boxed{{{row['answer']}}}", row["answer"]) for row in rows)
            wrong = [row["id"] for row, label in zip(rows, labels, strict=True) if label.reward != 1.0]
            table[file.stem] = {"rows": len(rows), "not_right": wrong}
    return table


STEADY: dict[str, Callable[[], list[GradeItem]]] = {
    "latex": lambda: latex(4_800),
    "n16_latex": lambda: generation(expressions, 512),
    "n16_integers": lambda: generation(integers, 1_024),
}
"""Inputs long enough that the rate is that of a generation, not of its first second."""
SLICES = 32


def sandbox() -> dict[str, Any]:
    """Labels a second with the sandbox and without: every row in a worker, and as `tbrm rewards` labels."""
    found: dict[str, Any] = {
        source: {way: child("--beside", way, "--input", source) for way in ("every_row", "as_labelled")}
        for source in STEADY
    }
    return found | {"start": child("--beside", "start"), "load_average": os.getloadavg()[0]}


def beside(way: str, source: str) -> dict[str, Any]:
    """The same rows without the sandbox and with it, slice by slice in turns, in one process on one core.

    A slice takes a fraction of a second, so other load on the machine hits both alike. Both have graded something
    before: what starting costs is timed apart.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    if way == "start":
        return starts()
    items, remember = STEADY[source](), way == "as_labelled"
    config = RewardsConfig(workers=1)
    graders = [Grader(config, memoize=remember, shortcuts=remember, confined=confined) for confined in (False, True)]
    for grader in graders:
        list(grader.grade(WARM_UP))
    size = len(items) // SLICES
    wall, cpu = [list[float](), list[float]()], [list[float](), list[float]()]
    labels = [Labels(), Labels()]
    for number in range(SLICES):
        part = items[number * size : (number + 1) * size]
        for which in (0, 1) if number % 2 else (1, 0):
            begun, used = time.perf_counter(), processor_seconds()
            labels[which] += [label.reward for label in graders[which].grade(part)]
            wall[which].append(time.perf_counter() - begun)
            cpu[which].append(processor_seconds() - used)
    return {
        "rows": len(labels[0]),
        "equal_labels": labels[0] == labels[1],
        "labels_per_wall_s": [round(len(labels[0]) / sum(seconds)) for seconds in wall],
        "labels_per_cpu_s": [round(len(labels[0]) / sum(seconds)) for seconds in cpu],
        "ratio_wall": round(statistics.median(a / b for a, b in zip(*wall, strict=True)), 3),
        "ratio_cpu": round(statistics.median(a / b for a, b in zip(*cpu, strict=True)), 3),
        "ratio_of_all_cpu": round(sum(cpu[0]) / sum(cpu[1]), 3),
    }


def starts() -> dict[str, Any]:
    """Seconds to the first label, when the fork server runs already: without the sandbox and with it."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(-1, 10):
        for confined in (False, True):
            begun = time.perf_counter()
            with Grader(RewardsConfig(workers=1), memoize=False, shortcuts=False, confined=confined) as grader:
                list(grader.grade(WARM_UP[:1]))
                if number >= 0:  # the first one started the fork server
                    times[confined].append(time.perf_counter() - begun)
    found: dict[str, Any] = {"first_label_s": [round(statistics.median(seconds), 3) for seconds in times]}
    items, config = latex(200), RewardsConfig(workers=1, verifier="benchmarks.rewards:contains")
    for confined in (False, True):
        with Grader(config, memoize=False, confined=confined) as grader:
            list(grader.grade(items[:1]))
            used = processor_seconds()
            list(grader.grade(items))
            used = 1_000 * (processor_seconds() - used) / len(items)
            found.setdefault("cpu_ms_a_row_of_a_user_verifier", []).append(round(used, 2))
    return found


def contains(response: str, answer: str, extra: object) -> bool:
    """A user's verifier that takes no time: what is left is the process that each row has of its own."""
    del extra
    return answer in response


def tiny_demo() -> float:
    """Seconds of wall time of `tbrm grade` over 1,024 integer answers, process start included."""
    text = "\n".join(json.dumps({"response": str(i), "answer": str(i + i % 2)}) for i in range(1_024))
    begun = time.perf_counter()
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", "grade"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1_024
    return round(time.perf_counter() - begun, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=INPUTS, nargs="+", help="measure these inputs again, keep the other figures")
    parser.add_argument("--sandbox", action="store_true", help="only with the sandbox against without")
    parser.add_argument("--measure", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--beside", choices=("every_row", "as_labelled", "start"), help=argparse.SUPPRESS)
    parser.add_argument("--input", choices=INPUTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.input, args.data)
    if args.beside:
        sys.stdout.write(json.dumps(beside(args.beside, args.input)))
        sys.stdout.flush()
        os._exit(0)  # as above
    if args.sandbox:
        result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        result["sandbox"] = sandbox()
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        sys.stdout.write(json.dumps(result["sandbox"], indent=1) + "\n")
        return
    if args.only:
        result = json.loads(RESULT.read_text())
        result["speed"] |= speeds(args.only, args.rounds, args.data)
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        return
    there = Path(args.data, "logged").is_dir()
    result = {
        "cores": len(os.sched_getaffinity(0)),
        "load_average_at_start": os.getloadavg()[0],
        "rounds": args.rounds,
        "speed": speeds([name for name in INPUTS if there or name != "logged"], args.rounds, args.data),
        "sandbox": sandbox(),
        "hostile": hostile(),
        "tiny_demo_s": tiny_demo(),
    }
    if there:
        result |= {"agreement": agreement(args.data), "gold_against_gold": gold_against_gold(args.data)}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps({name: table["ratios"] for name, table in result["speed"].items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
