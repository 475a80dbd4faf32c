"""Facts about a model, read from its files before anything loads it: its size, its configuration, what is missing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.policy import BuiltModel, HubModel, ServerModel, named_policy
from pipeline.errors import TbrmError, needing
from pipeline.policies.hub import look_up, read_file
from pipeline.policies.load_save import packaged_gguf, parameters
from pipeline.policies.tiny import TINY_ARITH, TINY_WORDS

_BUILTIN_PARAMETERS = 1_000_000
"""Roughly: `builtin:tiny-words` has more parameters with every word of its vocabulary."""
_SLOW_TOKENIZERS = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model. `parameters` is None where the number is not known. `problem` says what would make a
    stage fail; it is empty where nothing was found."""

    where: str
    parameters: int | None
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    chat_template: bool = False
    problem: str = ""
    download_bytes: int = 0


def model_facts(base: str, revision: str | None = None) -> ModelFacts:
    """Facts of a Hugging Face folder, a hub id, `package:…` or `builtin:…`.

    Raises TbrmError when there is no such model, HubSilent when that cannot be known here.
    """
    if base in (TINY_ARITH, TINY_WORDS):
        return ModelFacts(base, _BUILTIN_PARAMETERS)
    if base.startswith("builtin:"):
        raise TbrmError(f"there is no model {base}; there are {TINY_ARITH} and {TINY_WORDS}")
    named = named_policy(base, revision)
    if isinstance(named, BuiltModel):
        return _package(base)
    if isinstance(named, ServerModel):
        raise TbrmError(f"{base} is a server, which tells nothing of its model's weights")
    if isinstance(named, HubModel):
        return _hub(named.repository, named.revision)
    if not named.path.is_dir():
        raise TbrmError(f"there is no folder {base}: correct the path, or give a hub id such as Qwen/Qwen2.5-Math-1.5B")
    return _folder(named.path, str(named.path))


def _package(base: str) -> ModelFacts:
    with needing("gguf", f"policy.base: {base}"):
        from gguf import GGUFReader

    file = packaged_gguf(base)
    reader = GGUFReader(file)
    return ModelFacts(
        f"{base} ({file.name})",
        sum(int(tensor.n_elements) for tensor in reader.tensors),
        chat_template="tokenizer.chat_template" in reader.fields,
    )


def _folder(folder: Path, where: str) -> ModelFacts:
    config = _json(folder / "config.json")
    size = parameters(str(folder))
    if size is None:
        raise TbrmError(f"{folder} has no .safetensors weights: other formats are not read")
    settings = _json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    template = bool(settings.get("chat_template")) or (folder / "chat_template.jinja").is_file()
    return ModelFacts(where, size, config, template, _tokenizer_problem(folder, settings))


def _tokenizer_problem(folder: Path, settings: Mapping[str, Any]) -> str:
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        there = any((folder / name).is_file() for name in _SLOW_TOKENIZERS)
        return "" if there else f"{folder} has no tokenizer.json: save the tokenizer beside the weights"
    try:
        Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001 - the library raises nothing more precise
        return f"{file} cannot be read ({error}): restore it"
    if not settings.get("eos_token"):
        return f"{folder / 'tokenizer_config.json'} names no eos_token: nothing would end a response"
    return ""


def _hub(name: str, revision: str | None) -> ModelFacts:
    found = look_up("model", name, revision)
    if found.cached is not None and list(found.cached.glob("*.safetensors")):
        return _folder(found.cached, f"{name}, in the cache of this machine")
    if found.cached is not None:
        return ModelFacts(f"{name}, in part in the cache of this machine", None)
    files = {str(file.get("rfilename")) for file in found.tree.get("siblings", ())}
    if not any(file.endswith(".safetensors") for file in files):
        raise TbrmError(f"the hub's {name} has no .safetensors weights: other formats are not read")
    size = (found.tree.get("safetensors") or {}).get("total")
    told = (found.tree.get("config") or {}).get("tokenizer_config") or {}
    template = bool(told.get("chat_template")) or "chat_template.jinja" in files
    tokenizer = "tokenizer.json" in files or any(file in files for file in _SLOW_TOKENIZERS)
    return ModelFacts(
        f"{name}, on the hub",
        None if size is None else int(size),
        read_file(name, revision, "config.json"),
        template,
        "" if tokenizer else f"the hub's {name} has no tokenizer",
        2 * int(size or 0),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TbrmError(f"{path} cannot be read ({error}): it is no Hugging Face folder, or a damaged one") from error
    if not isinstance(tree, dict):
        raise TbrmError(f"{path} must hold an object: it is no Hugging Face folder, or a damaged one")
    return tree
