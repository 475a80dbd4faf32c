"""A generation on a Ray cluster of two nodes, one of which is killed while it samples."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import Experiment, load_experiment
from pipeline.reference import run_ref_logprobs
from pipeline.rewards.stage import run_rewards
from pipeline.sampling.rollouts import run_rollouts
from pipeline.store import Store, open_store
from tests.support.tiny import finish, tbrm, write_tiny
from trainer.stages.base_policy import run_base_policy

pytestmark = pytest.mark.xdist_group("cluster")

TABLES = ("rollouts", "rewards", "ref_logprobs")
SHARDS = 48
SAMPLING = ("rollouts.prompts_per_shard=1", "rollouts.max_tokens=24")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As Ray gives a worker of one CPU: sums in another order differ in the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def shards(store: Store, table: str) -> list[tuple[int, str]]:
    """Rows and checksum of each shard of generation 0."""
    return [(shard.rows, shard.checksum) for shard in store.partition("tiny", table, 0).manifest().shards]


def read(folder: Path, *overrides: str) -> tuple[Experiment, Store]:
    path = write_tiny(folder, generations=1, prompts=SHARDS)
    return load_experiment(str(path), [*SAMPLING, *overrides]), open_store(str(folder / "data"))


@pytest.mark.usefixtures("one_thread")
def test_a_node_killed_mid_generation_costs_only_its_shards(tmp_path: Path, ray_cluster: Any) -> None:
    alone, here = read(tmp_path / "alone")
    run_base_policy(alone, here)
    run_rollouts(alone, here, 0)
    run_rewards(alone, here, 0)
    run_ref_logprobs(alone, here, 0)

    doomed = ray_cluster.add_node(num_cpus=1)
    on_two_nodes = (f"ray.address={ray_cluster.address}", "ray.workers=2")
    scaled, there = read(tmp_path / "scaled", *on_two_nodes)
    run_base_policy(scaled, there)
    options = [part for override in (*SAMPLING, *on_two_nodes) for part in ("--set", override)]
    sampling = tbrm(tmp_path / "scaled", "rollouts", "-e", "tiny", "--generation", "0", *options)
    folder = Path(there.partition("tiny", "rollouts", 0).path)
    while len(list(folder.glob("shard-*.parquet"))) < 4:
        assert sampling.poll() is None, finish(sampling)
        time.sleep(0.01)
    ray_cluster.remove_node(doomed, allow_graceful=False)
    assert not there.partition("tiny", "rollouts", 0).is_committed(), "it was killed in the middle"
    finish(sampling)

    ray_cluster.add_node(num_cpus=1)
    run_rewards(scaled, there, 0)
    run_ref_logprobs(scaled, there, 0)
    for table in TABLES:
        assert shards(there, table) == shards(here, table)
        assert len(shards(there, table)) == SHARDS
