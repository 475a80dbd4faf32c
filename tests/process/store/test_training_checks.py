"""What the graph says about the data of a training: diagnostics, effective samples, contamination."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from assets.experiment.stages import ROLLOUTS, TRAINED_POLICY
from assets.graph.stage_asset import check_result
from pipeline.cli.main import tbrm
from pipeline.config import Experiment
from pipeline.reference import run_ref_logprobs
from pipeline.store import Store
from tests.support.tiny_store import LOGGED, make_experiment, make_store
from trainer.diagnostics.numbers import DIAGNOSTICS_FILE, coverage, read_diagnostics, to_json
from trainer.stages.train import run_train

pytestmark = pytest.mark.xdist_group("training checks")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Experiment]:
    store = make_store(tmp_path_factory.mktemp("store"))
    experiment = make_experiment()
    run_ref_logprobs(experiment, store, 0)
    run_train(experiment, store, 0)
    return store, experiment


def test_diagnostics_lie_beside_the_policy_and_in_the_graph(trained: tuple[Store, Experiment]) -> None:
    store, _ = trained
    found = read_diagnostics(store, "small", 0)
    assert found is not None
    assert [(s.source, s.lag, s.rows, s.sampled) for s in found] == [("generation", 0, 16, 16)]
    assert found[0].coverage is not None
    assert found[0].coverage.effective == pytest.approx(16, abs=0.01)  # on policy
    page = TRAINED_POLICY.page(store, "small", 0)
    assert page["off_policy_diagnostics"].count("\n") == 2
    assert "data:image/png;base64,iVBORw0KGgo" in page["off_policy_plot"]
    assert (Path(store.base) / "small/trained_policy/generation=0000/diagnostics.png").stat().st_size > 5_000


def test_the_command_prints_a_table_and_json(trained: tuple[Store, Experiment], tmp_path: Path) -> None:
    store, experiment = trained
    yaml = tmp_path / "small.yaml"
    yaml.write_text(experiment.model_dump_json())
    arguments = ["diagnostics", str(yaml), "--root", store.root, "-g"]
    table = CliRunner().invoke(tbrm, [*arguments, "0"])
    assert table.exit_code == 0, table.output
    assert "generation" in table.output
    assert "ESS" in table.output
    tree = json.loads(CliRunner().invoke(tbrm, [*arguments, "0", "--json"]).stdout)
    assert tree["sources"][0]["coverage"]["effective_share"] == pytest.approx(1, abs=1e-3)
    missing = CliRunner().invoke(tbrm, [*arguments, "1"])
    assert missing.exit_code == 1
    assert "tbrm train" in missing.output


def test_a_source_without_effective_samples_is_a_warning(trained: tuple[Store, Experiment]) -> None:
    store, experiment = trained
    check = TRAINED_POLICY.checks["effective_samples"]
    assert check(store, experiment, 0).passed
    path = f"{store.join('small', 'trained_policy', 'generation=0000')}/{DIAGNOSTICS_FILE}"
    before = store.read_bytes(path)
    found = read_diagnostics(store, "small", 0)
    assert found is not None
    stale = replace(found[0], lag=4, coverage=coverage(np.linspace(0, 400, 128)))
    store.write_atomic(path, to_json([*found, stale], "hash", 128).encode())
    verdict = check(store, experiment, 0)
    store.write_atomic(path, before)
    assert not verdict.passed
    assert "generation lag 4: 1." in verdict.description
    assert check_result(["small", "trained_policy"], "effective_samples", verdict).severity.value == "WARN"


def test_prompts_that_are_benchmark_problems_are_named(trained: tuple[Store, Experiment], tmp_path: Path) -> None:
    store, experiment = trained
    check = ROLLOUTS.checks["no_contamination"]
    assert check(store, experiment, 0).passed is None
    prompt = store.partition("small", "prompts", 0).read_shard(0).to_pylist()[0]
    rows: list[dict[str, Any]] = [
        {"id": "b-0", "problem": prompt["prompt_text"], "answer": prompt["answer"]},
        {"id": "b-1", "problem": "What is the sum of the first nine primes?", "answer": "100"},
    ]
    (tmp_path / "tiny.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    overlap = experiment.prompts.model_copy(
        update={"exclude_overlap": {"source": str(tmp_path), "benchmarks": ()}}, deep=True
    )
    tree = experiment.model_dump() | {"prompts": overlap.model_dump()}
    verdict = check(store, Experiment.model_validate(tree), 0)
    assert not verdict.passed
    assert "1 of 2 tiny" in verdict.description
    assert verdict.numbers["pairs"] == f"{prompt['prompt_id']} is tiny b-0 (exact 1.00)"
    logged = Experiment.model_validate(tree | {"replay": {"logged": [{"name": LOGGED}]}})
    assert not TRAINED_POLICY.checks["no_contamination"](store, logged, 0).passed
    assert TRAINED_POLICY.checks["no_contamination"](store, logged, 1).passed is None
