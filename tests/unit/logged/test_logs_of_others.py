"""Log files that other projects have committed: each imports as what it says, or is refused with what to do.

They lie beside the checkout on some machines only, since their licences differ.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from pipeline.errors import TbrmError
from pipeline.logged.fields import Bad
from pipeline.logged.settings import Directions
from pipeline.logged.tokens import Tokenized
from tests.support.chatml import chatml_folder
from tests.support.logs import read_as

LOGS = Path(__file__).parents[4] / "shared" / "data" / "peer_cases" / "logs"
pytestmark = pytest.mark.skipif(
    not LOGS.is_dir(), reason="the logs of others lie beside the checkout on some machines only"
)

TAKEN: dict[str, tuple[str, str, int, int, Any]] = {
    "inspect_ai_log_formats.json": ("inspect", "auto", 1, 0, [0.0]),
    "lm_eval_masakhaner_2rows.jsonl": ("lm-eval", "auto", 2, 0, [None, None]),
    "ms_swift_data_alpaca.jsonl": ("alpaca", "auto", 3, 0, None),
    "ms_swift_data_chatml.jsonl": ("fields by name", "auto", 3, 0, None),
    "ms_swift_data_conversations.jsonl": ("sharegpt", "auto", 3, 0, None),
    "ms_swift_data_sharegpt.jsonl": ("sharegpt", "auto", 3, 0, None),
    "ms_swift_data_swift_multi.jsonl": ("query-response", "auto", 3, 0, None),
    "nemo_gym_math_with_code.jsonl": ("nemo-gym", "auto", 2, 0, [1.0, 0.0]),
    "nemo_gym_reasoning_gym.jsonl": ("nemo-gym", "auto", 2, 0, [1.0, 1.0]),
    "nemo_skills_output.jsonl": ("nemo-skills", "chat", 5, 0, [0.0, 1.0, 1.0, 1.0, 1.0]),
    "qwen25math_eval_rm_maj.jsonl": ("math-eval", "qwen-math", 48, 0, None),
    "rolloutscope_demo_results.jsonl": ("verifiers-results", "auto", 10, 0, None),
    "rolloutscope_multi_turn_rollout.jsonl": ("verifiers-results", "auto", 1, 0, [1.0]),
    "rolloutscope_prime_rl_run_step_0_train_rollouts.jsonl": ("verifiers-results", "auto", 3, 0, None),
    "rolloutscope_verifiers_eval_run_results.jsonl": ("verifiers-results", "auto", 5, 0, None),
    "tinker_cookbook_conversations.jsonl": ("fields by name", "auto", 8, 0, None),
    "verl_qwen3_audit_2rows.jsonl": ("fields by name", "restore", 2, 0, [1.0, -1.0]),
}
REFUSED = {
    "atropos_selcube_1group.jsonl": "outside the vocabulary",
    "nemo_gym_gpqa_diamond.jsonl": "its reasoning is not in the log",
    "nemo_gym_math_with_judge.jsonl": "its reasoning is not in the log",
    "open_instruct_eval_instances.jsonl": "--map response=FIELD[].NAME",
    "tora_gsm8k.jsonl": "output of an interpreter",
}


def rows_of(name: str) -> list[Any]:
    text = (LOGS / name).read_text(encoding="utf-8")
    return [json.loads(text)] if name.endswith(".json") else [json.loads(line) for line in text.splitlines() if line]


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(chatml_folder(tmp_path_factory.mktemp("chatml")))


def test_every_log_is_spoken_for() -> None:
    assert {path.name for path in LOGS.iterdir()} == TAKEN.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", list(TAKEN))
def test_a_log_of_trajectories_is_taken(name: str, chatml: Any) -> None:
    expected, template, trajectories, bad, rewards = TAKEN[name]
    shape, found = read_as(rows_of(name), chatml, template)
    good = [each for each in found if isinstance(each, Tokenized)]
    assert shape.name == expected
    assert (len(good), len(found) - len(good)) == (trajectories, bad), [e.reason for e in found if isinstance(e, Bad)]
    if rewards is not None:
        assert [each.candidate.reward for each in good] == rewards


@pytest.mark.parametrize("name", list(REFUSED))
def test_another_is_refused_with_what_to_do(name: str, chatml: Any) -> None:
    try:
        _, found = read_as(rows_of(name), chatml, "chat")
        reasons = [each.reason if isinstance(each, Bad) else "taken" for each in found]
    except TbrmError as error:
        reasons = [str(error)]
    assert [reason for reason in reasons if REFUSED[name] not in reason] == []


def test_a_log_with_several_responses_in_a_row_is_read_with_a_map(chatml: Any) -> None:
    mapping = {"prompt": "prompt", "response": "completions[].completion", "policy": "completions[].model"}
    rows = rows_of("open_instruct_eval_instances.jsonl")
    _, found = read_as(rows, chatml, "chat", Directions(mapping=mapping))
    assert len(found) == sum(len(row["completions"]) for row in rows)
    assert all(isinstance(each, Tokenized) and each.candidate.policy for each in found)
