"""The same store code on an S3-compatible server."""

import gzip
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.browse.sql import run_sql
from pipeline.config import load_experiment
from pipeline.errors import StoreError, TbrmError
from pipeline.logged.sources import find_files
from pipeline.policies.refs import content_hash, published, resolve_policy
from pipeline.reference import run_ref_logprobs
from pipeline.replay.mix import resolve_mix
from pipeline.rewards.stage import run_rewards
from pipeline.run.configurations import configuration_file, fork_experiment
from pipeline.sampling.rollouts import run_rollouts
from pipeline.store import Store, locks, open_store
from tests.support import reward_store
from tests.support.logs import imported, jsonl, rows_of, run_import
from tests.support.tiny_store import make_experiment as small_experiment
from tests.unit.replay.replay_store import make_experiment, make_store, write_generation
from tests.unit.store.test_sql import ATTACKS, SECRET
from tests.unit.store.test_store_kills import CONFIG, SHARDS, shard, write
from trainer.diagnostics.numbers import read_diagnostics
from trainer.stages.base_policy import run_base_policy
from trainer.stages.train import run_train

pytestmark = pytest.mark.xdist_group("s3")


@pytest.fixture(scope="module")
def server() -> Generator[str]:
    """moto in a process of its own: vLLM, in the same test process, cannot start once Flask is imported."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            until = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert running.poll() is None, "moto's server ended"
                    assert time.monotonic() < until, "moto's server does not answer"
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            running.terminate()


@pytest.fixture
def root(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A fresh bucket, configured as a user would: by the environment."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = "b" + str(abs(hash(request.node.name)))
    store = open_store(f"s3://{bucket}/runs")
    store.fs.mkdir(bucket)
    return store.root


def names(store: Store, path: str) -> list[str]:
    return [file.rsplit("/", 1)[-1] for file in store.files(path)]


def test_what_is_written_there_is_what_is_written_locally(root: str, tmp_path: Path) -> None:
    remote, local = (open_store(place).partition("exp", "rollouts", 0) for place in (root, str(tmp_path)))
    for partition in (remote, local):
        assert write(partition) == [0, 1, 2]
    assert remote.manifest().hash == local.manifest().hash
    assert remote.read_shard(1).equals(local.read_shard(1))
    assert names(remote.store, remote.path) == ["_manifest.json", *(f"shard-0000{i}.parquet" for i in range(SHARDS))]
    assert open_store(root).datasets() == ["exp"]
    assert open_store(root).generations("exp", "rollouts") == [0]


def test_stages_and_the_mix_run_on_it(root: str, tmp_path: Path) -> None:
    store = open_store(root)
    reward_store.fill(store)
    report = run_rewards(reward_store.experiment(verifier="plain", audit_sample=0), store, 0)
    assert (report.rows, report.skipped) == (36, False)
    remote, local = make_store(root), make_store(tmp_path)
    mixes = []
    for place in (remote, local):
        write_generation(place, "exp", 0)
        mixes.append(resolve_mix(place, make_experiment(), 0))
    assert mixes[0].to_json() == mixes[1].to_json()
    assert sum(table.num_rows for _, table in mixes[0].tables(remote)) == 16


def test_damage_and_absence_are_named(root: str) -> None:
    partition = open_store(root).partition("exp", "rollouts", 0)
    with pytest.raises(StoreError, match="not there yet"):
        partition.manifest()
    write(partition)
    path = f"{partition.path}/shard-00001.parquet"
    data = bytearray(partition.store.read_bytes(path))
    data[99] ^= 4
    partition.store.write_atomic(path, bytes(data))
    with pytest.raises(StoreError, match=r"shard-00001\.parquet is damaged"):
        partition.read_shard(1)
    partition.store.fs.rm_file(path)
    with pytest.raises(StoreError, match="gone"):
        partition.read_shard(1)


def test_a_query_reaches_the_tables_and_nothing_else(root: str) -> None:
    store = open_store(root)
    write_generation(store, "exp", 0)
    bucket = store.base.partition("/")[0]
    store.fs.pipe_file(f"{bucket}/secret.txt", SECRET.encode())
    shard_file = f"s3://{store.partition('exp', 'rewards').path}/shard-00000.parquet"
    places = {"shard": shard_file, "root": store.root, "secret": f"s3://{bucket}/secret.txt"}
    places |= {"outside": f"s3://{bucket}/new", "folder": f"s3://{bucket}"}
    assert run_sql(store, "select count(*) from trajectories where reward is not null", 10)[1] == [(16,)]
    before = {path: store.read_bytes(path) for path in store.fs.find(bucket)}
    for attack in (each for each in ATTACKS if "{" in each):
        for name, value in places.items():
            attack = attack.replace(f"{{{name}}}", value)
        with pytest.raises(TbrmError) as refused:
            run_sql(store, attack, 10)
        assert SECRET not in str(refused.value)
    assert {path: store.read_bytes(path) for path in store.fs.find(bucket)} == before


def test_one_of_two_writers_wins_and_the_other_says_so(root: str) -> None:
    partition = open_store(root).partition("exp", "rollouts", 0)
    with partition.writer(CONFIG, {}) as writer:
        with pytest.raises(StoreError, match=r"is being written by process \d+ on .*then run this again"):
            write(open_store(root).partition("exp", "rollouts", 0), "another")
        for index in range(SHARDS):
            writer.write(index, shard(index))
        # A writer that was stopped for longer than its lease wakes up beside the one that took over.
        partition.store.fs.rm_file(f"{partition.path}/_lock-000001")
        late = open_store(root).partition("exp", "rollouts", 0).writer(CONFIG, {})
        with late:
            assert all(late.is_done(index) for index in range(SHARDS))
            writer.commit(SHARDS)
            with pytest.raises(StoreError, match="committed by another writer meanwhile"):
                late.commit(SHARDS, {"seconds": 1.0})
    assert not [name for name in names(partition.store, partition.path) if "_lock" in name]
    assert partition.manifest().rows == 18


def test_of_those_who_take_a_lease_over_at_once_one_has_it(root: str) -> None:
    partition, inside, refused = open_store(root).partition("exp", "rollouts", 0), list[int](), list[str]()
    for turn in range(3):
        number = max((int(name[-6:]) for name in names(partition.store, partition.path)), default=0) + 1
        gone = {"token": "gone", "pid": 1, "host": "elsewhere", "expires": 0}
        partition.store.fs.pipe_file(f"{partition.path}/_lock-{number:06d}", json.dumps(gone).encode())
        ready, seen = threading.Barrier(2), threading.Barrier(2)

        def take(turn: int = turn, ready: threading.Barrier = ready, seen: threading.Barrier = seen) -> None:
            store = open_store(root)
            ready.wait()
            try:
                with locks.leased(store, partition.path):
                    inside.append(turn)
                    seen.wait()
            except StoreError as error:
                refused.append(str(error))
                seen.wait()

        threads = [threading.Thread(target=take) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(inside) == len(set(inside)) > 0, "two writers held the lease at once"
    assert len(inside) + len(refused) == 6
    assert all("is being written by process" in told for told in refused)


def test_a_put_whose_answer_was_lost_is_not_taken_for_another_writer(root: str) -> None:
    partition = open_store(root).partition("exp", "rollouts", 0)
    put, puts = partition.store.fs.pipe_file, list[str]()

    def put_twice(path: str, data: bytes, **options: Any) -> None:
        puts.append(path)
        put(path, data, **options)
        if "mode" in options:  # the client did not hear of it, and tries again
            put(path, data, **options)

    partition.store.fs.pipe_file = put_twice
    assert write(partition) == [0, 1, 2]
    assert [path.rsplit("/", 1)[-1] for path in puts].count("_manifest.json") == 1
    del partition.store.fs.pipe_file
    with pytest.raises(FileExistsError):
        partition.store.create(f"{partition.path}/_manifest.json", b"another")


KILLED = """
import os, sys
from pipeline.store import open_store
from tests.unit.store.test_sql import ATTACKS, SECRET
from tests.unit.store.test_store_kills import CONFIG, shard
with open_store(sys.argv[1]).partition("exp", "rollouts", 0).writer(CONFIG, {}) as writer:
    writer.write(0, shard(0))
    os.kill(os.getpid(), 9)
