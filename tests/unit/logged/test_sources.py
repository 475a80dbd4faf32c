"""Where a log lies: addresses, wildcards, and parts of files."""

import io
from collections.abc import Generator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.errors import TbrmError
from pipeline.logged import sources
from pipeline.logged.sources import LogFile, Part, Remote, file_digest, find_files, local_file, open_part, read_piece
from tests.support.logs import imported, jsonl, rows_of
from tests.support.read_here import read_here

ROW = '{"prompt": "%d+1=", "response": "2", "reward": 1}\n'


@pytest.fixture
def memory() -> Generator[Any]:
    fs = fsspec.filesystem("memory")
    yield fs
    for path in fs.find("/"):
        fs.rm(path)


def test_many_files_elsewhere_are_one_log(memory: Any, tmp_path: Path, tokenizer: str) -> None:
    """In the order of their names, whether they come together or block by block."""
    for number in range(300):
        memory.pipe(f"/log/step_{number:04d}/rank.jsonl", (ROW % number).encode())
    memory.pipe("/log/readme.md", b"no log")
    with read_here():
        store, stats = imported(tmp_path, tokenizer, "memory://log")
        assert stats["trajectories"] == 300
        found = [row["prompt_text"] for row in rows_of(store, "prompts")]
        assert found == [f"{number}+1=" for number in range(300)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_a_large_file_elsewhere_is_sent_in_pieces(
    memory: Any, tmp_path: Path, tokenizer: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_BLOCK", 100)
    path = jsonl(tmp_path / "a.jsonl", [{"prompt": f"{n}+1=", "response": "2", "reward": 1.0} for n in range(50)])
    if name.endswith("gz"):
        import gzip

        path.with_name(name).write_bytes(gzip.compress(path.read_bytes()))
    elif name.endswith("parquet"):
        import pyarrow as pa
        import pyarrow.json
        import pyarrow.parquet as pq

        pq.write_table(pa.json.read_json(path), path.with_name(name))
    memory.put(str(path.with_name(name)), f"/log/{name}")
    with read_here():
        here, _ = imported(tmp_path / "here", tokenizer, path)
        there, _ = imported(tmp_path / "there", tokenizer, f"memory://log/{name}")
    assert rows_of(there, "rollouts") == rows_of(here, "rollouts")


def test_wildcards_name_files_in_order(memory: Any, tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.txt", "deep/d.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(ROW % 1)
        memory.pipe(f"/log/{name}", b"x")
    here = [Path(file.name).name for file in find_files([f"{tmp_path}/*.jsonl"])]
    there = [file.name for file in find_files(["memory://log/*.jsonl", "memory://log/deep"])]
    assert here == ["a.jsonl", "b.jsonl"]
    assert there == ["memory:///log/a.jsonl", "memory:///log/b.jsonl", "memory:///log/deep/d.jsonl"]
    for missing in (f"{tmp_path}/*.csv", "memory://log/*.csv", "memory://nowhere"):
        with pytest.raises(TbrmError, match=r"no (file|object) has such a name|does not exist"):
            find_files([missing])


def test_an_object_that_shrank_or_went_is_named(memory: Any) -> None:
    memory.pipe("/log/a.jsonl", b"0123456789")
    files = find_files(["memory://log/a.jsonl"])
    memory.pipe("/log/a.jsonl", b"01234")
    with pytest.raises(TbrmError, match=r"a\.jsonl was changed while it was read: it has 5 bytes, of 10"):
        Remote(files).read(0, 0, 10)
    memory.rm("/log/a.jsonl")
    with pytest.raises(TbrmError, match=r"a\.jsonl does not exist"):
        Remote(files).read(0, 0, 10)


@pytest.mark.parametrize(("index", "place", "size"), [(1, 0, 1), (-1, 0, 1), (0, 11, 1), (0, -1, 1), (0, 0, 2**40)])
def test_only_bytes_of_the_log_are_sent(memory: Any, tmp_path: Path, index: int, place: int, size: int) -> None:
    """Whoever wrote the log may have taken over the process that reads it."""
    memory.pipe("/log/a.jsonl", b"0123456789")
    (tmp_path / "secret.jsonl").write_text("x" * 20)
    files = [*find_files(["memory://log/a.jsonl"]), local_file(tmp_path / "secret.jsonl")]
    with pytest.raises(TbrmError, match="asked for bytes that are not the log's"):
        Remote(files).read(index, place, size)


def test_a_tag_of_the_store_names_the_content() -> None:
    one, other = LogFile("s3://bucket/a.jsonl", 10, tag="abc"), LogFile("s3://bucket/a.jsonl", 10, tag="abd")
    assert file_digest(one) != file_digest(other)


def test_a_part_is_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"0123456789")
    file = LogFile(str(path), 7, 2)
    with open_part(file) as part:
        assert part.read() == b"23456"
        part.seek(-2, io.SEEK_END)
        assert (part.tell(), part.read(), part.read()) == (3, b"56", b"")
    with read_piece(file) as raw:
        assert raw.read() == b"23456"
    assert file_digest(file) != file_digest(local_file(path))
    assert isinstance(part, Part)
    assert part.closed
