"""Embedded policies: a 0.9M-parameter Llama with a tokenizer of its own, saved as an ordinary Hugging Face folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

TINY_ARITH, TINY_WORDS = "builtin:tiny-arith", "builtin:tiny-words"
_SPECIAL = ("<pad>", "<bos>", "<eos>")
_CHARACTERS = "0123456789+=-\n"
_WORDS = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]|\s"
"""A word, a digit or a sign, each with the space before it; any other white space by itself."""


def save_tiny_arith(folder: Path, seed: int) -> None:
    """Write the model (random weights from `seed`) with one token a character of an addition."""
    _save(folder, seed, r"[\s\S]", _CHARACTERS, context=128)


def save_tiny_words(folder: Path, seed: int, texts: Iterable[str]) -> None:
    """Write the model (random weights from `seed`) with one token for every word, digit and sign of `texts`.

    Anything else becomes one token for what is unknown, so only text made of these words decodes back.
    """
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    words = {word for text in texts for word, _ in split.pre_tokenize_str(text)}
    _save(folder, seed, _WORDS, ("<unk>", *sorted(words)), context=1_024)


def _save(folder: Path, seed: int, pattern: str, tokens: Iterable[str], context: int) -> None:
    """`AutoModelForCausalLM` and `AutoTokenizer` load the folder."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate((*_SPECIAL, *tokens))}
    unknown = "<unk>" if "<unk>" in vocabulary else "<pad>"
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    words.decoder = decoders.Fuse()
    names: dict[str, Any] = {"unk_token": unknown} if unknown != "<pad>" else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", **names
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(seed % 2**63)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
