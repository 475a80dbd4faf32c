"""Token ids become the text that the tokenizer itself gives, whatever they are."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pipeline.logged.spelling import Spelling

WORDS = ["Größe \U0001f642 数学 ﷺ", "def f(x):\n    return x", "aa ab ba bb  \t\x00é", "<|im_end|> not special"]


def byte_level() -> Any:
    """Merges cut characters of several bytes; one added token is special, one is not and holds a space."""
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    inner.train_from_iterator(WORDS * 3, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")
    made.add_tokens(["<think ing>", "Größe"])
    return made


def by_words() -> Any:
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2, "c": 3, ".": 4}, unk_token="[UNK]"))
    inner.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")


BYTES = byte_level()
SPELLING = Spelling(BYTES)


@given(st.lists(st.integers(0, len(BYTES) - 1), max_size=12), st.booleans())
def test_any_ids_of_a_byte_level_tokenizer(ids: list[int], skip: bool) -> None:
    assert SPELLING.text(np.array(ids, np.int32), skip) == BYTES.decode(ids, skip_special_tokens=skip)


def test_tokens_that_are_bytes_are_noticed() -> None:
    assert SPELLING.by_bytes
    assert not Spelling(by_words()).by_bytes


def test_other_tokenizers_are_asked_themselves() -> None:
    words = by_words()
    ids = [1, 2, 3, 4, 0]
    assert Spelling(words).text(np.array(ids, np.int32), True) == words.decode(ids, skip_special_tokens=True)


def test_a_tokenizer_that_spells_otherwise_than_its_tokens_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subclass may decode in a way of its own."""
    made = byte_level()
    monkeypatch.setattr(type(made), "decode", lambda self, ids, **_: "same")
    assert not Spelling(made).by_bytes
