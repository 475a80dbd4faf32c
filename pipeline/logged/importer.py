"""Import of logged trajectories: any log becomes prompts, rollouts and rewards of `logged/<name>`, shard by shard.

Shard k holds the good rows among source rows [k·S, (k+1)·S) over all files, so an interrupted import goes on at the
first missing shard, and what is wrong with a row changes no other shard.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from pipeline.config import stage_hash
from pipeline.config.replay import LOGGED_NAME
from pipeline.errors import TbrmError
from pipeline.logged.duplicates import Seen
from pipeline.logged.fields import Bad, Candidate, candidates
from pipeline.logged.rows import RawRow, file_digest, find_files, read_rows
from pipeline.logged.shapes import Shape, recognize
from pipeline.logged.summary import ImportReport, summarize
from pipeline.logged.tables import make_tables
from pipeline.logged.tokens import Tokenized, TokenSettings, tokenize
from pipeline.logged.writers import TableWriters
from pipeline.models import load_tokenizer
from pipeline.progress import track
from pipeline.store import Stat, Store
from pipeline.tokenizer import tokenizer_info

Duplicates = Literal["rows", "responses", "keep"]
_PREFLIGHT_ROWS = 200
_AT_A_TIME = 256  # rows tokenized together: bounds memory, and is enough for the tokenizer's threads


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
    template: str = "raw"
    """`raw` takes logged prompts as they stand; qwen-math, r1 and chat render bare questions."""
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
    """Source rows that make one shard."""


@dataclass(frozen=True)
class _Plan:
    """How rows are read, as the first ones show it."""

    shape: Shape
    wants_reward: bool
    tokenizer_name: str | None
    """What the first row calls its tokenizer; rows that name another one are bad."""

    @property
    def tables(self) -> tuple[str, ...]:
        return ("prompts", "quarantine", "rollouts", *(("rewards",) if self.wants_reward else ()))


def run_import(settings: ImportSettings, store: Store, replace: bool = False) -> ImportReport:
    """Write `logged/<name>`: tables prompts, rollouts, quarantine, and rewards where the log has them.

    Raises TbrmError when files are unreadable, no field can be found, or more than `max_bad_share` of the rows are bad;
    nothing is committed then. A data set that is there already with the same settings and files is left as it is.
    """
    started = time.monotonic()
    if not LOGGED_NAME.fullmatch(settings.name) or settings.name == "generation":
        raise TbrmError(f"--name {settings.name!r}: letters, digits and . _ - only, and not 'generation'")
    files = find_files(list(settings.files))
    parents = {f"file {number} {path.name}": file_digest(path) for number, path in enumerate(files)}
    tokens = TokenSettings(
        load_tokenizer(settings.tokenizer),
        settings.template,
        settings.append_eos,
        settings.length_limit,
        settings.max_tokens,
    )
    plan = _preflight(files, settings)
    decisive = {k: v for k, v in vars(settings).items() if k not in ("files", "tokenizer", "max_bad_share", "mapping")}
    config_hash = stage_hash(decisive, dict(settings.mapping), parents, _fingerprint(tokens), plan.shape.name)
    place = (f"logged/{settings.name}", settings.generation)
    with TableWriters(store, *place, plan.tables, config_hash, parents, replace) as writers:
        if not writers.all_committed:
            shards, rows = _write_shards(files, plan, settings, tokens, writers)
            summary = summarize(writers.read, shards, rows, plan.wants_reward)
            _stop_if_too_bad(summary, writers, shards, settings)
            stats = summary | {"shape": plan.shape.name, "seconds": time.monotonic() - started}
            writers.commit(shards, stats, tokenizer_info(tokens.tokenizer))
        skipped = writers.all_committed_before
    manifest = store.partition(place[0], "rollouts", place[1]).manifest()
    return ImportReport(manifest, dict(plan.shape.fields), skipped, time.monotonic() - started)


def _fingerprint(tokens: TokenSettings) -> str:
    """Names the tokenizer by what it does, wherever its folder lies."""
    words: dict[str, int] = tokens.tokenizer.get_vocab()
    template = getattr(tokens.tokenizer, "chat_template", None) or ""
    return stage_hash(dict(sorted(words.items())), str(template), str(tokens.tokenizer.eos_token))


def _rows(files: Sequence[Path], settings: ImportSettings) -> Iterator[RawRow]:
    return chain.from_iterable(read_rows(path, settings.max_row_bytes) for path in files)


def _preflight(files: Sequence[Path], settings: ImportSettings) -> _Plan:
    """Look at the first rows. Raises TbrmError when none of them can be used."""
    head = list(islice(_rows(files, settings), _PREFLIGHT_ROWS))
    readable = [row for row in head if row.data]
    if not readable:
        told = f"; row {head[0].row}: {head[0].problem or 'no fields'}" if head else ""
        raise TbrmError(f"{', '.join(map(str, files))}: no readable row among the first {len(head)}{told}")
    shape = recognize(readable[0].data or {}, settings.mapping)
    found = [each for row in readable for each in candidates(row, shape, wants_reward=False)]
    good = [each for each in found if isinstance(each, Candidate)]
    if not good:
        bad = next(each for each in found if isinstance(each, Bad))
        raise TbrmError(
            f"none of the first {len(readable)} rows can be used. {bad.file} row {bad.row}, field {bad.field!r}: "
            f"{bad.reason}. Fields are read as {dict(shape.fields)}; choose others with --map"
        )
    return _Plan(shape, any(each.reward is not None for each in good), good[0].tokenizer)


def _write_shards(
    files: Sequence[Path], plan: _Plan, settings: ImportSettings, tokens: TokenSettings, writers: TableWriters
) -> tuple[int, int]:
    """Write every missing shard; returns (shards, source rows)."""
    rows = _rows(files, settings)
    seen = Seen()
    shards = total = first = 0
    place = (f"logged/{settings.name}", settings.generation, settings.policy)
    with track(f"import {settings.name}", 0, "rows") as progress:
        while raw := list(islice(rows, settings.rows_per_shard)):
            # Rows of finished shards are still compared: a later one may repeat them.
            digests = [row.digest if row.data is not None else None for row in raw]
            new = seen.first_times(digests) if settings.duplicates == "rows" else [True] * len(raw)
            if settings.duplicates == "responses" or not writers.is_done(shards):
                found = list(_trajectories(raw, new, plan, tokens))
                if settings.duplicates == "responses":
                    found = seen.drop_repeated(found)
                writers.write(shards, make_tables(found, first, *place))
            first += writers.read("rollouts", shards, ["sample_index"]).num_rows
            progress.advance(len(raw))
            shards, total = shards + 1, total + len(raw)
    return shards, total


def _trajectories(
    raw: Sequence[RawRow], new: Sequence[bool], plan: _Plan, tokens: TokenSettings
) -> Iterator[Tokenized | Bad]:
    for start in range(0, len(raw), _AT_A_TIME):
        found: list[Candidate | Bad] = []
        for row, is_new in zip(raw[start : start + _AT_A_TIME], new[start : start + _AT_A_TIME], strict=True):
            if not is_new:
                found.append(Bad(row.file, row.row, "", "duplicate: the same row stands earlier in the log"))
                continue
            found += [_same_tokenizer(each, plan) for each in candidates(row, plan.shape, plan.wants_reward)]
        yield from tokenize(found, tokens)


def _same_tokenizer(each: Candidate | Bad, plan: _Plan) -> Candidate | Bad:
    if isinstance(each, Bad) or each.tokenizer in (None, plan.tokenizer_name):
        return each
    reason = f"made with another tokenizer than the first row ({plan.tokenizer_name!r}): import them apart"
    return Bad(each.file, each.row, "tokenizer", reason, each.tokenizer)


def _stop_if_too_bad(summary: Mapping[str, Stat], writers: TableWriters, shards: int, settings: ImportSettings) -> None:
    bad, rows = int(summary["bad_rows"]), int(summary["rows"])
    if int(summary["trajectories"]) and bad <= settings.max_bad_share * rows:
        return
    quarantine = chain.from_iterable(writers.read("quarantine", index, None).to_pylist() for index in range(shards))
    lines = [f"  {r['file']} row {r['row']}, field {r['field']!r}: {r['reason']}" for r in islice(quarantine, 5)]
    raise TbrmError(
        f"{bad} of {rows} rows are bad ({bad / max(rows, 1):.1%}, --max-bad-share is {settings.max_bad_share:.1%}); "
        "nothing was committed. The first ones:\n" + "\n".join(lines)
    )
