"""Logs of any shape and damage: rows are imported or quarantined, or nothing is committed and the error says why."""

import gzip
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.property.logs import CSV, JSONL, ROWS, imported
from tests.property.mutation import SCALARS, TREES, mutated


def test_the_undamaged_ones_are_imported() -> None:
    assert imported("log.jsonl", JSONL) == imported("log.csv", CSV) == 12


@given(mutated(JSONL))
def test_damaged_jsonl(data: bytes) -> None:
    imported("log.jsonl", data)


@given(mutated(CSV))
def test_damaged_csv(data: bytes) -> None:
    imported("log.csv", data)


@given(mutated(json.dumps(ROWS).encode()))
def test_damaged_json(data: bytes) -> None:
    imported("log.json", data)


@given(mutated(gzip.compress(JSONL, mtime=0)))
def test_damaged_gzip(data: bytes) -> None:
    imported("log.jsonl.gz", data)


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "prompt": SCALARS,
                "response": SCALARS,
                "messages": TREES,
                "answer": SCALARS,
                "reward": SCALARS,
                "prompt_ids": TREES,
                "response_ids": TREES,
                "extra": TREES,
                "behavior_logprobs": TREES,
                "finish_reason": SCALARS,
            },
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([{}, {"prompt": "extra.a"}, {"prompt": "messages", "response": "response"}, {"reward": "extra"}]),
    st.sampled_from([0.0, 1.0]),
)
def test_rows_of_wrong_types(rows: list[dict[str, Any]], mapping: dict[str, str], bad_share: float) -> None:
    text = "\n".join([*(json.dumps(row) for row in rows), *map(json.dumps, ROWS[:2])])
    imported("log.jsonl", text.encode("utf-8", "surrogatepass"), mapping, bad_share)
