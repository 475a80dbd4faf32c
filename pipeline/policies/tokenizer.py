"""Which tokenizer made the token ids of a table. Training sees only ids; those of another one mean other words."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute

from pipeline.errors import StoreError
from pipeline.policies.load_save import load_config
from pipeline.store import Manifest, TokenizerInfo

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
