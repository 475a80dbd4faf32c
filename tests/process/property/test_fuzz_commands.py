"""`tbrm` with any words behind it: a result, or one readable message; never a traceback."""

import functools
import tempfile
from pathlib import Path

from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from assets.studies.loop import run_generations
from pipeline.cli.main import tbrm
from pipeline.config import load_experiment
from pipeline.store import open_store
from tests.property.mutation import SCALARS
from tests.support.tiny import write_tiny

COMMANDS = [
    *("config show", "config validate", "inspect", "show", "sql", "lineage", "leaderboard", "compare", "diagnostics"),
    *(
        "patterns",
        "regrade",
        "report",
        "benchmarks",
        "contamination",
        "rewards",
        "rewards audit",
        "ref-logprobs",
        "grade",
    ),
    *("config explain", "delta", "export"),
    *("import", "logged-labels", "train", "evaluate", "rollouts", "base-policy", "study"),
]
WORDS = [
    *(
        "tiny",
        "tiny:0",
        "tiny:latest",
        "tiny:99",
        "tiny/rollouts",
        "logged/tiny_behaviour",
        "logged/none",
        "list",
        "theory",
    ),
    *(
        "-e",
        "--experiment",
        "-g",
        "--generation",
        "0",
        "99",
        "-1",
        "--label",
        "v2",
        "--json",
        "--replace",
        "--verifier",
    ),
    *(
        "plain",
        "--benchmarks",
        "aime24",
        "--source",
        "/nonexistent",
        "--set",
        "training.beta=0",
        "prompts.source=jsonl",
    ),
    *(
        "select 1",
        "select * from rollouts limit 1",
        "select",
        "--name",
        "../x",
        "--tokenizer",
        "--map",
        "a=b",
        "--limit",
    ),
    *(
        "training.beta",
        "rollouts",
        "--as",
        "sft",
        "--least-reward",
        "--max-row-mb",
        "nan",
        "inf",
        "9" * 30,
        "9" * 5_000,
    ),
    *(
        "--paper",
        "--logged",
        "tiny_behaviour",
        "--sample",
        "--out",
        "/nonexistent/x.html",
        "--policy",
        "-",
        "--size",
        "paper",
    ),
]


@functools.cache
def world() -> tuple[str, str]:
    """A folder with an experiment, and a store with its first generation."""
    folder = Path(tempfile.mkdtemp(prefix="tbrm-fuzz-"))
    path = write_tiny(folder, generations=1, prompts=8)
    root = folder / "data"
    for _ in run_generations(load_experiment(str(path)), open_store(str(root))):
        pass
    return str(path), str(root)


@given(
    st.sampled_from(COMMANDS), st.lists(st.sampled_from(WORDS) | SCALARS.map(str), max_size=6), st.binary(max_size=40)
)
def test_any_words(command: str, words: list[str], typed: bytes) -> None:
    path, root = world()
    named = [path if word == "tiny" and "-e" in words[:i] else word for i, word in enumerate(words)]
    arguments = [*command.split(), *(word.replace("\x00", "") for word in named), "--root", root]
    if command.split()[0] in ("study", "train", "evaluate", "rollouts", "base-policy") and "--help" not in arguments:
        arguments.append("--no-such-option")  # read and refused: their work is not what is tried here
    runner = CliRunner()
    with runner.isolated_filesystem():  # `export` writes to any folder that a word names
        result = runner.invoke(tbrm, arguments, input=typed)
    assert result.exit_code in (0, 1, 2), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, result.exc_info)
    assert "Traceback" not in result.output
