"""Labels by version: a new verifier or reference writes beside the old, and the experiment says which one trains."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.main import tbrm
from pipeline.errors import StoreError
from pipeline.policies.refs import resolve_policy
from pipeline.policies.tiny import save_tiny_arith
from pipeline.reference import reference_label, run_ref_logprobs
from pipeline.replay.mix import resolve_mix
from pipeline.rewards.stage import run_rewards
from pipeline.store import Store
from tests.support.tiny_store import LOGGED, make_experiment, make_store
from trainer.stages.train import run_train

pytestmark = pytest.mark.xdist_group("relabel")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def other_reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    save_tiny_arith(folder, seed=99)
    return folder


def content(store: Store, *tables: str) -> dict[str, bytes]:
    folders = [Path(store.base) / "small" / table for table in tables]
    return {str(p): p.read_bytes() for folder in folders for p in sorted(folder.rglob("*")) if p.is_file()}


def test_training_uses_the_chosen_version_and_old_labels_stay(store: Store, other_reference: Path) -> None:
    run_ref_logprobs(make_experiment(), store, 0)
    before = content(store, "rollouts", "rewards", "ref_logprobs")
    other = make_experiment(reference={"policy": str(other_reference)})
    run_rewards(make_experiment(), store, 0, label="v2", verifier="exact_integer")
    run_ref_logprobs(other, store, 0, label="other")
    assert content(store, "rollouts", "rewards", "ref_logprobs") == before

    chosen = make_experiment(
        reference={"policy": str(other_reference)}, replay={"rewards": "v2", "ref_logprobs": "other"}
    )
    tables = set(resolve_mix(store, chosen, 0).parents)
    assert tables == {f"small/{t}/generation=0000" for t in ("rollouts", "rewards@v2", "ref_logprobs@other")}
    with pytest.raises(StoreError, match=r"scored by reference .* --replace`, or choose another version"):
        resolve_mix(store, other, 0)  # the default version is of policy[0]

    run_train(make_experiment(), store, 0)
    first = json.loads((Path(store.base) / "small/trained_policy/generation=0000/training.json").read_text())
    with pytest.raises(StoreError, match=r"trained with other settings:\n  replay.rewards: none there, v2 now"):
        run_train(chosen, store, 0)
    run_train(chosen, store, 0, replace=True)
    second = json.loads((Path(store.base) / "small/trained_policy/generation=0000/training.json").read_text())
    assert {p["rewards"] for p in first["mix"]["parts"]} == {"rewards"}
    assert {p["rewards"] for p in second["mix"]["parts"]} == {"rewards@v2"}
    assert {p["ref_logprobs"] for p in second["mix"]["parts"]} == {"ref_logprobs@other"}
    # At θ = policy[0] the log-ratio vanishes under the reference policy[0], and under no other.
    assert abs(first["stats"]["logratio"]) < 1e-4 < abs(second["stats"]["logratio"])


def test_a_logged_data_set_is_labelled_and_trains_offline(store: Store) -> None:
    experiment = make_experiment(rollouts=None, replay={"window": 0, "logged": [{"name": LOGGED}]})
    yaml = Path(store.base) / "small.yaml"
    yaml.write_text(experiment.model_dump_json())
    reference = resolve_policy(store, experiment, 0)
    with pytest.raises(StoreError, match=f"tbrm rewards .*--logged {LOGGED}`"):
        resolve_mix(store, experiment, 0)
    for command in ("rewards", "ref-logprobs"):
        arguments = [command, "-e", str(yaml), "--root", store.root, "--logged", LOGGED, "--json"]
        result = CliRunner().invoke(tbrm, arguments)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["rows"] == 16
    table = f"ref_logprobs@{reference_label(reference.policy_id)}"
    assert store.generations(f"logged/{LOGGED}", table) == [0]
    assert f"logged/{LOGGED}/{table}/generation=0000" in resolve_mix(store, experiment, 0).parents
    offline = experiment.model_copy(update={"name": "offline"})
    pointer = store.read_bytes(store.join("small", "policy", "generation=0000", "policy.json"))
    store.write_atomic(store.join("offline", "policy", "generation=0000", "policy.json"), pointer)
    report = run_train(offline, store, 0)
    assert report.rows == 16
    assert abs(float(report.metrics["logratio"])) < 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", "../x", "-g", "0"], "--label: label '../x'"),
        (["--logged", "nobody"], f"no logged data set 'nobody' .*known: {LOGGED}"),
        ([], "Missing option '--generation'"),
    ],
)
def test_what_cannot_be_labelled_is_explained(store: Store, arguments: list[str], message: str) -> None:
    for command in ("rewards", "ref-logprobs"):
        result = CliRunner().invoke(tbrm, [command, "-e", "arith_tiny", "--root", store.root, *arguments])
        assert result.exit_code != 0
        assert re.search(message, result.output), result.output
