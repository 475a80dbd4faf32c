"""What an import must not guess without a word: the reward, the prompt that the model saw, the end of a response."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from pipeline.errors import TbrmError
from pipeline.logged.fields import Bad
from pipeline.logged.settings import Directions
from pipeline.logged.shapes import recognize
from pipeline.logged.stripped import chat_marks
from pipeline.logged.tokens import Tokenized
from tests.support.chatml import chatml_folder
from tests.support.logs import imported, jsonl, read_as, rows_of, run_import, sample

STRIPPED = "user\nWhat is 1+1?\nassistant\n"
SHOWN = "<|im_start|>user\nWhat is 1+1?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return chatml_folder(tmp_path_factory.mktemp("chatml"))


@pytest.fixture(scope="module")
def chatml(folder: str) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def completions(folder: Path, **columns: list[Any]) -> Path:
    """A completions table as TRL writes it, with these columns of numbers."""
    fixed = {"step": [1] * 4, "prompt": [STRIPPED] * 4, "completion": list("2345"), "advantage": [1.0, -1.0, 1.0, -1.0]}
    pq.write_table(pa.table({**fixed, **columns}), folder / "completions_00001.parquet")
    return folder / "completions_00001.parquet"


def test_numbers_of_a_table_are_not_summed_until_they_are_named(tmp_path: Path, folder: str) -> None:
    path = completions(tmp_path, accuracy_reward=[1.0, 0.0, 1.0, 0.0], completion_length=[12, 13, 14, 15])
    arguments = ("--template", "restore", path)
    refused = run_import(tmp_path / "a", folder, *arguments)
    assert refused.exit_code == 1
    assert "which of these is the reward? A row has accuracy_reward 1, completion_length 12" in refused.output
    assert "--reward accuracy_reward=1" in refused.output
    store, _ = imported(tmp_path / "a", folder, "--reward", "accuracy_reward", *arguments)
    assert [row["reward"] for row in rows_of(store, "rewards")] == [1.0, 0.0, 1.0, 0.0]


def test_the_first_rows_are_shown_as_they_were_read_and_what_is_lacking_is_said(tmp_path: Path, folder: str) -> None:
    path = completions(tmp_path, accuracy=[1.0, 0.0, 1.0, 0.0], brevity=[0.5, 1.0, 0.0, 0.0])
    said = run_import(
        tmp_path / "a", folder, "--template", "restore", "--reward", "accuracy=2,brevity=0.5", path
    ).stderr
    assert (
        'response "2<|im_end|>" (2 tokens, stop), reward 2.25 (advantage 1, accuracy 1, brevity 0.5)'
        in said.replace('"2"', '"2<|im_end|>"')
    )
    assert "note: no log-probs of the sampled tokens: no importance ratios, so neither grpo nor ppo" in said
    assert "note: no token ids" in said
    assert "note: no gold answers" in said
    assert "note: no finish reasons" in said


def test_weights_follow_the_trainer_where_a_function_gave_no_reward(chatml: Any) -> None:
    rows = [
        {"step": 1, "prompt": "q", "completion": "a", "one": 1.0, "two": float("nan"), "advantage": 0.0},
        {"step": 1, "prompt": "q", "completion": "b", "one": float("nan"), "two": None, "advantage": 0.0},
    ]
    _, found = read_as(rows, chatml, "raw", Directions(rewards={"one": 2.0, "two": 1.0}))
    assert [each.candidate.reward for each in found if isinstance(each, Tokenized)] == [2.0, None]


def test_an_unknown_name_of_a_reward_is_refused() -> None:
    with pytest.raises(TbrmError, match=r"--reward accurcy: the first row has no 'accurcy'.*accuracy_reward"):
        recognize(sample("trl")[0], Directions(rewards={"accurcy": 1.0}))


@pytest.mark.parametrize("name", ["verl", "trl", "roll"])
def test_prompts_without_their_special_tokens_are_refused_unless_restored(name: str, chatml: Any) -> None:
    directions = Directions(rewards={"accuracy_reward": 1.0} if name == "trl" else {})
    _, found = read_as(sample(name), chatml, "auto", directions)
    assert all(isinstance(each, Bad) and "--template restore" in each.reason for each in found)
    _, found = read_as(sample(name), chatml, "restore", directions)
    assert isinstance(found[0], Tokenized)
    assert found[0].prompt_text == SHOWN
    _, found = read_as(sample(name), chatml, "raw", directions)
    assert isinstance(found[0], Tokenized)
    assert found[0].prompt_text == STRIPPED


def test_such_a_prompt_is_noticed_in_any_log_and_under_any_template(chatml: Any) -> None:
    row = {"prompt": STRIPPED + "<think>\n\n</think>\n\n", "response": "2", "reward": 1.0}
    for template in ("auto", "chat", "qwen-math"):
        (found,) = read_as([row], chatml, template)[1]
        assert isinstance(found, Bad)
        assert "no model ever saw it" in found.reason
    (found,) = read_as([row], chatml, "restore")[1]
    assert isinstance(found, Tokenized)
    assert found.prompt_text == SHOWN + "<think>\n\n</think>\n\n"


def test_what_cannot_be_restored_for_certain_is_refused(chatml: Any) -> None:
    marks = chat_marks(chatml)
    assert marks is not None
    cases = {
        "user\nHi\nassistant\nHello\nuser\nBye\nassistant\n": "one turn or several",
        "user\nWhat is 1+1?": "does not end where",
        "somebody\nWhat is 1+1?\nassistant\n": "does not begin as",
    }
    for prompt, reason in cases.items():
        (found,) = read_as([{"input": prompt, "output": "2", "score": 1.0}], chatml, "restore")[1]
        assert isinstance(found, Bad)
        assert reason in found.reason


@pytest.mark.parametrize(
    "response",
    [
        "call\nuser\n<tool_response>\n2\n</tool_response>\nassistant\nIt is 2.",
        "call<|im_end|>\n<|im_start|>user\n2<|im_end|>\n<|im_start|>assistant\nIt is 2.<|im_end|>",
    ],
)
def test_words_of_the_environment_that_nothing_marks_are_refused(chatml: Any, response: str) -> None:
    (found,) = read_as([{"input": STRIPPED, "output": response, "score": 1.0}], chatml, "restore")[1]
    assert isinstance(found, Bad)
    assert "several turns" in found.reason


@pytest.mark.parametrize("told", [{"is_truncated": True}, {"finish_reason": "max_tokens"}, {"truncated": True}])
def test_a_response_that_was_cut_gains_no_end_of_sequence(chatml: Any, told: dict[str, Any]) -> None:
    _, found = read_as([{"prompt": SHOWN, "response": "It is", "reward": 0.0, **told}], chatml)
    (row,) = found
    assert isinstance(row, Tokenized)
    assert (row.finish_reason, chatml.decode(row.response_ids)) == ("length", "It is")
    _, found = read_as([{"prompt": SHOWN, "response": "It is", "reward": 0.0, "is_truncated": False}], chatml)
    assert isinstance(found[0], Tokenized)
    assert chatml.decode(found[0].response_ids) == "It is<|im_end|>"


def test_padding_behind_the_mask_is_not_stored(chatml: Any) -> None:
    row = {
        "prompt_ids": [0, 0, 1, 2],
        "prompt_mask": [0, 0, 1, 1],
        "completion_ids": [*range(3, 16), *[0] * 52],
        "completion_mask": [1] * 13 + [0] * 52,
        "logprobs": [-0.5] * 13 + [0.0] * 52,
        "reward": 1.0,
    }
    (found,) = read_as([row], chatml)[1]
    assert isinstance(found, Tokenized)
    assert (found.prompt_ids.tolist(), len(found.response_ids), found.mask) == ([1, 2], 13, None)
    assert found.logprobs is not None
    assert len(found.logprobs) == 13


def test_a_bare_question_is_not_taken_for_what_the_model_saw(tmp_path: Path, folder: str) -> None:
    path = jsonl(tmp_path / "log.jsonl", [{"question": "What is 1+1?", "response": "2", "expected_answer": "2"}])
    refused = run_import(tmp_path / "a", folder, path)
    assert refused.exit_code == 1
    assert "bare questions (field 'question')" in refused.output
    store, _ = imported(tmp_path / "a", folder, "--template", "chat", path)
    (prompt,) = rows_of(store, "prompts")
    assert (prompt["prompt_text"], prompt["answer"]) == (SHOWN, "2")


def test_what_a_sampler_repeats_is_no_bad_row(tmp_path: Path, folder: str) -> None:
    rows = [{"prompt": SHOWN, "response": str(n % 52), "reward": float(n % 2)} for n in range(80)]
    path = jsonl(tmp_path / "log.jsonl", rows)
    _, stats = imported(tmp_path / "a", folder, path)
    assert (stats["trajectories"], stats["bad_rows"], stats["repeated_rows"]) == (52, 0, 28)
    assert "--duplicates keep" in run_import(tmp_path / "b", folder, path).stderr
    _, stats = imported(tmp_path / "c", folder, "--duplicates", "keep", path)
    assert (stats["trajectories"], stats["repeated_rows"]) == (80, 0)


def test_a_response_that_several_filters_look_at_is_stored_once(tmp_path: Path, folder: str) -> None:
    path = jsonl(tmp_path / "log.jsonl", sample("lm-eval")[:2])
    store, stats = imported(tmp_path / "a", folder, path)
    assert (stats["trajectories"], stats["left_out_rows"], stats["bad_rows"]) == (1, 1, 0)
    assert [row["reward"] for row in rows_of(store, "rewards")] == [0.0]
    store, _ = imported(tmp_path / "b", folder, "--where", "filter=flexible-extract", path)
    assert [row["reward"] for row in rows_of(store, "rewards")] == [1.0]


def test_between_two_formats_nothing_is_guessed() -> None:
    both = sample("verl")[0] | {"instruction": "Add."}
    with pytest.raises(TbrmError, match="fields of verl and alpaca: say which with --from verl"):
        recognize(both, Directions())
    assert recognize(both, Directions(source="alpaca")).name == "alpaca"
    with pytest.raises(TbrmError, match="--from slime: the first row does not have its fields"):
        recognize(both, Directions(source="slime"))
    with pytest.raises(TbrmError, match="--from nobody: The formats are verl, trl"):
        recognize(both, Directions(source="nobody"))


def test_a_path_reaches_into_each_element_of_a_list(chatml: Any) -> None:
    row = {
        "ask": {"text": SHOWN},
        "outputs": [{"text": "2", "who": "a", "right": True}, {"text": "3", "who": "b", "right": False}],
    }
    mapping = {
        "prompt": "ask.text",
        "response": "outputs[].text",
        "policy": "outputs[].who",
        "reward": "outputs[].right",
    }
    _, found = read_as([row], chatml, directions=Directions(mapping=mapping))
    assert [(each.response_text, each.candidate.policy, each.candidate.reward) for each in found] == [
        ("2", "a", 1.0),
        ("3", "b", 0.0),
    ]


def test_any_log_of_columns_is_turned_into_rows(chatml: Any) -> None:
    row = {"prompt": [SHOWN] * 2, "response": ["2", "3"], "reward": [1.0, 0.0], "answer": ["2", "2"], "run": "x"}
    shape, found = read_as([row, {"prompt": [SHOWN] * 2, "response": ["2"]}], chatml)
    assert shape.name == "fields by name, a column in each field"
    assert [each.candidate.reward for each in found if isinstance(each, Tokenized)] == [1.0, 0.0]
    assert isinstance(found[2], Bad)
    assert found[2].reason == "1 values in a line of 2 prompts"


def test_turns_that_stand_in_the_prompt_are_not_the_policy_s(chatml: Any) -> None:
    shots = [{"role": "user", "content": "0+0"}, {"role": "assistant", "content": "0"}]
    row = {
        "prompt": [*shots, {"role": "user", "content": "1+1"}],
        "response": [{"role": "assistant", "content": "2"}],
        "reward": 1.0,
    }
    (found,) = read_as([row], chatml)[1]
    assert isinstance(found, Tokenized)
    assert chatml.decode(found.response_ids) == "2<|im_end|>"
    assert found.mask is None


def test_reasoning_that_the_template_leaves_out_is_not_left_out_silently(chatml: Any, folder: str) -> None:
    turns = [{"role": "user", "content": "1+1"}, {"role": "assistant", "reasoning_content": "hm", "content": "2"}]
    (found,) = read_as([{"messages": turns}], chatml)[1]
    assert isinstance(found, Tokenized)
    forgets = AutoTokenizer.from_pretrained(folder)
    forgets.chat_template = chatml.chat_template.replace("m.reasoning_content.strip()", "''")
    (found,) = read_as([{"messages": turns}], forgets)[1]
    assert isinstance(found, Bad)
    assert "leaves out `reasoning_content`" in found.reason


def test_rewards_of_dynamic_sampling_are_those_of_the_row(chatml: Any) -> None:
    """NeMo-RL then writes `rewards` of all samples, of which only some are in the log: they belong to other rows."""
    row = sample("nemo-rl")[0] | {"rewards": [0.0], "filtered_rewards": [1.0]}
    _, (found,) = read_as([row], chatml)
    assert isinstance(found, Tokenized)
    assert found.candidate.reward == 1.0


def test_a_cut_that_only_the_message_tells_is_seen(chatml: Any) -> None:
    """Older versions of verifiers wrote the finish reason into the node, and no calls."""
    row = sample("verifiers")[0]
    trace = {name: value for name, value in row["traces"][0].items() if name not in ("calls", "stop_condition")}
    nodes = [*trace["nodes"][:-1], trace["nodes"][-1] | {"finish_reason": "length"}]
    _, found = read_as([row | {"traces": [trace | {"nodes": nodes}]}], chatml)
    last = found[-1]
    assert isinstance(last, Tokenized)
    assert last.finish_reason == "length"


def test_turns_that_areal_marks_are_refused(chatml: Any) -> None:
    row = sample("areal")[0]
    _, (good, bad) = read_as([row, row | {"segments": [{"text": "2"}], "version_rle": [[8, 1]]}], chatml)
    assert isinstance(good, Tokenized)
    assert isinstance(bad, Bad)
    assert "several turns" in bad.reason
