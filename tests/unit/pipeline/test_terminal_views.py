"""What a log, a model or a manifest says is shown on a terminal as text: no markup, no escape sequence, no crash."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.main import tbrm
from pipeline.store import Store, open_store
from tests.unit.replay.replay_store import reward_rows, rollout_rows, write_table

HOSTILE = [
    "[/nothing]",
    "[bold red]loud[/]",
    "[link=http://evil.example]click[/link]",
    "[",
    "\\[",
    ":bomb:",
    "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\x1b]0;title\x07",
    "\x9b2J\x1b[31m",
    "\u202eback",
]
SHOWN = {
    "\x1b": "\\x1b",
    "\x07": "\\x07",
    "\x9b": "\\x9b",
    "\u202e": "\\u202e",
}


def written(text: str) -> str:
    return "".join(SHOWN.get(character, character) for character in text)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A logged data set with a generation for each hostile text, which stands in every free field of it."""
    store = open_store(str(tmp_path_factory.mktemp("viewed")))
    for generation, text in enumerate(HOSTILE):
        free = {"prompt_id": text, "policy_id": text, "response_text": text, "finish_reason": text}
        rows = [row | free for row in rollout_rows("logged/log", generation, 0, 1, 2)]
        origin = write_table(store, "logged/log", "rollouts", generation, [rows], {f"source {text}": text})
        parents = {store.partition("logged/log", "rollouts", generation).name: origin, f"config {text}": text}
        said = {"status": text, "verifier": text, "extracted_answer": text, "detail": text}
        for label, reward in (("", 0.0), ("@other", 1.0)):
            labels = [row | said | {"reward": reward} for row in reward_rows(rows)]
            write_table(store, "logged/log", f"rewards{label}", generation, [labels], parents)
        prompt = {"prompt_id": text, "prompt_text": text, "prompt_token_ids": [1], "answer": text}
        prompt |= {"verifier": text, "source": text, "extra": text}
        write_table(store, "logged/log", "prompts", generation, [[prompt]], {})
        quarantined = {"file": text, "row": 1, "field": text, "reason": text, "value": text}
        write_table(store, "logged/log", "quarantine", generation, [[quarantined]], {})
    return store


def call(store: Store, *arguments: str) -> str:
    result = CliRunner().invoke(tbrm, [*arguments, "--root", store.root], env={"COLUMNS": "250"})
    assert result.exit_code in (0, 1), result.exception
    assert all(character not in result.output for character in SHOWN)
    return result.output


def test_inspect_shows_what_it_counts_by_name(store: Store) -> None:
    shown = call(store, "inspect", "logged/log")
    assert all(written(text) in shown for text in HOSTILE)


@pytest.mark.parametrize("generation", range(len(HOSTILE)), ids=map(ascii, HOSTILE))
def test_lineage_show_and_sql_show_the_text_itself(store: Store, generation: int) -> None:
    text = HOSTILE[generation]
    shown = call(store, "lineage", f"logged/log/rewards@other/generation={generation:04d}")
    assert f"config {written(text)}" in shown
    assert f"source {written(text)}" in shown
    assert f"behaviour policy {written(text)}" in shown
    trajectory = rollout_rows("logged/log", generation, 0, 1, 1)[0]["trajectory_id"]
    assert call(store, "show", trajectory).count(written(text)) >= 6
    query = f'select policy_id, status as "{text}" from trajectories where generation = {generation}'
    assert call(store, "sql", query).count(written(text)) == 5  # a heading, and two columns of two rows


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_an_error_repeats_what_was_typed_as_text(store: Store, text: str) -> None:
    for arguments in (["inspect", text], ["lineage", text], ["show", text], ["sql", text]):
        assert call(store, *arguments).startswith("error: ")


def test_the_names_in_a_folder_are_text_as_well(tmp_path: Path) -> None:
    assert "error" in call(open_store(str(tmp_path / "[bold]")), "inspect", "[/nothing]")
