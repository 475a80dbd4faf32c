"""Model folders with one damage each: refused in one sentence, and never completed with random tensors."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config.policy import PolicyConfig
from pipeline.errors import TbrmError
from pipeline.policies.load_save import load_config, load_model, load_tokenizer
from pipeline.policies.tiny import save_tiny_arith

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "whole"
    save_tiny_arith(folder, seed=1)
    return folder


def loaded(folder: Path) -> None:
    """Everything that a stage reads of a folder."""
    load_config(str(folder))
    load_tokenizer(str(folder))
    load_model(str(folder), PolicyConfig(base=str(folder), dtype="float32"))


def text(name: str, content: str) -> Damage:
    return lambda folder: (folder / name).write_text(content)


def cut(name: str, keep: float) -> Damage:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return damage


def removed(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def setting(**fields: Any) -> Damage:
    """Fields of config.json; None removes one."""

    def damage(folder: Path) -> None:
        tree = json.loads((folder / CONFIG).read_text()) | fields
        (folder / CONFIG).write_text(json.dumps({k: v for k, v in tree.items() if v is not None}))

    return damage


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Damage:
    def damage(folder: Path) -> None:
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, {"format": "pt"})

    return damage


def without(*words: str) -> Damage:
    return tensors(lambda held: {k: v for k, v in held.items() if not any(word in k for word in words)})


def header(content: bytes) -> Damage:
    """Another header of the safetensors file, its length before it."""
    return lambda folder: (folder / WEIGHTS).write_bytes(len(content).to_bytes(8, "little") + content + b"\0" * 64)


DAMAGES: dict[str, Damage] = {
    "config absent": removed(CONFIG),
    "config empty": text(CONFIG, ""),
    "config cut": cut(CONFIG, 0.5),
    "config a list": text(CONFIG, "[]"),
    "config a number": text(CONFIG, "7"),
    "config null": text(CONFIG, "null"),
    "config binary": lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe\x00"),
    "no model type": setting(model_type=None, architectures=None),
    "unknown model type": setting(model_type="nothing-known"),
    "model type a list": setting(model_type=["llama"]),
    "width a word": setting(hidden_size="wide"),
    "width zero": setting(hidden_size=0),
    "width below zero": setting(hidden_size=-8),
    "heads zero": setting(num_attention_heads=0),
    "another width": setting(hidden_size=64),
    "more layers than weights": setting(num_hidden_layers=9),
    "another vocabulary": setting(vocab_size=99),
    "vocabulary a word": setting(vocab_size="many"),
    "activation unknown": setting(hidden_act="no_such_function"),
    "weights absent": removed(WEIGHTS),
    "weights empty": text(WEIGHTS, ""),
    "weights cut": cut(WEIGHTS, 0.5),
    "weights no safetensors": text(WEIGHTS, "not tensors at all" * 20),
    "header no JSON": header(b"{broken"),
    "header a list": header(b"[]"),
    "header too long": lambda folder: (folder / WEIGHTS).write_bytes((2**62).to_bytes(8, "little") + b"{}"),
    "no norm": without("norm"),
    "no head and no norm": without("lm_head", "embed_tokens", "norm"),
    "no layer": without("layers.0"),
    "nothing": tensors(lambda _: {}),
    "other names": tensors(lambda held: {f"x.{k}": v for k, v in held.items()}),
    "other shapes": tensors(lambda held: {k: v[:1].clone() for k, v in held.items()}),
    "tokenizer absent": removed(TOKENIZER),
    "tokenizer empty": text(TOKENIZER, ""),
    "tokenizer cut": cut(TOKENIZER, 0.5),
    "tokenizer a list": text(TOKENIZER, "[]"),
    "tokenizer without a model": text(TOKENIZER, "{}"),
    "tokenizer settings cut": cut("tokenizer_config.json", 0.5),
    "tokenizer settings a list": text("tokenizer_config.json", "[]"),
}


def test_a_whole_folder_is_loaded(whole: Path) -> None:
    loaded(whole)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_sentence(name: str, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    DAMAGES[name](folder)
    with pytest.raises(TbrmError) as refused:
        loaded(folder)
    assert str(folder) in str(refused.value)
