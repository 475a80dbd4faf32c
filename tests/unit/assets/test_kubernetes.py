"""A stage as a pod: the manifest that `kubectl` gets. No cluster takes part."""

import json
from typing import Any

import pytest

from assets.processes.cluster import KubernetesLauncher, launcher_of
from assets.processes.launcher import LocalLauncher
from pipeline.config import build_experiment
from pipeline.errors import ConfigError, TbrmError
from tests.unit.config.test_config import TREE

POD: dict[str, Any] = {
    "containers": [
        {
            "image": "registry.example/tbrm:0.1.0",
            "envFrom": [{"secretRef": {"name": "keys"}}],
            "volumeMounts": [{"name": "store", "mountPath": "/store"}],
            "resources": {"limits": {"memory": "64Gi"}},
        }
    ],
    "volumes": [{"name": "store", "persistentVolumeClaim": {"claimName": "tbrm-store"}}],
}
LAUNCH = {"by": "kubernetes", "pod": POD, "stages": {"rollouts": ["nvidia.com/gpu=4", "--namespace=ml"]}}


def test_a_stage_is_one_pod_with_the_spec_of_the_yaml_and_the_limits_of_the_stage() -> None:
    experiment = build_experiment(TREE | {"launch": LAUNCH}, "here")
    launcher = launcher_of(experiment, "rollouts", False, LocalLauncher())
    assert isinstance(launcher, KubernetesLauncher)
    command = ["/usr/bin/python3.11", "-m", "assets.processes.child", "rollouts", "exp"]
    shell, _, script, _, job, manifest, *options = launcher.submit("tbrm-1", command, {"DAGSTER_PIPES_CONTEXT": "x"})
    assert (shell, job, options) == ("sh", "tbrm-1", ["--namespace=ml"])
    assert "kubectl logs" in script
    pod = json.loads(manifest)
    assert (pod["kind"], pod["metadata"]["name"], pod["spec"]["restartPolicy"]) == ("Pod", "tbrm-1", "Never")
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "registry.example/tbrm:0.1.0"
    assert container["command"] == ["python", *command[1:]]
    assert container["env"] == [{"name": "DAGSTER_PIPES_CONTEXT", "value": "x"}]
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert container["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": "4"}
    assert pod["spec"]["volumes"] == POD["volumes"]
    assert launcher.pod == POD, "what the YAML says is unchanged"
    for ending in (launcher.cancel("tbrm-1"), *launcher.ask("tbrm-1")):
        assert ending[0] == "kubectl"
        assert {"tbrm-1", "--namespace=ml"} <= set(ending)


@pytest.mark.parametrize("pod", [{"containers": [{"name": "a"}]}, {"containers": []}, {"kontainers": [{}]}])
def test_a_spec_that_is_none_is_told(pod: dict[str, Any]) -> None:
    launcher = KubernetesLauncher(options=["memory=1Gi"], pod=pod)
    with pytest.raises(TbrmError, match=r"launch\.pod is no spec of a pod"):
        launcher.submit("tbrm-1", ["python"], {})


@pytest.mark.parametrize("change", [{"pod": {}}, {"by": "slurm"}, {"address": "http://head:8265"}])
def test_only_kubernetes_takes_a_pod(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="launch"):
        build_experiment(TREE | {"launch": LAUNCH | change}, "here")
