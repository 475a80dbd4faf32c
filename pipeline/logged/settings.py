"""What an import is asked to do, and how much it may hold at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Duplicates = Literal["rows", "responses", "keep"]
Template = Literal["auto", "raw", "restore", "qwen-math", "r1", "chat"]

CHUNK_BYTES = 4 * 2**20
CHUNK_ROWS = 256
"""Rows are tokenized and sent in chunks: at most so many bytes of them, or one row. Enough for the tokenizer's threads,
and the objects of a chunk, some 30 times its bytes, still fit the reader's memory."""
SHARD_BYTES = 64 * 2**20
"""A shard ends here, or at `rows_per_shard`: every later stage holds a shard or two in memory."""
ROW_OVERHEAD = 512
"""What a row of the tables costs beside its content, in bytes: ids, names, reasons."""
MAX_EXPANSION = 8
"""A row of the log may become this many times `max_row_bytes`: its prompt is stored with each of its responses."""


@dataclass(frozen=True)
class Directions:
    """What a user says about the rows of a log."""

    mapping: Mapping[str, str] = field(default_factory=dict[str, str])
    """Our field -> path in the log."""
    source: str = ""
    """Name of the format; empty where the fields show it."""
    rewards: Mapping[str, float] = field(default_factory=dict[str, float])
    """Number of a row -> its weight in the reward."""
    where: Mapping[str, str] = field(default_factory=dict[str, str])
    """Path in the log -> value that rows must have there."""


@dataclass(frozen=True)
class ImportSettings:
    """One import. The same settings and files give the same bytes."""

    name: str
    """Data set `logged/<name>`."""
    files: tuple[str, ...]
    """Files and folders, read in this order."""
    tokenizer: str
    """Hugging Face folder or hub id; the tokenizer of the policies that will train on the data."""
    policy: str
    """Name of the behaviour policy, where rows do not name their own."""
    mapping: Mapping[str, str] = field(default_factory=dict[str, str])
    """Our field -> dotted path in the log. Fields not named here are found by name or by known shape."""
    source: str = ""
    """Name of the log's format, in `pipeline.logged.formats`; empty: recognized."""
    rewards: Mapping[str, float] = field(default_factory=dict[str, float])
    """Number of a row -> its weight in the reward, where the log has several that may be it."""
    where: Mapping[str, str] = field(default_factory=dict[str, str])
    """Path in the log -> value; rows with another one are left out."""
    template: Template = "auto"
    """`auto` takes logged prompts as they stand, and refuses those that no model saw so; `raw` takes them all;
    `restore` puts back the special tokens that decoding removed; qwen-math, r1 and chat render bare questions."""
    append_eos: bool = True
    """Close responses logged as text that ended by themselves with the end-of-sequence token."""
    length_limit: int | None = None
    """The sampler's limit: text of at least this many tokens counts as cut, where the log does not say."""
    max_tokens: int = 131_072
    """Longer responses are quarantined."""
    max_row_bytes: int = 16 * 2**20
    """Larger rows are quarantined without being parsed."""
    max_bad_share: float = 0.05
    """More bad rows than this stop the import before it commits."""
    duplicates: Duplicates = "rows"
    """What counts as a duplicate: the same source row, the same prompt and response tokens, or nothing."""
    generation: int = 0
    """Partition of the data set: later parts of the same log go into later ones."""
    rows_per_shard: int = 4_096
    """Most source rows of one shard; large rows fill it earlier (`SHARD_BYTES`)."""

    @property
    def dataset(self) -> str:
        return f"logged/{self.name}"

    @property
    def directions(self) -> Directions:
        return Directions(self.mapping, self.source, self.rewards, self.where)

    @property
    def max_expanded_bytes(self) -> int:
        return MAX_EXPANSION * self.max_row_bytes

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"files": list(self.files)}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "ImportSettings":
        files: list[str] = tree["files"]
        return replace(cls(**tree), files=tuple(files))


@dataclass(frozen=True)
class ReadingPlan:
    """How rows are read, as the first ones of the log show it."""

    shape: str
    fields: Mapping[str, str]
    """Our field -> the log's field it is read from, for people."""
    wants_reward: bool
    """The log has rewards, so that a row without one is bad."""
    tokenizer_name: str | None
    """What the first row calls its tokenizer; rows that name another one are bad."""
    tokenizer: str
    """Fingerprint of the tokenizer that was loaded, its template included: it decides what the import writes."""
    tokenizer_info: Mapping[str, Any]
    """Fields of its `TokenizerInfo`: what the ids mean."""
    lacks: Sequence[str]
    """What the first rows do not hold, and what that rules out: one sentence each, for people."""
    first: Sequence[str]
    """The first rows as they were read, for people."""

    @property
    def tables(self) -> tuple[str, ...]:
        return ("prompts", "quarantine", "rollouts", *(("rewards",) if self.wants_reward else ()))
