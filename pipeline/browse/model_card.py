"""A published policy as a folder for others: weights, tokenizer, and a model card that says what it is worth."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.browse.lineage import trained_on, with_interval
from pipeline.config.policy import HubModel, named_policy
from pipeline.errors import TbrmError
from pipeline.markdown import markdown_table
from pipeline.policies.refs import content_files, published, published_folder, read_policy_json
from pipeline.run.configurations import read_configuration
from pipeline.store import Store, code_version
from pipeline.store.files import written


def export_policy_folder(store: Store, experiment: str, generation: int, folder: str) -> Path:
    """Write policy[`generation`] of an experiment to `folder`, with its model card as README.md.

    Raises StoreError when it is not published, and TbrmError when the folder exists.
    """
    target = Path(folder)
    if target.exists():
        raise TbrmError(f"{target} exists already: name another folder, or remove it")
    pointer = published(store, experiment, generation)
    origin = published_folder(store, pointer)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as beside, written(target):
        made = Path(beside) / "made"
        made.mkdir()
        for path in content_files(origin):
            shutil.copyfile(path, made / path.name)
        (made / "README.md").write_text(_card(store, experiment, generation, pointer, origin), encoding="utf-8")
        made.rename(target)
    return target


def _card(store: Store, experiment: str, generation: int, pointer: Mapping[str, Any], folder: Path) -> str:
    configuration = read_configuration(store, pointer["configuration"]) if pointer["configuration"] else {}
    base = str(configuration.get("policy", {}).get("base", ""))
    revision = configuration.get("policy", {}).get("revision")
    on_hub = bool(base) and isinstance(named := named_policy(base), HubModel) and named.repository
    scores = _scores(store, experiment, generation, str(pointer["policy_id"]))
    training = folder / "training.json"
    facts = trained_on(training) if training.is_file() else {}
    objective = facts.pop("objective", "")
    parents = read_policy_json(folder)["parents"] if (folder / "policy.json").is_file() else pointer["parents"]
    lines = [
        *("---", "license: other  # fill in: that of the base model, and of the trajectories that trained this one"),
        *("license_name: unknown", "library_name: transformers", "pipeline_tag: text-generation"),
        *([f"base_model: {on_hub}"] if on_hub else []),
        *("---", "", f"# {experiment}, policy {generation}", ""),
        f"Policy `{pointer['policy_id']}`. Licence: **fill in** that of the base model and of the trajectories.",
        *("", f"Base model: {f'`{base}`' if base else '**fill in**'}{f' at `{revision}`' if revision else ''}"),
        *("", "## Scores", "", *(scores or ["none: `tbrm evaluate` measures it"]), ""),
        *("## Training mix", ""),
        *([f"Objective: `{objective}`", ""] if objective else []),
        *([f"- {place.removeprefix('trained on ')}: {kept}" for place, kept in facts.items()] or ["none is noted"]),
        *("", "## Lineage", "", *(f"- {name}: `{hash_}`" for name, hash_ in sorted(parents.items()))),
        *([f"- configuration: `{pointer['configuration']}`"] if pointer["configuration"] else []),
        *(f"- exported by tbrm {code_version()}", ""),
        *("## How it was made", "", "```sh", _command(experiment, generation), "```", ""),
        *("<details><summary>configuration</summary>", "", "```json"),
        *(json.dumps(configuration, indent=1), "```", "", "</details>", ""),
    ]
    return "\n".join(lines)


def _command(experiment: str, generation: int) -> str:
    if generation == 0:
        return f"tbrm base-policy --experiment {experiment}"
    return f"tbrm run {experiment}   # its generation {generation - 1} trained this policy"


def _scores(store: Store, experiment: str, generation: int, policy_id: str) -> list[str]:
    """A table of accuracies with their 95% intervals; empty without scores of this very policy."""
    partition = store.partition(experiment, "scores", generation)
    if not partition.is_committed():
        return []
    manifest = partition.manifest()
    if manifest.parents.get(f"{experiment}/policy/generation={generation:04d}", policy_id) != policy_id:
        return []
    named = [key for key in manifest.stats if key.endswith("_accuracy")]
    rows = [(key.removesuffix("_accuracy"), with_interval(manifest.stats, key)) for key in named]
    return [markdown_table(("benchmark", "accuracy with 95% interval"), rows)] if rows else []
