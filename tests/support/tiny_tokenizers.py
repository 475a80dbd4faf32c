"""Tokenizers of a few tokens, with everything that makes one another: ids, merges, normalizers, special tokens."""

from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

DIGITS = "0123456789+=-\n"
SPECIAL = ("<pad>", "<bos>", "<eos>")


def characters(order: str = DIGITS, normalizer: Any = None, template: str | None = None) -> PreTrainedTokenizerFast:
    """One token a character, ids in this order after `<pad>`, `<bos>` and `<eos>`."""
    words = Tokenizer(models.WordLevel({t: i for i, t in enumerate((*SPECIAL, *order))}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    words.decoder = decoders.Fuse()
    if normalizer is not None:
        words.normalizer = normalizer
    return _wrapped(words, template)


def merging(merges: list[tuple[str, str]], lowercase: bool = False) -> PreTrainedTokenizerFast:
    """Byte-pair encoding whose vocabulary is the same whatever the order of `merges`."""
    tokens = [*SPECIAL, *"ab0123456789 ", *sorted(one + other for one, other in merges)]
    words = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges, unk_token="<pad>"))
    words.decoder = decoders.Fuse()
    if lowercase:
        words.normalizer = normalizers.Lowercase()
    return _wrapped(words, None)


def _wrapped(words: Tokenizer, template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
    if template:
        tokenizer.chat_template = template
    return tokenizer
