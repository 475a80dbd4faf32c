"""Which tokenizer made a table's token ids. Ids are all that training sees: those of another one mean other words."""

import hashlib
import json
from typing import Any

from pipeline.errors import StoreError
from pipeline.store import TokenizerInfo

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


def vocabulary_of(path: str, tokenizer: Any) -> int:
    """Ids that the model in a folder knows: those of its tokenizer, and the rows that its embedding is padded to."""
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(path, trust_remote_code=False).get_text_config()
    return max(int(config.vocab_size), tokenizer_size(tokenizer))


def tokenizer_size(tokenizer: Any) -> int:
    """One more than the highest id of a tokenizer, which may have holes."""
    return max(tokenizer.get_vocab().values()) + 1


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def check_tokenizer(made: TokenizerInfo | None, what: str, own: TokenizerInfo | None, whose: str, remedy: str) -> None:
    """Raise StoreError unless `what` holds ids of the tokenizer of `whose`, as far as both are known.

    A table written before tokenizers were noted says nothing of its own; its ids are then only held against the size
    of the vocabulary, where they meet a model.
    """
    if made is None or own is None or made == own:
        return
    if made.vocabulary != own.vocabulary:
        differ = f"its vocabulary is {_named(made)}, that of {whose} is {_named(own)}"
    else:
        differ = f"the vocabulary of {own.size:,} tokens is the same, but text is split into them in another way"
    raise StoreError(f"{what} holds token ids of another tokenizer than {whose}: {differ}. {remedy}")


def _named(info: TokenizerInfo) -> str:
    return f"{info.vocabulary} of {info.size:,} tokens"
