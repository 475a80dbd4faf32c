"""Files made to do harm: names that lead out of the folder."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.main import tbrm
from pipeline.errors import StoreError, TbrmError
from pipeline.logged.sources import find_files, local_file
from pipeline.store.partition import Manifest, ShardInfo, parse_manifest

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
