"""What an import found: counted from the written shards, those of an earlier interrupted run included."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from pipeline.logged.raw import DUPLICATE, LEFT_OUT
from pipeline.store import Manifest, Stat

pc: Any = pyarrow.compute  # its functions are made at import time, unseen by type checkers
Read = Callable[[str, int, Sequence[str] | None], pa.Table]
_REASON = "bad: "
WATCHED = "watched"
"""The statistic of a part of a watched log that says how far each file was read: JSON, name -> [bytes, rows]."""
_MOST_NAMES, _MAX_NAME = 50, 80


@dataclass(frozen=True)
class ImportReport:
    """The outcome of an import. `manifest` is that of the rollouts; its stats hold the counts."""

    manifest: Manifest
    fields: Mapping[str, str]
    """Our field -> the log's field it was read from."""
    lacks: Sequence[str]
    """What the log does not hold, and what that rules out."""
    first: Sequence[str]
    """The first rows as they were read."""
    skipped: bool
    seconds: float

    @property
    def bad(self) -> dict[str, int]:
        """Reason (with its field) -> bad rows, most frequent first."""
        stats = self.manifest.stats
        found = {k.removeprefix(_REASON): int(v) for k, v in stats.items() if k.startswith(_REASON)}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def to_json(self) -> dict[str, object]:
        """For programs and for the data set's asset."""
        stats = {k: v for k, v in self.manifest.stats.items() if not k.startswith((_REASON, WATCHED))}
        shown = {"dataset": self.manifest.dataset, "generation": self.manifest.generation, "skipped": self.skipped}
        told = {"bad": self.bad, "fields": dict(self.fields), "lacks": list(self.lacks)}
        return {**shown, **stats, **told, "seconds": self.seconds}


class Summary:
    """Counts over the shards of an import, added up one shard at a time."""

    def __init__(self, rewards: bool) -> None:
        self._rewards = rewards
        self._reasons: Counter[str] = Counter()
        self._engines: Counter[str] = Counter()
        self._finish: Counter[str] = Counter()
        self._tokens = self._longest = 0
        self._reward_sum = 0.0
        self.rows = self.bad_rows = self.repeated_rows = self.left_out_rows = self.trajectories = 0

    @property
    def unused_rows(self) -> int:
        """Rows of the log that gave something to the quarantine."""
        return self.bad_rows + self.repeated_rows + self.left_out_rows

    def add(self, read: Read, shard: int, source_rows: int) -> None:
        """Count a written shard of `source_rows` source rows."""
        quarantine = read("quarantine", shard, ["file", "row", "field", "reason"])
        self.rows += source_rows
        reasons = quarantine.column("reason")
        repeated, left_out = (pc.starts_with(reasons, begin) for begin in (DUPLICATE, LEFT_OUT))
        kinds = (pc.invert(pc.or_(repeated, left_out)), repeated, left_out)
        counts = [quarantine.filter(kind).group_by(["file", "row"]).aggregate([]).num_rows for kind in kinds]
        self.bad_rows += counts[0]
        self.repeated_rows += counts[1]
        self.left_out_rows += counts[2]
        kinds = quarantine.group_by(["field", "reason"]).aggregate([([], "count_all")]).to_pylist()
        for kind in kinds:
            _count(self._reasons, _kind(kind["field"], kind["reason"]), kind["count_all"])
        good = read("rollouts", shard, ["response_token_ids", "finish_reason", "sampling"])
        lengths = pc.list_value_length(good.column("response_token_ids")).to_numpy()
        self.trajectories += len(lengths)
        self._tokens += int(lengths.sum())
        self._longest = max(self._longest, int(np.max(lengths, initial=0)))
        self._engines.update(pc.struct_field(good.column("sampling"), "engine").to_pylist())
        for reason, rows in Counter(good.column("finish_reason").to_pylist()).items():
            _count(self._finish, str(reason)[:_MAX_NAME], rows)
        if self._rewards:
            self._reward_sum += pc.sum(read("rewards", shard, ["reward"]).column("reward")).as_py() or 0.0

    def stats(self) -> dict[str, Stat]:
        stats: dict[str, Stat] = {
            "rows": self.rows,
            "trajectories": self.trajectories,
            "bad_rows": self.bad_rows,
            "repeated_rows": self.repeated_rows,
            "left_out_rows": self.left_out_rows,
            "response_tokens": self._tokens,
            "max_response_tokens": self._longest,
        }
        stats |= {f"from {engine.removeprefix('log: ')}": count for engine, count in sorted(self._engines.items())}
        stats |= {f"finish {reason}": count for reason, count in sorted(self._finish.items())}
        stats |= {"reward_mean": self._reward_sum / max(self.trajectories, 1)} if self._rewards else {}
        return stats | {_REASON + reason: count for reason, count in self._reasons.most_common()}


def _count(counter: Counter[str], name: str, rows: int) -> None:
    """A log made to do harm can have a name of its own in every row: those beyond the first ones are counted as one."""
    counter[name if name in counter or len(counter) < _MOST_NAMES else "others"] += rows


def _kind(field: str, reason: str) -> str:
    """The reason without the numbers of one row."""
    words = "".join("#" if c.isdigit() else c for c in reason.split("\n")[0][:120])
    while "##" in words:
        words = words.replace("##", "#")
    return f"{field or 'row'}: {words}"
