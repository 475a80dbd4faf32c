"""How many threads a worker of a Ray cluster computes with."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext

import pyarrow as pa
import pytest

from pipeline.config.cluster import RayConfig
from pipeline.run.shards import Make
from pipeline.run.threads import settle
from tests.support.openmp import SAID_NOTHING


def told() -> AbstractContextManager[Make]:
    """A shard is what its worker was told."""
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    return nullcontext(lambda index, advance: pa.table({name: [os.environ.get(name)] for name in names}))


@pytest.mark.parametrize(("own", "expected"), [({}, "1"), ({"OMP_NUM_THREADS": "3"}, "3")])
def test_as_many_as_the_cores_that_it_reserves(
    monkeypatch: pytest.MonkeyPatch, own: dict[str, str], expected: str
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    from ray import cloudpickle

    from pipeline.run.ray import work_on_cluster

    cloudpickle.register_pickle_by_value(sys.modules[told.__module__])  # which a worker cannot import
    for name in SAID_NOTHING:
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    for name in SAID_NOTHING:  # so that what is settled below goes with the test
        monkeypatch.setenv(name, os.environ.get(name, ""))
    settle(cores=2)
    ((_, rows),) = work_on_cluster(RayConfig(address="local"), 0.0, told, [0])
    assert rows.to_pylist() == [{"OMP_NUM_THREADS": expected, "OMP_WAIT_POLICY": "PASSIVE"}]
