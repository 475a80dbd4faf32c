"""One grammar: EXPERIMENT[:GENERATION] is an argument of every command that takes one, and -e and -g say the same."""

import json
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner, Result

from pipeline.cli.main import COMMANDS, load_command, tbrm
from pipeline.cli.options import Finite, split_target


def run(*words: str) -> Result:
    return CliRunner().invoke(tbrm, list(words))


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command and subcommand by the words that call it."""
    for name in COMMANDS:
        command = load_command(name)
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {below}", found) for below, found in command.commands.items())


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("arith_tiny", ("arith_tiny", None)),
        ("arith_tiny:3", ("arith_tiny", 3)),
        ("folder/a.yaml:12", ("folder/a.yaml", 12)),
        ("s3://bucket/a.yaml", ("s3://bucket/a.yaml", None)),
        ("s3://bucket/a.yaml:0", ("s3://bucket/a.yaml", 0)),
        ("arith_tiny:latest", ("arith_tiny:latest", None)),
        (":3", (":3", None)),
        ("a:²", ("a:²", None)),
        ("a:" + "9" * 5_000, ("a:" + "9" * 5_000, None)),
    ],
)
def test_a_target_is_an_experiment_and_perhaps_a_generation(target: str, parts: tuple[str, int | None]) -> None:
    assert split_target(target) == parts


def test_what_takes_an_experiment_takes_it_in_both_ways() -> None:
    for name, command in commands():
        options = {word for parameter in command.params for word in parameter.opts}
        words = [parameter.make_metavar(click.Context(command)) for parameter in command.params]
        if any(word.lstrip("[").startswith("EXPERIMENT") for word in words):
            assert "-e" in options, name
            assert any("[:GENERATION]" in word for word in words) == ("-g" in options), name


def test_every_command_takes_a_root_and_gives_json() -> None:
    for name, command in commands():
        if isinstance(command, click.Group) and not command.invoke_without_command:
            continue  # its subcommands do
        options = {word for parameter in command.params for word in parameter.opts}
        assert {"--root", "--json"} <= options, name


@pytest.mark.parametrize(
    "words",
    [
        ("config", "schema"),
        ("config", "show", "arith_tiny"),
        ("config", "explain", "beta"),
        ("config", "validate", "arith_tiny"),
        ("benchmarks",),
        ("status", "arith_tiny", "--root", "memory://empty"),
    ],
)
def test_the_document_is_all_of_standard_output(words: tuple[str, ...]) -> None:
    done = run(*words, "--json", "--root", "memory://empty")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) is not None


def test_rows_are_graded_line_by_line_or_as_one_list() -> None:
    rows = [{"response": "4", "answer": "4"}, {"response": "5", "answer": "4"}]
    given = "".join(json.dumps(row) + "\n" for row in rows)
    lines = CliRunner().invoke(tbrm, ["grade", "--verifier", "plain"], input=given).stdout.splitlines()
    whole = json.loads(CliRunner().invoke(tbrm, ["grade", "--verifier", "plain", "--json"], input=given).stdout)
    assert [json.loads(line) for line in lines] == whole
    assert [row["answer"] for row in whole] == ["4", "4"]


def test_every_option_has_its_line() -> None:
    unexplained = [
        f"{name} {parameter.opts[0]}"
        for name, command in commands()
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert unexplained == []
    assert [name for name, command in commands() if not command.help] == []


@pytest.mark.parametrize("words", [("arith_tiny:3",), ("-e", "arith_tiny", "-g", "3"), ("arith_tiny", "-g", "3")])
@pytest.mark.parametrize("command", ["rollouts", "rewards", "ref-logprobs", "train", "diagnostics"])
def test_all_spellings_ask_for_the_same(command: str, words: tuple[str, ...]) -> None:
    first = run(command, "arith_tiny:3", "--root", "memory://grammar")
    asked = run(command, *words, "--root", "memory://grammar")
    assert first.exit_code == asked.exit_code == 1
    assert asked.output == first.output
    assert "3" in asked.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("rollouts",), "Missing argument 'EXPERIMENT[:GENERATION]'"),
        (("rollouts", "arith_tiny"), "Missing option 'EXPERIMENT:GENERATION' or '--generation'"),
        (("rewards",), "Missing argument 'EXPERIMENT[:GENERATION]'"),
        (("run",), "Missing argument 'EXPERIMENT'"),
        (("run", "arith_tiny:3"), "leave out :3"),
        (("rollouts", "arith_tiny:3", "-g", "4"), "two generations are named"),
        (("base-policy", "arith_tiny", "-e", "smollm2_135m"), "two experiments are named"),
    ],
)
def test_what_is_missing_or_said_twice_is_a_usage_error(words: tuple[str, ...], told: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert told in done.output


def test_no_number_of_a_command_may_be_nan_or_endless() -> None:
    """For click `nan` lies within any bounds."""
    found = {
        (name, parameter.opts[0]): parameter.type
        for name, command in commands()
        for parameter in command.params
        if isinstance(parameter.type, click.types.FloatParamType)
    }
    assert len(found) > 3
    assert {place for place, kind in found.items() if not isinstance(kind, Finite)} == set()
    for word in ("nan", "inf", "-inf", "1e999", "x"):
        result = run("import", "log.jsonl", "--name", "log", "--tokenizer", "t", "--max-row-mb", word)
        assert result.exit_code == 2, result.exception
        assert "--max-row-mb" in result.output


@pytest.mark.parametrize(
    "words",
    [
        ("import", "log.jsonl", "--name", "log", "--tokenizer", "t", "-g", "3000000000"),
        ("sql", "select 1", "--limit", "9" * 30),
        ("export", "logged/log", "folder", "--least-reward", "nan"),
    ],
)
def test_a_number_that_nothing_can_hold_is_refused_where_it_is_read(words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exit_code == 2, result.exception
    assert words[-2] in result.output


@pytest.mark.parametrize(
    "words", [("show", "\udcff"), ("lineage", "a\udcff"), ("import", "a.jsonl", "--policy", "\ud800"), ("\udcff",)]
)
def test_words_that_are_no_text_are_refused(words: tuple[str, ...]) -> None:
    """As a shell hands over the bytes of a name that is not UTF-8."""
    result = run(*words)
    assert result.exit_code == 2, result.exception
    assert "is not UTF-8" in result.output


@pytest.mark.parametrize("words", [("config", "show", "x" * 5_000), ("config", "show", "x" * 300 + ".yaml")])
def test_a_name_that_no_file_can_have_is_told(words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exit_code == 1, result.exception
    assert "File name too long" in result.output
    assert len(result.output) < 400
