"""docs/reference.md is that of the code, and nothing that the code reports or prints lacks its line."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.table import Table

import assets.doctor.command as doctor
from assets.experiment.meanings import PRINTED, column_meaning, metric_meaning
from assets.experiment.reference import commands, reference_page
from evals.report import summary
from pipeline.cli.main import EXIT_CODES, tbrm
from pipeline.config import Experiment
from pipeline.store import SCHEMAS, Store
from pipeline.store.schema import MEANINGS

ROOT = Path(__file__).parents[3]


def test_the_page_is_that_of_the_code() -> None:
    page = (ROOT / "docs/reference.md").read_text()
    assert page == reference_page(), "run scripts/write-configuration"
    for name, command in commands():
        section = page.partition(f"### tbrm {name}\n")[2].partition("\n### ")[0]
        for option in command.params:
            assert option.param_type_name == "argument" or f"`{option.opts[0]}" in section, (name, option.name)
    assert all(f"| {code} |" in page for code in EXIT_CODES)


def test_no_column_of_a_table_is_without_its_line_and_no_line_without_its_column() -> None:
    assert {name for schema in SCHEMAS.values() for name in schema.names} == set(MEANINGS)


def test_no_metric_that_a_stage_reports_is_without_its_line(made: tuple[Store, dict[str, Any]]) -> None:
    store, reports = made
    told = {name: set(report["metrics"]) for name, report in reports.items()}
    updates = store.join("small", "trained_policy", "generation=0000", "metrics.jsonl")
    told["metrics.jsonl"] = set(json.loads(store.read_bytes(updates).decode().splitlines()[0]))
    assert {(stage, name) for stage, names in told.items() for name in names if not metric_meaning(name)} == set()
    assert metric_meaning("no_such_metric") is None


def printed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The columns that are printed from now on."""
    found, add_column = list[str](), Table.add_column

    def noted(table: Table, header: Any = "", *rest: Any, **more: Any) -> None:
        found.append(str(header))
        add_column(table, header, *rest, **more)

    monkeypatch.setattr(Table, "add_column", noted)
    return found


def test_no_printed_column_is_without_its_line(
    made: tuple[Store, Any], experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = made
    path = tmp_path / "small.yaml"
    path.write_text(experiment.model_dump_json())
    row = store.partition("small", "rollouts", 0).read_shard(0, ["trajectory_id"])
    words = {
        "status": [["status"], ["status", str(path)]],
        "inspect": [["inspect"], ["inspect", "small"]],
        "show": [["show", str(row["trajectory_id"][0])]],
        "evaluate": [["evaluate", "-e", str(path), "-g", "0"]],
        "compare": [["compare", "small:0", "small:1"]],
        "leaderboard": [["leaderboard"]],
        "patterns": [["patterns", "small"]],
        "diagnostics": [["diagnostics", str(path), "-g", "0"]],
        "benchmarks": [["benchmarks"]],
    }
    for command, calls in words.items():
        columns = printed(monkeypatch)
        for call in calls:
            done = CliRunner().invoke(tbrm, [*call, "--root", store.root])
            assert done.exit_code == 0, done.output
        assert columns, command
        assert [column for column in columns if column_meaning(command, column) is None] == [], command
    columns = printed(monkeypatch)
    summary.summarize(experiment, store)
    assert [column for column in columns if column_meaning("run", column) is None] == []
    columns = printed(monkeypatch)
    doctor._print([])  # pyright: ignore[reportPrivateUsage]
    assert [column for column in columns if column_meaning("doctor", column) is None] == []
    assert set(PRINTED) == {*words, "run", "doctor"}


def exits() -> Iterator[tuple[str, int]]:
    """(file, number) of each exit with a written number."""
    for room in ("pipeline", "trainer", "evals", "assets"):
        patterns = ("**/cli.py", "**/command.py", "cli/*.py")
        for path in (path for pattern in patterns for path in (ROOT / room).glob(pattern)):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "exit":
                    numbers = (a.value for a in node.args if isinstance(a, ast.Constant))
                    yield from ((str(path), number) for number in numbers if isinstance(number, int))


def test_no_exit_code_is_without_its_line() -> None:
    found = dict(exits())
    assert set(found.values()) <= set(EXIT_CODES)
    assert found, "the doctor's"
    for arguments, code in ((["status", "no_such"], 1), (["status", "--no-such"], 2), (["status", "--help"], 0)):
        assert CliRunner().invoke(tbrm, arguments).exit_code == code