"""


def test_a_killed_writer_is_followed_at_once_and_a_silent_one_when_its_lease_ends(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, root], check=False).returncode == -9
    partition = open_store(root).partition("exp", "rollouts", 0)
    path = f"{partition.path}/_lock-000001"
    left = json.loads(partition.store.read_bytes(path))
    elsewhere = left | {"host": "another-machine"}
    partition.store.write_atomic(path, json.dumps(elsewhere).encode())
    with pytest.raises(StoreError, match=r"on another-machine.*ends in \d+ s"):
        write(partition)
    partition.store.write_atomic(path, json.dumps(elsewhere | {"expires": 0}).encode())
    with partition.writer(CONFIG, {}):
        pass
    partition.store.write_atomic(path, json.dumps(left).encode())
    monkeypatch.setattr(locks, "LEASE_S", 0.3)  # renewed every 0.1 s while it is held
    with partition.writer(CONFIG, {}) as writer:
        taken = path.replace("000001", "000002")
        first = json.loads(partition.store.read_bytes(taken))
        assert writer.is_done(0)
        while json.loads(partition.store.read_bytes(taken))["expires"] == first["expires"]:
            pass
    assert write(partition) == [1, 2]


def test_the_whole_loop_runs_on_it_and_goes_on_from_another_machine(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small_experiment()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    store = open_store(root)
    run_base_policy(experiment, store)
    run_rollouts(experiment, store, 0)
    run_rewards(experiment, store, 0)
    run_ref_logprobs(experiment, store, 0)
    run_train(experiment, store, 0)
    assert read_diagnostics(store, "small", 0) is not None

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    elsewhere = open_store(root)
    policy = resolve_policy(elsewhere, experiment, 1)
    assert str(tmp_path / "another") in policy.path
    assert content_hash(Path(policy.path)) == policy.policy_id
    kept = published(elsewhere, "small", 1)["configuration"]
    assert configuration_file(elsewhere, kept).startswith("s3://")
    assert load_experiment(configuration_file(elsewhere, kept)) == experiment
    assert run_train(experiment, elsewhere, 0).skipped  # its manifest was fetched
    other = small_experiment(training=experiment.training.model_dump() | {"learning_rate": 5e-3})
    assert not run_train(other, elsewhere, 0, replace=True).skipped
    assert sum("generation=0000" in path for path in elsewhere.files(elsewhere.join("small", "trained_policy"))) == 2
    again = resolve_policy(elsewhere, other, 1)
    assert again.policy_id == content_hash(Path(again.path))
    assert run_rollouts(other, elsewhere, 1).rows == 16
    with pytest.raises(StoreError, match=r"rollouts of generation 1 of small came from policy\[1\]"):
        run_train(experiment, elsewhere, 0, replace=True)
    fork_experiment(elsewhere, "forked", "small", 1)
    assert resolve_policy(elsewhere, small_experiment(name="forked"), 1).policy_id == again.policy_id


FETCH = """
import sys
from pathlib import Path
from pipeline.policies.refs import fetch, local_root
from pipeline.store import open_store

