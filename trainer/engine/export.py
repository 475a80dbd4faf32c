"""From trained weights to an ordinary Hugging Face folder, checked tensor by tensor before anybody may use it."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from pipeline.config.training import LoraConfig
from pipeline.errors import TbrmError
from pipeline.store.files import written

# Everything but weights that makes the folder loadable is copied from the policy the training started from.
_COPIED_SUFFIXES = (".json", ".txt", ".model", ".jinja")
_NOT_COPIED = (
    "config.json",
    "policy.json",
    "_manifest.json",
    "training.json",
    "diagnostics.json",
    "model.safetensors.index.json",
)
_FORWARD_CHECK_PARAMETERS = 200_000_000
_BASE, _DOWN, _UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"
"""How peft names the tensors of a layer with an adapter."""


def export_policy(model: Any, state: Mapping[str, torch.Tensor], origin: Path, out: Path) -> dict[str, int]:
    """Write `state` (full tensors, names as in `model`) as a Hugging Face folder at `out` and verify what was written.

    `origin` supplies the tokenizer. Returns the numbers of tensors and of parameters. Raises TbrmError when the
    folder does not hold exactly the trained weights.
    """
    out.mkdir(parents=True, exist_ok=True)
    unique = without_tied(model, state)
    with written(out):
        model.save_pretrained(out, state_dict=unique)
        for path in sorted(origin.iterdir()):
            if path.suffix in _COPIED_SUFFIXES and path.name not in _NOT_COPIED:
                shutil.copyfile(path, out / path.name)
    for path in out.glob("*.safetensors"):
        path.chmod(0o644)
    verify_export(out, unique)
    return {"tensors": len(unique), "parameters": sum(t.numel() for t in unique.values())}


def without_tied(model: Any, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state` without the tensors that the architecture ties to another one.

    Consolidation may turn one shared tensor into two equal ones, which safetensors would store twice and a loader
    would then refuse or ignore.
    """
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    return {name: tensor.contiguous() for name, tensor in state.items() if name not in tied}


def verify_export(folder: Path, expected: Mapping[str, torch.Tensor]) -> None:
    """Compare the safetensors files of `folder` with `expected`: names, shapes, types, every byte, all finite.

    Raises TbrmError naming the first difference.
    """
    left = dict(expected)
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                stored, trained = file.get_tensor(name), left.pop(name, None)
                if trained is None:
                    raise TbrmError(f"{path}: tensor {name} was stored twice or never trained; it is not published")
                if stored.dtype != trained.dtype or not torch.equal(stored, trained.cpu()):
                    finite = bool(torch.isfinite(trained).all())
                    why = "differs from the trained one" if finite else "holds NaN or infinity"
                    raise TbrmError(f"{path}: tensor {name} ({stored.dtype}) {why}; the policy is not published")
    if left:
        raise TbrmError(f"{folder} lacks the tensors {', '.join(sorted(left)[:5])}; the policy is not published")


@torch.no_grad()
def verify_forward(model: Any, folder: Path, token_ids: list[int]) -> None:
    """Load `folder` as a user would and compare its logits on one sequence with the trained model's.

    Left out above 200M parameters, where `verify_export` has compared every tensor and a second copy costs memory.
    """
    from transformers import AutoModelForCausalLM

    if sum(p.numel() for p in model.parameters()) > _FORWARD_CHECK_PARAMETERS:
        return
    device = next(model.parameters()).device
    loaded = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype, attn_implementation="sdpa").to(device).eval()
    )
    ids = torch.tensor([token_ids], device=device)
    mine, theirs = model(input_ids=ids, use_cache=False).logits, loaded(input_ids=ids, use_cache=False).logits
    difference = float((mine - theirs).abs().max())
    if not difference <= (1e-4 if model.dtype == torch.float32 else 0.1):
        raise TbrmError(f"{folder} loads to another model than the trained one (logits differ by {difference:.3g})")


def merged(state: Mapping[str, torch.Tensor], config: LoraConfig) -> dict[str, torch.Tensor]:
    """The weights of the plain model: W + (alpha / rank) B A for each layer with an adapter, in the type of W."""
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        layer, _, kind = name.partition(_BASE)
        down, up = state.get(layer + _DOWN), state.get(layer + _UP)
        if kind == "weight" and down is not None and up is not None:
            change = (up.float() @ down.float()) * (config.alpha / config.rank)
            tensor = (tensor.float() + change).to(tensor.dtype)
        plain[name.replace(_BASE, ".")] = tensor
    return plain
