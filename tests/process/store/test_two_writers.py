"""Two processes at one partition, and a process that dies in the middle: on a local disk, for real."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.store import open_store
from tests.unit.store.test_store_kills import CONFIG, files, write

WRITER = """
import sys
from pipeline.store import open_store
from tests.unit.store.test_store_kills import CONFIG, SHARDS, shard
with open_store(sys.argv[1]).partition("exp", "rollouts", 0).writer(CONFIG, {}) as writer:
    for index in range(SHARDS):
        if not writer.is_done(index):
            writer.write(index, shard(index))
        print(index, flush=True)
        sys.stdin.readline()
    writer.commit(SHARDS)
"""


def start(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(root)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_shard(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.stderr.read() if process.stderr else ""


def test_the_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    partition = open_store(str(tmp_path)).partition("exp", "rollouts", 0)
    first = start(tmp_path)
    wait_for_shard(first)
    second = start(tmp_path)
    _, error = second.communicate(timeout=60)
    assert second.returncode != 0
    assert f"is being written by process {first.pid} on {os.uname().nodename}" in error
    first.communicate("\n\n\n", timeout=60)
    assert first.returncode == 0
    assert partition.manifest().rows == 18
    with pytest.raises(StoreError, match="already committed with another configuration"):
        write(partition, "another")


def test_a_killed_writer_leaves_the_partition_free_and_resumable(tmp_path: Path) -> None:
    partition = open_store(str(tmp_path / "killed")).partition("exp", "rollouts", 0)
    process = start(tmp_path / "killed")
    wait_for_shard(process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert not partition.is_committed()
    assert write(partition) == [1, 2]  # shard 0 was finished
    whole = open_store(str(tmp_path / "whole")).partition("exp", "rollouts", 0)
    write(whole, CONFIG)
    assert files(partition) == files(whole)
