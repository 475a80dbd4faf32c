"""Logs of each known system, in samples of our own making: what is kept of them, and that damage ends in a reason."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from pipeline.errors import TbrmError
from pipeline.logged import json_values
from pipeline.logged.fields import Bad
from pipeline.logged.formats import FORMATS
from pipeline.logged.formats.rollout_text import columns, turned
from pipeline.logged.raw import BadField
from pipeline.logged.settings import Directions
from pipeline.logged.shapes import recognize
from pipeline.logged.tables import make_tables
from pipeline.logged.tokens import Tokenized
from tests.support.chatml import chatml_folder
from tests.support.damage import damaged
from tests.support.growth import exponent
from tests.support.logs import SAMPLES, read_as, sample

REWARDS = {"trl": {"accuracy_reward": 1.0, "format_reward": 0.5}, "ms-swift": {"MathAccuracy": 1.0, "Format": 0.1}}
STRIPPED = ("verl", "trl", "roll")
VARIANTS = 200
ONE = "<|im_start|>user\nWhat is 1+1?<|im_end|>\n<|im_start|>assistant\n"
TWO = ONE.replace("1+1", "2+2")
BRIEF = "<|im_start|>system\nBe brief.<|im_end|>\n"
HELLO = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
HI = f"{HELLO}Hi<|im_end|>\n"
ADD = (
    '<|im_start|>system\n# Tools\n{"type": "function", "function": {"name": "add", "description": "a sum", '
    '"parameters": {"type": "object"}}}<|im_end|>\n'
)
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
LINEAR = 1.5  # between a line and a square
CALL = '<tool_call>add{"a": 1, "b": 1}</tool_call><|im_end|>'
RESULT = "\n<|im_start|>user\n<tool_response>2</tool_response><|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(chatml_folder(tmp_path_factory.mktemp("chatml")))


def template_of(name: str) -> str:
    return "restore" if name in STRIPPED else "chat" if FORMATS[name].bare else "auto"


def told(each: Tokenized | Bad, tokenizer: Any) -> tuple[Any, ...]:
    """(prompt, response as ids or text, mask, log-probs, reward, gold, finish, policy, prompt id); (field, reason)."""
    if isinstance(each, Bad):
        return each.field, each.reason
    candidate = each.candidate
    as_text = candidate.response_ids is None
    prompt = each.prompt_text if as_text else each.prompt_ids.tolist()
    response = tokenizer.decode(each.response_ids) if as_text else each.response_ids.tolist()
    mask = "" if each.mask is None else "".join("x" if marked else "." for marked in each.mask)
    logprobs = None if each.logprobs is None else each.logprobs.tolist()
    policy = "@".join(filter(None, (candidate.policy, candidate.version)))
    return (
        prompt,
        response,
        mask,
        logprobs,
        candidate.reward,
        each.answer,
        each.finish_reason,
        policy,
        candidate.prompt_id,
    )


END = "<|im_end|>"
KEPT: dict[str, list[tuple[Any, ...]]] = {
    "verl": [
        (ONE, f"It is 2.{END}", "", None, 1.0, "2", "stop", "step3", None),
        (ONE, f"It is 3.{END}", "", None, 0.0, "2", "stop", "step3", None),
        (BRIEF + TWO, f"4{END}", "", None, 1.0, "4", "stop", "step4", None),
    ],
    "trl": [
        (ONE, f"2{END}", "", None, 1.0, "2", "stop", "step7", None),
        (ONE, f"<answer>3</answer>{END}", "", None, 0.5, "2", "stop", "step7", None),
    ],
    "ms-swift": [
        (ONE, f"2{END}", "", None, 1.0, "2", "stop", "step5", None),
        (ONE, f"3{END}", "", None, 0.1, "2", "stop", "step5", None),
    ],
    "roll": [
        (ONE, f"2{END}", "", None, 1.0, "2", "stop", "step9", "p1"),
        (ONE, f"3{END}", "", None, 0.0, "2", "stop", "step9", "p1"),
    ],
    "skyrl": [
        (ONE, f"2{END}", "", None, 1.0, "2", "stop", "", None),
        (ONE, "1, 2, 3", "", None, 0.25, "2", "length", "", None),
    ],
    "areal": [
        (ONE, f"2{END}", "", None, 1.0, "", "stop", "v8", "task-4"),
        (ONE, f"3{END}", "", None, -1.0, "", "stop", "v8", "task-4"),
    ],
    "open-instruct": [([1, 2, 3], [4, 5, 6], "", [-0.5, -0.25, -1.0], 1.0, "2", "length", "", None)],
    "nemo-rl": [([1, 2, 3], [4, 5, 6], "x.x", [-0.5, 0.0, -0.25], 1.0, "", "stop", "", None)],
    "nemo-gym": [
        *[([1, 2, 3], [4, 5, 6, 7, 8], "xx..x", [-0.5, -0.25, 0, 0, -0.125], 1.0, "2", "stop", "tiny", "task-5")],
        (ONE, "<think>\nOne and one.\n</think>\n\nIt is", "", None, 0.0, "2", "length", "tiny", "task-5"),
    ],
    "prime-rl-tokens": [([1, 2], [3, 4, 5, 6], "xx.x", [-0.5, -0.25, 0, -1.0], None, "", "stop", "step12", None)],
    "slime": [
        ([1, 2, 3], [4, 5, 6], "x.x", [-0.5, 0.0, -0.25], 1.0, "2", "stop", "v6", "group-0"),
        ([1, 2, 3], [7, 8], "", None, 0.0, "2", "length", "", "group-0"),
        ("status", "left out: the sample is 'aborted': nothing was sampled to its end"),
    ],
    "tinker": [
        ([1, 2, 3], [4, 5], "", [-0.5, -0.25], None, "", "length", "tinker://r/sampler_weights/3", "r/3/1"),
        ([1, 2, 3], [6], "", None, None, "", "stop", "tinker://r/sampler_weights/3", "r/3/1"),
    ],
    "trinity": [([1, 2], [3, 4, 5, 6], "xx.x", [-0.5, -0.25, 0, -1.0], 0.5, "", "length", "v7", "2/5")],
    "rllm": [
        ([1, 2], [3, 4, 5, 6], "xx.x", [-0.5, -0.5, 0.0, -0.25], 1.0, "2", "stop", "v5", "task-1"),
        (TWO, "Well", "", None, 0.0, "4", "length", "", "task-2"),
    ],
    "atropos": [
        ([1, 2], [3, 4], "", [-0.5, -0.25], 1.0, "", "stop", "", None),
        ([1, 2], [5, 6, 7], "x.x", [-0.5, 0.0, -0.25], -1.0, "", "stop", "", None),
    ],
    "pipeline-rl": [([1, 2], [3, 4, 5], "x.x", [-0.5, 0.0, -0.25], 1.0, "", "length", "v4", "actor_3")],
    "verifiers": [
        ([1, 2, 3, 4], [5, 6, 7, 8, 9], "xx..x", [-0.5, -0.25, 0, 0, -1.0], 1.1, "2", "stop", "tiny@v5", "g1"),
        ("traces", "left out: the trace of an agent that is not trained, such as a judge"),
        (TWO, "It is", "", None, 0.0, "4", "length", "tiny", "k2"),
        ("traces", "left out: the episode has no trace: ProviderError"),
    ],
    "verifiers-results": [
        (
            *(ADD + ONE, f"{CALL}{RESULT}It is 2.{END}", "x" * 43 + "." * 52 + "x" * 9, None, 1.0, "2", "stop", ""),
            "0",
        ),
        (ONE, "It is", "", None, 0.0, "2", "length", "", "0"),
    ],
    "lm-eval": [
        ("Q: 1+1\nA:", f" it is 2{END}", "", None, 0.0, "2", "stop", "", "0"),
        ("Q: 1+1\nA:", f" it is 2{END}", "", None, 1.0, "2", "stop", "", "0"),
        ("Q: 2+2\nA:", f" 4{END}", "", None, None, "4", "stop", "", "1"),
        ("Q: 2+2\nA:", f" 5{END}", "", None, None, "4", "stop", "", "1"),
    ],
    "lighteval": [
        ([1, 2, 3], [17], "", None, 1.0, "2", "stop", "", "7"),
        (ONE, f"4{END}", "", None, None, "4", "stop", "", "8"),
        (ONE, f"5{END}", "", None, None, "4", "stop", "", "8"),
    ],
    "inspect": [
        (BRIEF + ONE, f"2{END}", "", None, 1.0, "2", "stop", "tiny", "1"),
        (BRIEF + ONE, "Well", "", None, 0.0, "2", "length", "tiny", "1"),
    ],
    "math-eval": [
        (ONE, f"It is 2.{END}", "", None, 1.0, "2", "stop", "", None),
        (ONE, f"It is 3.{END}", "", None, 0.0, "2", "stop", "", None),
    ],
    "nemo-skills": [
        (ONE, rf"It is \boxed{{2}}.{END}", "", None, 1.0, "2", "stop", "", "s/1"),
        (ONE, rf"It is \boxed{{3}}.{END}", "", None, 0.0, "2", "stop", "", "s/1"),
    ],
    "tbrm": [([1, 2], [4], "", [-0.5], 1.0, "2", "length", "tiny@v3", "p-0123")],
    "open-r1": [
        (ONE, f"<think>\nhm\n</think>\n2{END}", "", None, 1.0, "2", "stop", "", "u1"),
        (ONE, "<think>\nhm", "", None, 0.0, "2", "length", "", "u1"),
    ],
    "open-math-reasoning": [
        (ONE, f"<think>hm</think>2{END}", "", None, None, "2", "stop", "tiny-r1", None),
        ("inference_mode", "left out: a solution with a tool holds the tool's output unmarked"),
    ],
    "sharegpt": [
        (BRIEF + ONE, f"2{END}", "", None, None, "", "stop", "", None),
        (
            *(HELLO, f"Hi{END}\n{HELLO.replace('Hello', 'Bye')}See you{END}", "xxx" + "." * 23 + "x" * 8),
            *(None, None, "", "stop", "", None),
        ),
    ],
    "alpaca": [
        (
            f"{BRIEF}{HI}{ONE.replace('What is 1+1?', f'Add.{chr(10)}1+1')}",
            f"2{END}",
            "",
            None,
            None,
            "",
            "stop",
            "",
            None,
        ),
        (ONE.replace("What is 1+1?", "Say 2."), f"2{END}", "", None, None, "", "stop", "", None),
    ],
    "query-response": [
        (BRIEF + ONE, f"2{END}", "", None, None, "", "stop", "", None),
        (HI + TWO, f"4{END}", "", None, None, "", "stop", "", None),
    ],
    "openai": [
        ([1, 2], [3, 4], "", [-0.5, -0.25], None, "", "stop", "tiny-1", "c1"),
        (ONE, "It is", "", None, None, "", "length", "tiny-1", "c2"),
        (ONE, f"3{END}", "", None, None, "", "stop", "tiny-1", "c2"),
        ("response", "left out: the request failed with status 500"),
    ],
}


def test_every_format_has_a_sample_and_a_row_in_the_documentation() -> None:
    table = (Path(__file__).parents[3] / "docs" / "import.md").read_text(encoding="utf-8")
    assert set(KEPT) == set(FORMATS) == {path.stem for path in SAMPLES.glob("*.jsonl")}
    assert [name for name in FORMATS if f"| `{name}` |" not in table] == []


@pytest.mark.parametrize("name", list(FORMATS))
def test_what_a_log_knows_is_kept(name: str, chatml: Any) -> None:
    shape, found = read_as(sample(name), chatml, template_of(name), Directions(rewards=REWARDS.get(name, {})))
    assert shape.name.startswith(name)
    shown = [told(each, chatml) for each in found]
    assert [tuple(pytest.approx(v) if isinstance(v, float) else v for v in row) for row in KEPT[name]] == shown


@pytest.mark.parametrize("name", list(FORMATS))
def test_lists_of_numbers_that_are_arrays_are_read_alike(
    name: str, chatml: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long ones are, in JSON and in columnar files. Damaged rows too are good or bad in both alike."""
    monkeypatch.setattr(json_values, "FEWEST", 1)
    rows = sample(name)
    rows += [damaged(rows[seed % len(rows)], seed) for seed in range(VARIANTS // 2)]
    arrays = [json_values.parse(json.dumps(row).encode()) for row in rows]
    directions = Directions(rewards=REWARDS.get(name, {}))
    lists, same = (read_as(each, chatml, template_of(name), directions)[1] for each in (rows, arrays))
    assert [type(each) for each in same] == [type(each) for each in lists]
    for one, other in zip(lists, same, strict=True):
        if isinstance(one, Tokenized) and isinstance(other, Tokenized):
            assert tuple(map(_near, told(other, chatml))) == tuple(map(_near, told(one, chatml)))
            assert other.candidate.extra == one.candidate.extra
            assert other.candidate.components == pytest.approx(one.candidate.components)


def _near(value: Any) -> Any:
    return pytest.approx(value) if isinstance(value, float) else value


@pytest.mark.parametrize("name", list(FORMATS))
def test_no_row_of_one_format_has_the_fields_of_another(name: str) -> None:
    for row in sample(name):
        first = next(iter(turned(row))) if columns(row) is not None else row
        assert not isinstance(first, BadField)
        assert [other for other, known in FORMATS.items() if known.fits(first)] == [name]


def test_numbers_beside_the_reward_are_kept_as_its_components(chatml: Any) -> None:
    parts = {}
    for name in ("verl", "verifiers", "slime", "nemo-rl", "areal", "trl", "rllm"):
        _, found = read_as(sample(name), chatml, template_of(name), Directions(rewards=REWARDS.get(name, {})))
        assert isinstance(found[0], Tokenized)
        parts[name] = found[0].candidate.components
    assert parts["verl"] == {"acc": 1.0, "format": 0.5}
    assert parts["verifiers"] == {"correct": 1.0, "brief": 0.5, "turns": 2.0, "policy_lag": 1.0}
    assert parts["rllm"] == {"turns": 2.0, "is_correct": 1.0, "policy_lag": 1.0}
    assert parts["slime"] == parts["areal"] == {"policy_lag": 2.0}
    assert parts["nemo-rl"] == {"sample_loss_mask": 1.0, "advantage": 0.5}
    assert parts["trl"] == {"accuracy_reward": 1.0, "format_reward": 0.0, "completion_length": 12.0, "advantage": 0.7}


@pytest.mark.parametrize("name", list(FORMATS))
def test_damaged_rows_end_in_a_reason_and_never_in_a_traceback(name: str, chatml: Any) -> None:
    rows = sample(name)
    broken = [damaged(rows[seed % len(rows)], seed) for seed in range(VARIANTS)]
    directions = Directions(rewards=REWARDS.get(name, {}))
    _, found = read_as([rows[0], *broken], chatml, template_of(name), directions)
    tables = make_tables(found, 0, set(), "logged/log", 0, "somebody")
    assert tables["quarantine"].num_rows + tables["rollouts"].num_rows == len(found)
    bad = [each for each in found if isinstance(each, Bad)]
    assert len(bad) > VARIANTS // 20
    assert all(each.reason and len(each.reason) < 600 for each in bad)
    for each in found:
        if isinstance(each, Tokenized):
            length = len(each.response_ids)
            assert length > 0
            assert len(each.prompt_ids) > 0
            assert each.mask is None or (len(each.mask) == length and each.mask.any())
            assert each.logprobs is None or len(each.logprobs) == length


def test_branches_of_a_trace_are_counted_before_they_are_spelled_out(
    chatml: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain with a leaf at each link: as many branches as messages, each as long as the place of its leaf."""
    monkeypatch.setattr("pipeline.logged.formats.traces._MOST_STEPS", 10_000)
    chain = [{"parent": place - 1 if place else None} for place in range(400)]
    leaves = [{"parent": place} for place in range(400)]
    (whole,) = sample("verifiers")[:1]
    trace = whole["traces"][0] | {"nodes": [*chain, *leaves]}
    _, found = read_as([whole, whole | {"traces": [trace]}], chatml)
    assert len(found) < 200
    last = found[-1]
    assert isinstance(last, Bad)
    assert "more than 10,000 messages" in last.reason


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_damaged_first_row_is_recognized_or_refused_with_the_next_step(name: str) -> None:
    rows = sample(name)
    for seed in range(VARIANTS):
        refused = ""
        try:
            recognize(damaged(rows[0], seed), Directions())
        except TbrmError as error:
            refused = str(error)
        assert not refused or "--" in refused or "column" in refused


def grown(name: str, number: int) -> Any:
    """A row of the format whose parts are `number` times as many."""
    row = sample(name)[0]
    turns = [{"role": role, "content": "x" * 100} for role in ("user", "assistant")]
    match name:
        case "nemo-gym":
            item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x" * 500}]}
            row["response"]["output"] = [item] * number
        case "verifiers":
            chain = [{"parent": place - 1 if place else None, "token_ids": [1], "mask": [0]} for place in range(number)]
            chain[-1] |= {"mask": [1], "sampled": True}
            row["traces"][0]["nodes"] = chain
        case "verifiers-results":
            row["completion"] = [turns[1], *turns * number]
        case "rllm":
            row |= {f"field {place}": "x" for place in range(number)}
            row["trajectories"] *= number
        case "inspect":
            row["samples"] *= number
        case "slime":
            row = {"rollout_id": 1, "samples": [row] * number}
        case "atropos":
            row = {field: row[field] * number for field in ("tokens", "masks", "scores")}
        case "openai":
            row["response"]["body"]["choices"] *= number
        case "lm-eval":
            row["resps"] = [["x"]] * number
        case "open-r1":
            row |= {"generations": ["x"] * number, "correctness_math_verify": [True] * number, "finish_reasons": []}
        case "ms-swift":
            row = {field: values * number for field, values in row.items()}
        case "alpaca":
            row["history"] *= number
        case _:
            row["conversations"] = turns * number
            row["conversations"] = [{"from": turn["role"], "value": turn["content"]} for turn in row["conversations"]]
    return row


@pytest.mark.parametrize(
    ("name", "small"),
    [
        *(("nemo-gym", 2_000), ("verifiers", 1_000), ("verifiers-results", 250), ("rllm", 100), ("inspect", 50)),
        *(("slime", 150), ("atropos", 150), ("openai", 100), ("lm-eval", 300), ("open-r1", 300), ("ms-swift", 150)),
        *(("alpaca", 300), ("sharegpt", 250)),
    ],
)
def test_a_row_with_more_parts_takes_as_much_more_time(name: str, small: int, chatml: Any) -> None:
    """Each part of each format that a row may have many of."""
    directions = Directions(rewards=REWARDS.get(name, {}))

    def read(row: Any) -> None:
        _, found = read_as([row], chatml, template_of(name), directions)
        assert found

    assert exponent(functools.partial(grown, name), read, small) < LINEAR


def test_a_line_of_columns_is_no_table_of_what_holds_for_all(chatml: Any) -> None:
    """Ten thousand prompts and ten thousand notes: a hundred million values out of a line of kilobytes."""
    (row,) = sample("ms-swift")[:1]
    notes = {f"note {number}": "x" for number in range(10_000)}
    wide = {field: values * 5_000 for field, values in row.items()} | notes
    _, found = read_as([row, wide], chatml, "raw", Directions(rewards=REWARDS["ms-swift"]))
    last = found[-1]
    assert isinstance(last, Bad)
    assert "10,000 rows of 10,007 fields" in last.reason
    assert len(found) == 3


def test_tools_are_not_rendered_without_end(chatml: Any) -> None:
    (row,) = sample("verifiers-results")[:1]
    tools = [{"name": "add", "description": "x" * 200_000, "parameters": {}}]
    row |= {"tool_defs": tools, "completion": [{"role": "assistant", "content": "a"}, *CHAT * 500]}
    _, (found,) = read_as([row], chatml)
    assert isinstance(found, Bad)
    assert found.field == "tools"
    assert "501 turns" in found.reason
