"""What an import found: counted from the written shards, those of an earlier interrupted run included."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from pipeline.store import Manifest, Stat

pc: Any = pyarrow.compute  # its functions are made at import time, unseen by type checkers
Read = Callable[[str, int, Sequence[str] | None], pa.Table]
_REASON = "bad: "


@dataclass(frozen=True)
class ImportReport:
    """The outcome of an import. `manifest` is that of the rollouts; its stats hold the counts."""

    manifest: Manifest
    fields: Mapping[str, str]
    """Our field -> the log's field it was read from."""
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
        stats = {k: v for k, v in self.manifest.stats.items() if not k.startswith(_REASON)}
        shown = {"dataset": self.manifest.dataset, "generation": self.manifest.generation, "skipped": self.skipped}
        return {**shown, **stats, "bad": self.bad, "fields": dict(self.fields), "seconds": self.seconds}


def summarize(read: Read, shards: int, rows: int, rewards: bool) -> dict[str, Stat]:
    """Counts over all shards; one shard in memory at a time."""
    reasons: Counter[str] = Counter()
    engines: Counter[str] = Counter()
    finish: Counter[str] = Counter()
    bad_rows = tokens = trajectories = longest = 0
    reward_sum = 0.0
    columns = ["response_token_ids", "finish_reason", "sampling"]
    for index in range(shards):
        quarantine = read("quarantine", index, ["file", "row", "field", "reason"]).to_pylist()
        bad_rows += len({(row["file"], row["row"]) for row in quarantine})
        reasons.update(_kind(row["field"], row["reason"]) for row in quarantine)
        good = read("rollouts", index, columns)
        lengths = pc.list_value_length(good.column("response_token_ids")).to_numpy()
        trajectories += len(lengths)
        tokens += int(lengths.sum())
        longest = max(longest, int(np.max(lengths, initial=0)))
        engines.update(pc.struct_field(good.column("sampling"), "engine").to_pylist())
        finish.update(str(reason) for reason in good.column("finish_reason").to_pylist())
        if rewards:
            reward_sum += pc.sum(read("rewards", index, ["reward"]).column("reward")).as_py() or 0.0
    stats: dict[str, Stat] = {
        "rows": rows,
        "trajectories": trajectories,
        "bad_rows": bad_rows,
        "response_tokens": tokens,
        "max_response_tokens": longest,
    }
    stats |= {f"from {engine.removeprefix('log: ')}": count for engine, count in sorted(engines.items())}
    stats |= {f"finish {reason}": count for reason, count in sorted(finish.items())}
    stats |= {"reward_mean": reward_sum / max(trajectories, 1)} if rewards else {}
    return stats | {_REASON + reason: count for reason, count in reasons.most_common(50)}


def _kind(field: str, reason: str) -> str:
    """The reason without the numbers of one row."""
    words = "".join("#" if c.isdigit() else c for c in reason.split("\n")[0][:120])
    while "##" in words:
        words = words.replace("##", "#")
    return f"{field or 'row'}: {words}"
