"""policy[0]: the base model as a Hugging Face folder, warm-started by imitation where the experiment says so."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config import Experiment, stage_hash
from pipeline.config.policy import PolicyConfig
from pipeline.errors import StoreError
from pipeline.policies.refs import (
    PolicyRef,
    check_undamaged,
    local_root,
    pointer_path,
    publish_policy,
    published,
    read_policy_json,
    write_policy_json,
)
from pipeline.policies.tiny import TINY_WORDS
from pipeline.prompts import load_problems, render
from pipeline.run.configurations import (
    Difference,
    branch,
    differences,
    keep_configuration,
    listed,
    read_configuration,
)
from pipeline.run.resumable import Metric, StageReport
from pipeline.store import Store, exclusive

CONFIG = "configuration"
"""Parent of policy[0]: the hash of the settings that made it."""


def run_base_policy(experiment: Experiment, store: Store) -> StageReport:
    """Save the base model, imitate `policy.warm_start.logged` if asked to, and publish the result as policy[0].

    Idempotent; a killed run goes on from the newest checkpoint of the imitation. Raises StoreError when policy[0] was
    made with other settings: every later generation stands on it.
    """
    started = time.monotonic()
    config_hash = stage_hash(experiment.policy.deciding(), experiment.seed, *_words(experiment))
    if store.fs.exists(pointer_path(store, experiment.name, 0)):
        pointer = published(store, experiment.name, 0)
        made_with = pointer["parents"].get(CONFIG)
        if made_with != config_hash:
            found = differences_of_base(store, experiment)
            how = f":\n{listed(found)}\n" if found else f" ({made_with}, now {config_hash}). "
            raise StoreError(
                f"policy[0] of {experiment.name} was made with other settings of `policy` or `seed`{how}"
                f"Start another experiment: {branch(experiment.name)}; or delete {store.join(experiment.name)}"
            )
        return StageReport("base_policy", experiment.name, 0, 0, time.monotonic() - started, True, {})
    root = local_root(store) / experiment.name / "base_policy"
    with exclusive(str(root)):
        folder = _base_model(experiment, root / "base", config_hash)
        rows, metrics = 0, dict[str, Metric]()
        if experiment.policy.warm_start is not None:
            folder, rows, metrics = _imitated(experiment, store, folder, root / "warm_started", config_hash)
        parents, configuration = {CONFIG: config_hash}, keep_configuration(store, experiment)
        policy = publish_policy(store, experiment.name, 0, folder, parents, configuration=configuration)
    metrics["policy_id"] = policy.policy_id
    return StageReport("base_policy", experiment.name, 0, rows, time.monotonic() - started, False, metrics)


def differences_of_base(store: Store, experiment: Experiment) -> list[Difference]:
    """The deciding fields in which policy[0] differs from the experiment; none where its settings are not known."""
    name = published(store, experiment.name, 0)["configuration"]
    decides = [
        *PolicyConfig.alike_fields("policy"),
        "seed",
        *(["prompts"] if experiment.policy.base == TINY_WORDS else []),
    ]
    return differences(read_configuration(store, name), experiment.model_dump(mode="json"), decides) if name else []


def _base_model(experiment: Experiment, folder: Path, config_hash: str) -> Path:
    from pipeline.policies.load_save import remove_folder, save_base_model

    if folder.is_dir():
        check_undamaged(PolicyRef(read_policy_json(folder)["policy_id"], str(folder), 0))
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    remove_folder(partial)
    partial.mkdir(parents=True)
    save_base_model(experiment.policy, partial, experiment.seed, _texts(experiment))
    write_policy_json(partial, {CONFIG: config_hash})
    return partial.rename(folder)


def _words(experiment: Experiment) -> list[dict[str, Any]]:
    """The settings of the prompts, where a vocabulary of their words makes them decide the base model too."""
    problems = experiment.prompts.model_dump(mode="json", exclude={"per_generation"})
    return [problems] if experiment.policy.base == TINY_WORDS else []


def _texts(experiment: Experiment) -> Iterator[str]:
    """Every prompt and every answer of the experiment: the text that a vocabulary of its words is made from."""
    for problem in load_problems(experiment.prompts, experiment.seed):
        yield render(experiment.prompts.template, problem.text, None)
        yield problem.answer


def _imitated(
    experiment: Experiment, store: Store, base: Path, out: Path, config_hash: str
) -> tuple[Path, int, dict[str, Metric]]:
    from pipeline.logged.scripted import write_behaviour_log
    from pipeline.policies.load_save import load_tokenizer
    from trainer.stages.warm_start import run_imitation

    warm = experiment.policy.warm_start
    assert warm is not None
    if warm.trajectories:
        tokenizer = load_tokenizer(str(base))
        write_behaviour_log(experiment, warm.logged, warm.trajectories, warm.behaviour_accuracy, store, tokenizer)
    if out.is_dir():  # finished by a run that was killed before it published
        return out, 0, {}
    report = run_imitation(experiment, store, base, out, warm, {CONFIG: config_hash})
    return out, report.rows, dict(report.metrics)
