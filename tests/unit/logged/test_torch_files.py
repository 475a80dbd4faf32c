"""Samples in files of torch.save: read without running anything that the file names."""

import gzip
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import TbrmError
from pipeline.logged.rows import read_rows
from pipeline.logged.sources import TORCH, LogFile, local_file
from pipeline.logged.torch_rows import torch_rows
from tests.support.logs import imported, rows_of, run_import, sample

LIMIT = 2**20


def saved(path: Path, tree: Any) -> Path:
    torch.save(tree, path)
    return path


def test_samples_of_slime_import_as_their_json_lines_do(tmp_path: Path, tokenizer: str) -> None:
    samples = sample("slime")
    samples[0]["tokens"] = torch.tensor(samples[0]["tokens"])
    path = saved(tmp_path / "rollout_3.pt", {"rollout_id": 3, "samples": samples})
    store, stats = imported(tmp_path / "a", tokenizer, path)
    assert (stats["shape"], stats["trajectories"], stats["left_out_rows"]) == ("slime", 2, 1)
    assert [row["response_token_ids"] for row in rows_of(store, "rollouts")] == [[4, 5, 6], [7, 8]]
    assert [row["policy_id"] for row in rows_of(store, "rollouts")] == ["unknown@v6", "unknown"]


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harmed",)


def test_what_a_file_names_is_not_run(tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "log.pt", {"samples": [sample("slime")[0] | {"metadata": Harm()}]})
    result = run_import(tmp_path / "a", tokenizer, path)
    assert result.exit_code == 1
    assert "write its samples as JSON lines" in result.output
    assert "weights_only=False" not in result.output
    assert not (tmp_path / "harmed").exists()


def test_damaged_files_are_refused_and_never_a_traceback(tmp_path: Path) -> None:
    whole = saved(tmp_path / "log.pt", {"samples": sample("slime")}).read_bytes()
    chance = random.Random(0)
    refused = 0
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        (tmp_path / "damaged.pt").write_bytes(data)
        try:
            list(torch_rows(local_file(tmp_path / "damaged.pt"), LIMIT))
        except TbrmError as error:
            refused += "damaged.pt" in str(error)
    assert refused > 20


@pytest.mark.parametrize("tree", [{"weights": torch.zeros(2)}, torch.zeros(2), 3, {"samples": {}}])
def test_a_checkpoint_is_no_log(tmp_path: Path, tree: Any) -> None:
    with pytest.raises(TbrmError, match="holds no list `samples`"):
        list(torch_rows(local_file(saved(tmp_path / "log.pt", tree)), LIMIT))


def test_rows_have_a_limit_and_a_kind(tmp_path: Path) -> None:
    samples = [{"tokens": torch.zeros(10_000).expand(1000, 10_000)}, 3, {"a": 1}]
    large, other, good = torch_rows(local_file(saved(tmp_path / "log.pt", {"samples": samples})), LIMIT)
    assert "more than --max-row-mb" in str(large.problem)
    assert other.problem == "a int, not an object"
    assert good.data == {"a": 1}


def laughing() -> Any:
    """A list of two, each of which is a list of the same two, and so on: 2^60 numbers in a file of kilobytes."""
    tree: Any = [1]
    for _ in range(60):
        tree = [tree, tree]
    return tree


def itself() -> Any:
    tree: list[Any] = []
    tree.append({"more": tree})
    return tree


@pytest.mark.parametrize("value", [laughing, itself, lambda: torch.zeros(1).expand(2**40)], ids=range(3))
def test_a_value_that_is_larger_than_its_file_is_too_large(tmp_path: Path, value: Any) -> None:
    samples = [{"metadata": value()}, {"a": 1}]
    large, good = torch_rows(local_file(saved(tmp_path / "log.pt", {"samples": samples})), LIMIT)
    assert "more than --max-row-mb" in str(large.problem)
    assert good.data == {"a": 1}


@pytest.mark.parametrize(
    "value",
    [
        torch.empty(3, device="meta"),
        torch.eye(3).to_sparse(),
        torch.eye(3).to_sparse_csr(),
        {1: 2, "a": 3, (1, 2): 4, None: 5},
        {1, "a"},
    ],
    ids=range(5),
)
def test_a_value_that_json_has_no_word_for_costs_its_row_only(tmp_path: Path, value: Any) -> None:
    samples = [{"metadata": value}, {"a": 1}]
    first, good = torch_rows(local_file(saved(tmp_path / "log.pt", {"samples": samples})), LIMIT)
    assert first.data is not None or "cannot be read" in str(first.problem)
    assert good.data == {"a": 1}


def test_the_reader_is_given_torch_whatever_the_letters_of_the_suffix(tmp_path: Path) -> None:
    assert [LogFile(name, 0).suffix == TORCH for name in ("a.pt", "a.PT", "a.jsonl", "a.pt.gz")] == [
        True,
        True,
        False,
        False,
    ]
    path = saved(tmp_path / "log.pt", {"samples": sample("slime")})
    (tmp_path / "log.pt.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(TbrmError, match=r"\.pt\.gz is no known type"):
        list(read_rows([local_file(tmp_path / "log.pt.gz")], LIMIT))
