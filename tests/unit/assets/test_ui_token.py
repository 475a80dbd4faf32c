"""The file that lets a browser into `tbrm ui`: made once, read again, and never trusted when others may know it."""

import os
import stat
import threading
from pathlib import Path

import pytest

from assets.app.access import link, token_file, ui_token
from pipeline.errors import TbrmError


def test_one_token_for_all_starts_that_only_the_owner_reads(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        token = ui_token(tmp_path)
    finally:
        os.umask(old)
    assert len(token) >= 43
    assert ui_token(tmp_path) == token
    assert stat.S_IMODE(token_file(tmp_path).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["ui_token"]
    assert link(tmp_path, 3000, "runs/abc") == f"http://127.0.0.1:3000/runs/abc?token={token}"
    token_file(tmp_path).unlink()
    assert ui_token(tmp_path) != token, "deleting the file shuts everybody out"


def test_starts_at_once_agree(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    tokens: list[str] = []

    def start() -> None:
        barrier.wait()
        tokens.append(ui_token(tmp_path))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tokens) == 8
    assert len(set(tokens)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["ui_token"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o604, 0o660])
def test_a_token_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    ui_token(tmp_path)
    token_file(tmp_path).chmod(mode)
    with pytest.raises(TbrmError, match=f"ui_token.*mode {mode:o}.*Delete it"):
        ui_token(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_token_of_another_user_is_refused(tmp_path: Path) -> None:
    ui_token(tmp_path)
    os.chown(token_file(tmp_path), 65534, 65534)
    with pytest.raises(TbrmError, match="belongs to user 65534"):
        ui_token(tmp_path)


def test_what_is_no_file_with_a_token_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("x" * 43)
    elsewhere.chmod(0o600)
    home = tmp_path / "home"
    home.mkdir()
    token_file(home).symlink_to(elsewhere)
    with pytest.raises(TbrmError, match="cannot be read"):
        ui_token(home)
    token_file(home).unlink()
    token_file(home).mkdir(mode=0o700)
    with pytest.raises(TbrmError, match="ui_token"):
        ui_token(home)
    token_file(home).rmdir()
    os.mkfifo(token_file(home), 0o600)
    with pytest.raises(TbrmError, match="ui_token"):
        ui_token(home)
    token_file(home).unlink()
    for content in (b"", b"short\n", b"\xff" * 43, b"with a space in it, and long enough to be one"):
        token_file(home).write_bytes(content)
        token_file(home).chmod(0o600)
        with pytest.raises(TbrmError, match="holds no token"):
            ui_token(home)
