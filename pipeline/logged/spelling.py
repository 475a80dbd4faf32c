"""Token ids as text, at the speed of a copy where the tokenizer's tokens are bytes."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import pre_tokenizers

_PROBES, _PROBE_TOKENS = 64, 24


class Spelling:
    """What `tokenizer.decode` gives.

    Tokens of a byte-level tokenizer (those of GPT-2, Llama 3, Qwen and their kind) are bytes, and a text is these one
    after the other. They are then taken from one table; other tokenizers are asked themselves.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tables = _tables(tokenizer)
        if self._tables and not self._agrees():
            self._tables = None

    @property
    def by_bytes(self) -> bool:
        return self._tables is not None

    def texts(self, rows: Sequence[npt.NDArray[np.int32]], skip_special_tokens: bool = False) -> list[str]:
        """The text of each row, out of one look-up for all of them. Ids must lie within the vocabulary."""
        if self._tables is None or not rows:
            return [self.text(ids, skip_special_tokens) for ids in rows]
        taken = self._tables[skip_special_tokens].take(pa.array(np.concatenate(rows), pa.int32()))
        offsets, data = taken.buffers()[1:]
        ends = np.frombuffer(offsets, np.int32)[np.cumsum([0, *map(len, rows)])].tolist()
        view = memoryview(data if data is not None else b"")
        return [str(view[begin:end], "utf-8", "replace") for begin, end in pairwise(ends)]

    def text(self, ids: npt.NDArray[np.int32], skip_special_tokens: bool = False) -> str:
        """`ids` must lie within the vocabulary."""
        if self._tables is None:
            return self._tokenizer.decode(ids.tolist(), skip_special_tokens=skip_special_tokens)
        return self.texts([ids], skip_special_tokens)[0]

    def _agrees(self) -> bool:
        """Whether the tokenizer itself spells some sequences of any of its ids in the same way."""
        rng = np.random.default_rng(0)
        for _ in range(_PROBES):
            ids = rng.integers(0, len(self._tokenizer), _PROBE_TOKENS, dtype=np.int32)
            for skip in (False, True):
                if self.text(ids, skip) != self._tokenizer.decode(ids.tolist(), skip_special_tokens=skip):
                    return False
        return True


def _tables(tokenizer: Any) -> tuple[Any, Any] | None:
    """The bytes of each id, and the same without special tokens; None where tokens are no bytes."""
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is None or json.loads(inner.to_str()).get("decoder", {}).get("type") != "ByteLevel":
        return None
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    every: list[bytes] = [b""] * (max(vocabulary.values()) + 1)
    for token, number in vocabulary.items():
        every[number] = _bytes_of(token)
    plain = [b"" if number in added and added[number].special else each for number, each in enumerate(every)]
    return pa.array(every, pa.binary()), pa.array(plain, pa.binary())


def _byte_of_character() -> dict[int, int]:
    """The characters by which such tokenizers write bytes: printable ones of Latin-1 stand for themselves."""
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    own = {byte: byte for byte in range(256) if chr(byte) in alphabet}
    others = (byte for byte in range(256) if byte not in own)
    return own | {256 + place: byte for place, byte in enumerate(others)}


_BYTES = _byte_of_character()
_ALPHABET = frozenset(map(chr, _BYTES))


def _bytes_of(token: str) -> bytes:
    return token.translate(_BYTES).encode("latin-1") if _ALPHABET.issuperset(token) else token.encode()
