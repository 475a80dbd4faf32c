"""A disk that is full or may not be written, and a lock that somebody else holds: one line that says so."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.main import tbrm
from pipeline.errors import StoreError
from pipeline.store import exclusive
from tests.support.tiny_tokenizers import characters

MAIN = "from pipeline.cli.main import main; main()"
Disk = Callable[[str], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Disk]:
    """Mounts a disk of a size; gone afterwards."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        place = tmp_path / size
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"this machine lets nobody mount a disk: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize(
    ("size", "stopped_in"),
    [
        ("4k", "cannot write .*running"),
        ("100k", "Dagster's history in .* cannot be written"),
        ("1m", "tbrm base-policy .*: cannot write .*base.partial"),
        ("6m", ""),
    ],
)
def test_a_full_disk_is_named_wherever_tbrm_run_meets_it(disk: Disk, size: str, stopped_in: str) -> None:
    root = disk(size) / "data"
    command = [
        sys.executable,
        "-c",
        MAIN,
        "run",
        "arith_tiny",
        "--root",
        str(root),
    ]
    env = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "TBRM_ROOT")}
    done = subprocess.run([*command, "--set", "generations=1"], capture_output=True, text=True, env=env)
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1, done.stderr
    assert len(told) == 1, done.stderr
    assert re.search(stopped_in, told[0]), told[0]
    assert "no space left on device" in told[0].lower()
    assert "Traceback" not in done.stdout + done.stderr


def test_a_disk_that_may_not_be_written_is_named(disk: Disk, tmp_path: Path) -> None:
    characters().save_pretrained(tmp_path / "tokenizer")
    log = tmp_path / "log.jsonl"
    log.write_text('{"prompt": "1+1=", "response": "2", "answer": "2"}\n')
    place = disk("1m")
    (place / "data").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    imported = ["import", "--name", "log", "--tokenizer", str(tmp_path / "tokenizer"), "--policy", "p", str(log)]
    for arguments in (["run", "arith_tiny"], ["base-policy", "-e", "arith_tiny"], imported):
        result = CliRunner().invoke(tbrm, [*arguments, "--root", str(place / "data")])
        assert result.exit_code == 1, result.exception
        assert result.output.splitlines()[-1].startswith("error: ")
        assert "Read-only file system" in result.output
    for arguments in (["inspect"], ["sql", "select 1"]):
        assert CliRunner().invoke(tbrm, [*arguments, "--root", str(place / "data")]).exit_code == 0


def hold(path: Path, user: int | None) -> "subprocess.Popen[bytes]":
    """A process that locks a file, or tries to, as this or another user; it has done so once it has written a byte."""
    code = (
        "import fcntl, os, sys\n"
        "if sys.argv[2]: os.setuid(int(sys.argv[2]))\n"
        "try:\n"
        "    handle = os.open(sys.argv[1], os.O_RDONLY)\n"
        "    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "    os.write(1, b'L')\n"
        "except OSError:\n"
        "    os.write(1, b'N')\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-S", "-c", code, str(path), str(user or "")]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_the_holder_of_a_lock_is_named_by_the_kernel(tmp_path: Path) -> None:
    with exclusive(str(tmp_path)):
        pass  # the file names this process now, which holds nothing any more
    with hold(tmp_path / "_lock", None) as holder:
        assert holder.stdout is not None
        assert holder.stdout.read(1) == b"L"
        told = rf"is being written by process {holder.pid} on .* \(.+\); wait"
        with pytest.raises(StoreError, match=told), exclusive(str(tmp_path)):
            pass
        holder.communicate()
    with exclusive(str(tmp_path)):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
@pytest.mark.parametrize("before", [None, 0o644])
def test_another_user_cannot_keep_the_writers_out(before: int | None) -> None:
    """Nor with a lock file that an earlier version left readable for all."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders cannot be entered by others
        folder = Path(name)
        folder.chmod(0o755)
        if before is not None:
            (folder / "_lock").touch()
            (folder / "_lock").chmod(before)
        with exclusive(name):
            pass
        with hold(folder / "_lock", user=65_534) as other:
            assert other.stdout is not None
            assert other.stdout.read(1) == b"N"
            with exclusive(name):
                pass
            other.communicate()


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("text")
    (tmp_path / "_lock").symlink_to(tmp_path / "precious")
    with pytest.raises(StoreError, match=r"cannot write .*_lock"), exclusive(str(tmp_path)):
        pass
    assert (tmp_path / "precious").read_text() == "text"
