"""Real clusters on this machine: two Ray nodes, and a Slurm controller with one node."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.served_ui import free_port
from tests.support.slurm_cluster import slurm_cluster, why_no_slurm


@pytest.fixture(scope="package")
def ray_cluster() -> Iterator[Any]:
    """A head node of one CPU, with the job server; tests add nodes."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": True, "dashboard_port": free_port()}
    started = Cluster(initialize_head=True, head_node_args=head)
    yield started
    started.shutdown()


@pytest.fixture(scope="package")
def slurm_conf() -> Iterator[str]:
    """$SLURM_CONF of a running cluster."""
    if reason := why_no_slurm():
        pytest.skip(reason)
    with slurm_cluster() as conf:
        yield conf
