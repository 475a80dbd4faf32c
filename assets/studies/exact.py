"""Studies on tables: no model and no store, every expectation exact. What such a study is, and its page."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from matplotlib.figure import Figure

Told = Callable[[str], None]


@dataclass(frozen=True)
class ExactStudy:
    """One study: its numbers, and how they are shown."""

    name: str
    title: str
    claim: str
    """What the paper says, in a sentence or two."""
    seeds: int
    run: Callable[[Sequence[int], Told], dict[str, Any]]
    """(seeds, told of progress) to every number of the page."""
    tables: Callable[[dict[str, Any]], str]
    """Markdown of the tables, and what they show in words whose figures come from the numbers."""
    figure: Callable[[dict[str, Any]], Figure]


def write_page(study: ExactStudy, folder: Path, told: Told) -> list[Path]:
    """Run the study and write NAME.json, NAME.png and NAME.md into `folder`; returns them."""
    started = time.process_time()
    results = study.run(range(study.seeds), told)
    results = {"study": study.name, "cpu_seconds": round(time.process_time() - started)} | results
    folder.mkdir(parents=True, exist_ok=True)
    data, picture, page = (folder / f"{study.name}.{suffix}" for suffix in ("json", "png", "md"))
    data.write_text(json.dumps(rounded(results), indent=1) + "\n", encoding="utf-8")
    draw_page(study, folder)
    return [data, picture, page]


def draw_page(study: ExactStudy, folder: Path) -> None:
    """Write the picture and the page from the committed numbers."""
    results = json.loads((folder / f"{study.name}.json").read_text(encoding="utf-8"))
    study.figure(results).savefig(folder / f"{study.name}.png", metadata={"Software": None})
    text = [
        f"# {study.title}",
        f"**Claim.** {study.claim}",
        f"```\ntbrm study {study.name} --size tiny\n```",
        f"{study.seeds} seeds, {results['cpu_seconds']} s of one CPU core; intervals are 95% over seeds. No model "
        f"and no store take part: policies are tables in float64, scored by the losses that train models. "
        f"All numbers: [{study.name}.json]({study.name}.json).",
        f"![{study.title}]({study.name}.png)",
        study.tables(results),
    ]
    (folder / f"{study.name}.md").write_text("\n\n".join(text).rstrip() + "\n", encoding="utf-8")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rounded(value: Any) -> Any:
    """Floats to five digits, so that the committed file is small and differences can be read."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in cast(dict[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in cast(Sequence[Any], value)]
    return value
