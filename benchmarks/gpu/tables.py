"""Writes the tables of a result file into docs/performance.md, between the two marks there.

python -m benchmarks.gpu.tables benchmarks/results/gpu.json
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- benchmarks.gpu: begin -->", "<!-- benchmarks.gpu: end -->"
PUBLISHED = (
    ("prime-rl, 0.6B, 16k tokens, one H100", "11.1%"),
    ("prime-rl, 0.6B, 65k tokens, one H100", "26.8%"),
    ("prime-rl, 4B with LoRA, 65k tokens, one H100", "37.4%"),
)
"""Published MFU of another trainer, to read ours beside."""


def page_part(result: Mapping[str, Any]) -> str:
    """The Markdown that stands between the marks: the machine, then a table for each part that answered."""
    machine, answers = result["machine"], _answers(result)
    toys = " at **toy sizes (a rehearsal): no figure here says anything about a GPU**" if result["rehearsal"] else ""
    lines = [
        f"Measured on {machine['device']}{toys}, {machine['date']}: torch {machine['torch']}, CUDA {machine['cuda']}, "
        f"transformers {machine['transformers']}, Python {machine['python']}, {result['seconds']:.0f} s in all.",
        "",
    ]
    if tests := answers.get("trainer-tests"):
        counts = ", ".join(f"{n} {kind}" for kind, n in tests["unit_tests"].items())
        difference = tests.get("relative_difference_of_losses")
        lines += [
            f"The trainer's unit tests there: {counts}. Losses of one job on the device and on the CPU differ by "
        ]
        lines[-1] += f"{_number(difference)} of their size.\n"
    if updates := [answers[n] for n in ("update-tbrm", "update-ppo", "update-grpo") if "seconds" in answers.get(n, {})]:
        lines += _updates(updates)
    if micro := answers.get("micro-batches"):
        lines += ["TBRM at other micro-batches:", ""]
        columns = ("micro_batch_tokens", "activation_checkpointing", "tokens_per_second", "mfu", "peak_gb")
        lines += _table(columns, micro["rows"])
    if head := answers.get("head"):
        lines += [
            f"The head: {head['tokens']:,} tokens, vocabulary {head['vocabulary']:,}, bf16 against fp32 logits:",
            "",
        ]
        columns = ("chunk", "forward_s", "both_s", "extra_gb", "max_error_logprob", "max_error_value")
        lines += _table((*columns, "cosine_grad_weight"), head["ours"])
        if "both_s" in head.get("liger", {}):
            liger = head["liger"]
            lines += [f"Liger's fused cross-entropy (no V): {liger['both_s']:.4f} s, {liger['extra_gb']} GiB.", ""]
    if attention := answers.get("attention"):
        lines += ["Attention of one layer over a pack, forward and backward:", ""]
        columns = ("tokens", "kind", "sequences", "blocks_both_s", "varlen_both_s", "blocks_peak_gb", "varlen_peak_gb")
        lines += _table(columns, attention["rows"])
    if longest := answers.get("longest"):
        for name in ("with_checkpointing", "without_checkpointing"):
            if rows := longest.get(name):
                lines += [f"Longest response, {name.replace('_', ' ')}: {longest[f'longest_{name}']:,} tokens", ""]
                lines += _table(("response_tokens", "seconds", "mfu", "peak_gb", "out_of_memory"), rows)
    if reference := answers.get("reference"):
        lines += ["Scoring the reference; Σ(lp - ref) at θ = θ_ref against the smallest packs, nats a response:", ""]
        rows = [row | row.get("against_smallest_packs", {}) for row in reference["rows"]]
        names = ("mean_abs_logratio_of_response", "max_abs_logratio_of_response")
        lines += _table(("pack_tokens", "tokens_per_second", "peak_gb", *names), rows)
    if job := answers.get("whole-job"):
        lines += ["Around the updates of a job:", "", *_table(tuple(job), [job])]
    if learning := answers.get("learning"):
        lines += [f"The loop on {learning['policy']}:", ""]
        lines += _table(("generation", "reward", "kl", "seconds"), learning.get("rows", []))
    if lora := answers.get("lora"):
        lines += [f"{lora['model']} with LoRA:", ""]
        lines += _table(("tokens", "seconds", "tokens_per_second", "mfu", "peak_gb", "out_of_memory"), [lora])
    missing = [f"{name} ({row['state']})" for name, row in result["parts"].items() if row["state"] != "ok"]
    return "\n".join(lines + ([f"Not answered: {', '.join(missing)}."] if missing else [])).rstrip() + "\n"


def write_page(result: Mapping[str, Any], page: Path) -> None:
    """Replace what stands between the marks of `page`. Raises SystemExit where they are not there."""
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{page} needs the lines {BEGIN} and {END} once each")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{page_part(result)}{END}{after}", encoding="utf-8")


def _answers(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row["answer"] for name, row in result["parts"].items() if row.get("answer")}


def _updates(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    first = rows[0]
    lines = [
        f"An update of {first['prompts']} prompts, {first['model']} ({first['parameters'] / 1e9:.2f}B), one process:",
        "",
    ]
    columns = ("objective", "n", "micro_batch_tokens", "tokens", "seconds", "tokens_per_second", "mfu", "peak_gb")
    lines += _table(columns, rows)
    named = {row["objective"]: row for row in rows}
    if {"tbrm", "ppo", "grpo"} <= set(named):
        tbrm, ppo, grpo = (named[name] for name in ("tbrm", "ppo", "grpo"))
        memory = f"{tbrm['peak_gb'] / ppo['peak_gb']:.2f}" if tbrm["peak_gb"] and ppo["peak_gb"] else "not measured"
        faster, step = (f"{other['seconds'] / tbrm['seconds']:.1f} times as fast" for other in (ppo, grpo))
        lines += [
            f"TBRM n=1 against PPO n=1: {memory} of its memory (the paper: 0.67), {faster} (1.3). "
            f"Against GRPO n=4: {step} a step (3.1).",
            "",
        ]
    published = "; ".join(f"{what} {mfu}" for what, mfu in PUBLISHED)
    return [*lines, f"MFU that others publish: {published}. Our aim at 1.5B and 2k to 16k packed tokens is 40%.", ""]


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A Markdown table of the columns that any row has."""
    shown = [name for name in columns if any(row.get(name) is not None for row in rows)]
    cells = ([_number(row.get(name)) for name in shown] for row in rows)
    return [markdown_table([name.replace("_", " ") for name in shown], cells), ""]


def _number(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    write_page(json.loads(options.result.read_text(encoding="utf-8")), options.page)


if __name__ == "__main__":
    main()
