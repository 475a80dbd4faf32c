"""Files made to do harm: names that lead out of the folder, and what is no file at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.main import tbrm
from pipeline.errors import StoreError, TbrmError
from pipeline.logged import importer
from pipeline.logged.sources import LogFile, file_digest, find_files, local_file
from pipeline.store.partition import Manifest, ShardInfo, parse_manifest
from tests.support.logs import imported, run_import

GOOD = json.dumps({"prompt": "1+1=", "response": "2", "answer": "2", "reward": 1.0}) + "\n"


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/b", "", ".", "x\ny"])
def test_names_that_lead_elsewhere(tmp_path: Path, tokenizer: str, name: str) -> None:
    (tmp_path / "log.jsonl").write_text(GOOD)
    root = tmp_path / "data" / "root"
    words = ["import", str(tmp_path / "log.jsonl"), "--tokenizer", tokenizer, "--name", name, "--root", str(root)]
    result = CliRunner().invoke(tbrm, words)
    assert result.exit_code == 1
    assert result.output.startswith("error: ")
    assert sorted(path.name for path in tmp_path.iterdir()) in (["log.jsonl"], ["data", "log.jsonl"])
    assert not list(root.rglob("*.parquet"))


def test_an_index_that_leads_elsewhere(tmp_path: Path) -> None:
    folder, outside = tmp_path / "saved", tmp_path / "outside"
    for path in (folder, outside):
        path.mkdir()
        (path / "secret.arrow").write_bytes(b"")
        (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../outside/secret.arrow"}]}))
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["../outside"]}))
    (folder / "outside").mkdir()
    (folder / "outside" / "state.json").write_text((folder / "state.json").read_text())
    with pytest.raises(TbrmError, match="is named in the index of its folder, and is not there"):
        find_files([str(folder)])
    (folder / "outside" / "secret.arrow").write_bytes(b"")
    assert find_files([str(folder)]) == [local_file(folder / "outside" / "secret.arrow")]
    (folder / "dataset_dict.json").write_text('{"splits": ')
    with pytest.raises(TbrmError, match="dataset_dict"):
        find_files([str(folder)])


@pytest.mark.parametrize("file", ["../../logged/other/shard-00000.parquet", "/etc/passwd", "..", ".hidden"])
def test_a_manifest_of_other_peoples_files(file: str) -> None:
    forged = Manifest("tiny", "rollouts", 0, "abc", "0.1.0", {}, (ShardInfo(file, 1, 1, "xxh3:0"),))
    with pytest.raises(StoreError, match="outside its folder"):
        parse_manifest(forged.to_json(), "_manifest.json")


def test_a_pipe_or_a_device_is_no_log(tmp_path: Path) -> None:
    """Opened, one would wait for ever and the other never end."""
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe.jsonl", tmp_path / "zero.jsonl", Path("/dev/null")):
        with pytest.raises(TbrmError, match=f"{path.name} is neither a file nor a folder"):
            find_files([str(path)])
    (tmp_path / "log.jsonl").write_text(GOOD)
    assert find_files([str(tmp_path)]) == [local_file(tmp_path / "log.jsonl")]


@pytest.mark.parametrize("name", ["x" * 5_000, "x" * 300, "a\0b", "log.jsonl/below", ""])
def test_a_path_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    (tmp_path / "log.jsonl").write_text(GOOD)
    with pytest.raises(TbrmError, match=r"does not exist|cannot be opened|holds no file") as refused:
        find_files([f"{tmp_path}/{name or 'absent'}"])
    assert len(str(refused.value)) < 400


def test_a_name_that_no_table_can_hold(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff.jsonl", "w") as file:  # noqa: PTH123 - of bytes
        file.write(GOOD)
    with pytest.raises(TbrmError, match="name that is not UTF-8: rename it"):
        find_files([str(tmp_path)])


def test_a_log_that_grows_while_it_is_read_is_not_committed(
    tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checksum, which the manifest keeps, would be that of another content."""
    path = tmp_path / "log.jsonl"
    path.write_text(GOOD)

    def digest(file: LogFile, read: Callable[[int], None]) -> str:
        found = file_digest(file, read)
        path.write_text(GOOD + GOOD.replace("1+1", "1+2"))
        return found

    monkeypatch.setattr(importer, "file_digest", digest)
    result = run_import(tmp_path / "root", tokenizer, path)
    assert result.exit_code == 1
    assert "log.jsonl was changed while it was read; nothing was committed" in result.output
    assert not list((tmp_path / "root").rglob("_manifest.json"))
    monkeypatch.undo()
    _, stats = imported(tmp_path / "root", tokenizer, path)
    assert stats["trajectories"] == 2


def test_the_name_of_a_file_is_text_in_what_an_import_says(tmp_path: Path, tokenizer: str) -> None:
    path = tmp_path / "\x1b]8;;http:evil.example\x07[bold]\u202e.jsonl"
    path.write_text(GOOD + "{bad\n")
    for share in ("0", "1"):
        result = run_import(tmp_path / "root", tokenizer, "--max-bad-share", share, path)
        assert result.exit_code == 1 - int(share), result.exception
        assert not set("\x1b\x07\u202e") & set(result.output)
    assert "[bold]" in run_import(tmp_path / "other", tokenizer, "--max-bad-share", "0", path).output
