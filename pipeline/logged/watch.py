"""A log that is still written: what a running trainer appends or adds becomes one generation after the other.

A part holds whole lines and whole files only, and is an import of its own. How far each file was read stands among the
statistics of the last part, so that a watch which was ended goes on there.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pipeline.errors import StoreError, TbrmError
from pipeline.logged.importer import import_files
from pipeline.logged.settings import SHARD_BYTES, ImportSettings
from pipeline.logged.sources import LogFile, NoLog, find_files, read_piece, without_half_a_line
from pipeline.logged.summary import WATCHED, ImportReport
from pipeline.store import Store

_LOOK_EVERY_S = 2.0
_COMMIT_EVERY_S = 30.0
"""What came waits no longer than this for more; one shard's worth does not wait."""
_PIECE = 2**20


@dataclass
class Watch:
    """How far the files of a log were read."""

    settings: ImportSettings
    store: Store
    taken: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """File -> its bytes and rows that are in the store."""
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    """At the last look. A file that is not read by lines is whole when it no longer grows."""

    def go_on(self) -> None:
        """Take up where an earlier watch ended. Raises StoreError where the data set was not made by one."""
        store, dataset = self.store, self.settings.dataset
        for generation in store.generations(dataset, "rollouts"):
            stats = store.partition(dataset, "rollouts", generation).manifest().stats
            if WATCHED not in stats:
                raise StoreError(
                    f"{dataset} generation {generation} was not made by --watch, so nobody knows how far its files "
                    "were read: choose another --name"
                )
            self.taken = {name: (size, rows) for name, (size, rows) in json.loads(str(stats[WATCHED])).items()}
            self.settings = replace(self.settings, generation=generation + 1)

    def look(self) -> list[LogFile]:
        """What came since the last part: whole lines, and whole files. Raises TbrmError for a file that shrank."""
        try:
            files = find_files(self.settings.files)
        except (NoLog, FileNotFoundError):  # nothing yet; or renamed by its writer between two calls
            return []
        found = [new for file in files if (new := self._new(file)) is not None]
        self.sizes = {file.name: file.end for file in files}
        return found

    def _new(self, file: LogFile) -> LogFile | None:
        size, rows = self.taken.get(file.name, (0, 0))
        if file.end < size:
            raise TbrmError(
                f"{file.name} has {file.end:,} bytes, and {size:,} of it were read: it was written anew. Watch the new "
                "file under another --name"
            )
        if file.end == size:
            return None
        if file.grows_by_lines:
            new = without_half_a_line(replace(file, start=size, rows_before=rows))
            return new if new.size else None
        if size:
            raise TbrmError(
                f"{file.name} was changed after it was read whole: --watch follows JSON lines that are appended, and "
                "new files. Import it under another --name"
            )
        return file if file.is_remote or self.sizes.get(file.name) == file.end else None

    def take(self, files: Sequence[LogFile]) -> ImportReport:
        """Import what came as one generation, and remember it. Raises TbrmError as an import does."""
        after = self.taken | {file.name: (file.end, file.rows_before + _lines(file)) for file in files}
        stats = {WATCHED: json.dumps(after, sort_keys=True)}
        report = import_files(self.settings, files, self.store, stats=stats)
        self.taken = after
        self.settings = replace(self.settings, generation=self.settings.generation + 1)
        return report


def _lines(file: LogFile) -> int:
    """Lines of what is read by lines."""
    if not file.grows_by_lines:
        return 0
    with read_piece(file) as raw:
        return sum(piece.count(b"\n") for piece in iter(lambda: raw.read(_PIECE), b""))


def run_watch(
    settings: ImportSettings,
    store: Store,
    until_idle_s: float | None,
    told: Callable[[ImportReport], object],
    look_every_s: float = _LOOK_EVERY_S,
    commit_every_s: float = _COMMIT_EVERY_S,
) -> int:
    """Import what comes until Ctrl-C, or until nothing came for `until_idle_s` seconds. Returns the number of parts.

    `told` gets the report of each. What came before the end is imported as well; half a line is left. Raises TbrmError
    where a part cannot be imported: the parts before it stay.
    """
    watch = Watch(settings, store)
    watch.go_on()
    parts = 0
    waiting_since: float | None = None
    changed, sizes = time.monotonic(), dict[str, int]()
    ended = False
    while not ended:
        try:
            new = watch.look()
            now = time.monotonic()
            if watch.sizes != sizes:
                changed, sizes = now, watch.sizes
            ended = until_idle_s is not None and now - changed >= until_idle_s
            waiting_since = (waiting_since or now) if new else None
            waited = waiting_since is not None and now - waiting_since >= commit_every_s
            if not (ended or waited or sum(file.size for file in new) >= SHARD_BYTES):
                time.sleep(look_every_s)
                continue
        except KeyboardInterrupt:
            ended, new = True, watch.look()
        if new:
            told(watch.take(new))
            parts, waiting_since = parts + 1, None
    return parts
