"""Training prompts that are benchmark problems, word for word or nearly: found in one pass over the prompts.

`exact`: equal once white space, math delimiters and LaTeX layout are gone. `near`: at least half of the benchmark
problem's 13-grams of words stand in one prompt. Only the benchmarks are held in memory.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import xxhash

from pipeline.config.prompts import Columns, OverlapConfig, PromptsConfig
from pipeline.errors import TbrmError
from pipeline.prompts.problems import Problem, file_problems

GRAM = 13
"""Words of an n-gram, as in the contamination studies of GPT-3 and later."""
NEAR = 0.5
_LAYOUT = re.compile(
    r"\\(?:left|right|text(?:bf|it|rm)?|math(?:rm|bf|it|bb|cal)?|operatorname|displaystyle|q?quad|[bB]igg?|begin|end|tag|mbox)"
    r"(?![a-zA-Z])\*?"
)
_DELIMITERS = re.compile(r"\s+|\$|\\[()\[\]]|[{}]")
_WORDS = re.compile(r"[^\W\d_]+|\d+")


@dataclass(frozen=True)
class Pair:
    """A training prompt and the benchmark problem that it repeats."""

    prompt_id: str
    benchmark: str
    problem_id: str
    kind: Literal["exact", "near"]
    overlap: float
    """Share of the benchmark problem's 13-grams that the prompt contains; 1 for `exact`."""
    same_answer: bool
    """Near pairs are often siblings with another number or sign; those have another answer."""


@dataclass(frozen=True)
class BenchmarkOverlap:
    """How much of one benchmark stands among the training prompts, in benchmark problems."""

    benchmark: str
    problems: int
    exact: int
    near: int
    """Problems with a near pair and no exact one."""
    same_answer: int
    """Of both, those that a prompt repeats with the same answer."""


class Benchmarks:
    """Benchmark problems, indexed by normalized text and by 13-gram."""

    def __init__(self, problems: Mapping[str, Sequence[Problem]]) -> None:
        self.sizes = {name: len(found) for name, found in problems.items()}
        self._problems = [(name, problem) for name, found in problems.items() for problem in found]
        self._exact: dict[str, list[int]] = {}
        self._grams: dict[int, list[int]] = {}
        self._counts: list[int] = []
        for i, (_, problem) in enumerate(self._problems):
            self._exact.setdefault(_normalized(problem.text), []).append(i)
            grams = _grams(problem.text)
            self._counts.append(len(grams))
            for gram in grams:
                self._grams.setdefault(gram, []).append(i)

    def pairs_of(self, prompt: Problem, near: float = NEAR) -> list[Pair]:
        """Benchmark problems that `prompt` repeats; `near` is the smallest share of 13-grams that counts."""
        exact = self._exact.get(_normalized(prompt.text), [])
        shared = Counter(i for gram in _grams(prompt.text) for i in self._grams.get(gram, ()))
        shares = {i: count / self._counts[i] for i, count in shared.items()}
        shares = {i: share for i, share in shares.items() if share >= near} | dict.fromkeys(exact, 1.0)
        return [self._pair(prompt, i, share, i in exact) for i, share in sorted(shares.items())]

    def _pair(self, prompt: Problem, i: int, share: float, exact: bool) -> Pair:
        name, problem = self._problems[i]
        same = _normalized(prompt.answer) == _normalized(problem.answer)
        return Pair(prompt.id, name, problem.id, "exact" if exact else "near", round(share, 3), same)

    def summary(self, pairs: Iterable[Pair]) -> list[BenchmarkOverlap]:
        """One row for each benchmark, those without any overlap included."""
        kinds: dict[tuple[str, str], set[str]] = {}
        for pair in pairs:
            marks = {pair.kind, "same"} if pair.same_answer else {pair.kind}
            kinds.setdefault((pair.benchmark, pair.problem_id), set()).update(marks)
        return [
            BenchmarkOverlap(
                benchmark=name,
                problems=size,
                exact=sum("exact" in marks for (b, _), marks in kinds.items() if b == name),
                near=sum("exact" not in marks for (b, _), marks in kinds.items() if b == name),
                same_answer=sum("same" in marks for (b, _), marks in kinds.items() if b == name),
            )
            for name, size in self.sizes.items()
        ]


def load_benchmarks(folder: str, names: Sequence[str] = ()) -> Benchmarks:
    """Benchmarks of a folder with a JSONL file each (fields id, problem, answer); all of them without `names`.

    A name may leave out what follows a `_` of the file's name. Raises TbrmError naming what there is.
    """
    files = {path.stem: path for path in sorted(Path(folder).glob("*.jsonl"))}
    if not files:
        raise TbrmError(f"{folder} holds no benchmark files (*.jsonl): name the folder with one JSONL file a benchmark")
    chosen: dict[str, Path] = {}
    for name in names or files:
        fits = [stem for stem in files if stem == name] or [stem for stem in files if stem.startswith(f"{name}_")]
        if len(fits) != 1:
            raise TbrmError(f"{folder} holds no benchmark {name!r}; there are {', '.join(files)}")
        chosen[name] = files[fits[0]]
    return Benchmarks({name: list(file_problems(path, Columns())) for name, path in chosen.items()})


def without_overlap(problems: Iterable[Problem], config: OverlapConfig) -> Iterator[Problem]:
    """The problems that repeat no benchmark problem."""
    benchmarks = load_benchmarks(config.source, config.benchmarks)
    return (problem for problem in problems if not benchmarks.pairs_of(problem, config.min_share))


def find_pairs(problems: Iterable[Problem], benchmarks: Benchmarks) -> Iterator[Pair]:
    """Every pair, in the order of the prompts; a prompt that stands several times is reported once."""
    seen: set[str] = set()
    for problem in problems:
        found = benchmarks.pairs_of(problem)
        if found and problem.id not in seen:
            seen.add(problem.id)
            yield from found


def benchmark_folder(prompts: PromptsConfig, evaluation_source: str | None) -> str | None:
    """Where the experiment says that benchmark files are: `prompts.exclude_overlap`, else `evaluation.source`."""
    return prompts.exclude_overlap.source if prompts.exclude_overlap else evaluation_source


def _plain(text: str) -> str:
    """Lower case, one spelling for fractions and dots, no layout commands. A form feed is what JSON made of a \\f."""
    text = text.replace("\x0crac", "\\frac").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = text.replace("\\ldots", "\\dots").replace("\\cdots", "\\dots")
    return _LAYOUT.sub(" ", text).lower()


def _normalized(text: str) -> str:
    return _DELIMITERS.sub("", _plain(text))


def _grams(text: str) -> set[int]:
    words = _WORDS.findall(_plain(text))
    return {xxhash.xxh3_64_intdigest(" ".join(words[i : i + GRAM]).encode()) for i in range(len(words) - GRAM + 1)}
