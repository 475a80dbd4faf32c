"""Identifiers and checksums. All are deterministic: the same content has the same name on every machine."""

import hashlib

import xxhash


def trajectory_id(dataset: str, generation: int, prompt_id: str, sample_index: int) -> str:
    """32 hex digits that name one trajectory; a re-run of the stage makes the same ids."""
    key = "\x1f".join((dataset, str(generation), prompt_id, str(sample_index)))
    return xxhash.xxh3_128_hexdigest(key.encode())


def seed_of(*parts: str | int) -> int:
    """A 63-bit seed derived from `parts`, e.g. (experiment seed, trajectory id)."""
    return xxhash.xxh3_64_intdigest("\x1f".join(map(str, parts)).encode()) >> 1


def checksum(data: bytes | memoryview) -> str:
    """XXH3-128 of the bytes: it finds damage and truncation, at memory speed. It is no defence against forgery."""
    return "xxh3:" + xxhash.xxh3_128_hexdigest(data)


def text_hash(text: str) -> str:
    """SHA-256 of a text, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()