store = open_store(sys.argv[1])
get_file = store.fs.get_file

def counted(path, target):
    with open(sys.argv[2], "a") as file:
        file.write(path + "\\n")
    get_file(path, target)

store.fs.get_file = counted
print("ready", flush=True)
sys.stdin.readline()
fetch(store, local_root(store) / "small" / "trained_policy" / "generation=0000")
"""


def test_processes_of_a_machine_download_a_policy_once(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store, names_of_files = open_store(root), ("config.json", "model.safetensors", "policy.json")
    for name in names_of_files:
        store.fs.pipe_file(store.join("small", "trained_policy", "generation=0000", name), name.encode() * 100_000)
    downloads = tmp_path / "downloads"
    command = [sys.executable, "-c", FETCH, root, str(downloads)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert [process.wait(60) for process in processes] == [0] * 4
    assert len(downloads.read_text().splitlines()) == len(names_of_files)
    (folder,) = (path for path in (tmp_path / "cache").rglob("generation=0000*") if path.is_dir())
    assert sorted(path.name for path in folder.iterdir()) == sorted(names_of_files)


def test_a_log_that_lies_there_is_imported_as_from_a_folder(root: str, tmp_path: Path, tokenizer: str) -> None:
    """Every kind of file, in folders below each other; the process that reads them reaches no network."""
    rows = [{"prompt": f"{n}+1=", "response": f"{n + 1}", "reward": float(n % 2)} for n in range(40)]
    log = tmp_path / "log"
    (log / "deep").mkdir(parents=True)
    jsonl(log / "a.jsonl", rows[:10])
    (log / "b.jsonl.gz").write_bytes(gzip.compress(jsonl(tmp_path / "b", rows[10:20]).read_bytes()))
    pq.write_table(pa.Table.from_pylist(rows[20:30]), log / "c.parquet")
    with pa.output_stream(str(log / "deep" / "d.jsonl.zst"), compression="zstd") as stream:
        stream.write(jsonl(tmp_path / "d", rows[30:]).read_bytes())
    (log / "state.json").write_text("{}")  # what `datasets` writes beside its files is no log
    bucket = root.rpartition("/")[0]
    fs = open_store(root).fs
    fs.put(str(log), f"{bucket}/log", recursive=True)
    (log / "state.json").unlink()
    here, _ = imported(tmp_path / "here", tokenizer, log)
    there, stats = imported(tmp_path / "there", tokenizer, f"{bucket}/log")
    assert stats["trajectories"] == 40
    for table in ("prompts", "rollouts", "rewards"):
        assert rows_of(there, table) == rows_of(here, table)
    some = find_files([f"{bucket}/log/*.jsonl", f"{bucket}/log/deep/**"])
    assert [file.name.removeprefix(bucket) for file in some] == ["/log/a.jsonl", "/log/deep/d.jsonl.zst"]
    assert all(file.tag for file in some), "what the store calls the content"


def test_what_is_not_there_is_named(root: str, tmp_path: Path, tokenizer: str) -> None:
    bucket = root.rpartition("/")[0]
    open_store(root).fs.pipe_file(f"{bucket}/log/a.jsonl", b'{"prompt": "1", "response": "2"\nnonsense\n')
    for address, told in (
        (f"{bucket}/log/b.jsonl", "b.jsonl does not exist"),
        (f"{bucket}/log/*.csv", r"\*.csv: no object has such a name"),
        ("s3://nobodys-bucket/log", "nobodys-bucket/log"),
        ("s4://bucket/log", "s4://bucket/log"),
        (f"{bucket}/log/a.jsonl", "a.jsonl: no readable row"),
    ):
        result = run_import(tmp_path / "store", tokenizer, address)
        assert result.exit_code == 1
        assert re.search(told, result.output)
