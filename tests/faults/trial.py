"""One trial: an experiment of its own, a fault at a random instant, what came of it."""

import random
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.evidence import audit, changed, committed
from tests.faults.experiment import all_stages, run_loop, write_experiment
from tests.faults.process import Child, import_all, in_child, orphans

Work = Callable[[Callable[[str], None]], object]


@dataclass(frozen=True)
class Whole:
    """The undisturbed run: what it ends with, how long each stage takes, how many durable calls it makes."""

    digest: dict[str, str]
    seconds: dict[str, float]
    calls: int = 0


@dataclass
class Outcome:
    """A row of the campaign's table; `clean` is the conjunction of all that is asked for."""

    number: int
    kind: str
    how: str
    seed: str
    instant: str = ""
    detail: str = ""
    ended: str = ""
    message: str = ""
    remedies: list[str] = field(default_factory=list[str])
    names_cause: bool = False
    resumed: bool = False
    same_store: bool = False
    same_policy: bool = False
    committed_files: int = 0
    committed_changed: list[str] = field(default_factory=list[str])
    duplicates: int = 0
    orphans: list[str] = field(default_factory=list[str])
    different: list[str] = field(default_factory=list[str])
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        kept = not (self.committed_changed or self.duplicates or self.orphans)
        return self.names_cause and self.resumed and self.same_store and self.same_policy and kept

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"clean": self.clean}


class TooLate(Exception):
    """The run had ended before the fault: the trial has to be made again, with another instant."""


class Trial:
    """What every fault needs at hand."""

    def __init__(self, number: int, kind: str, seed: str, folder: Path, whole: Whole, known: Sequence[int]) -> None:
        self.folder, self.whole, self.known = folder, whole, known
        name = f"{seed}/{number}/{kind}"
        self.rng = random.Random(name)
        self.outcome = Outcome(number, kind, "forked", name)
        folder.mkdir(parents=True)
        self.root = str(folder / "data")
        self.yaml = write_experiment(folder)
        self.prepare: Callable[[], None] = lambda: None
        """Runs first in every process of this trial."""
        self.before: dict[str, str] = {}
        self.damaged = ""
        """The file that the fault itself changes."""

    def work(self, first: Callable[[], None] = lambda: None) -> Work:
        """The whole loop, after `prepare` and `first`."""

        def work(announce: Callable[[str], None]) -> None:
            self.prepare()
            first()
            run_loop(self.yaml, self.root, announce)

        return work

    def instant(self, stages: Sequence[str] | None = None) -> tuple[str, float]:
        """A stage (of these commands), and seconds after its beginning."""
        chosen = [f"{s} {g}" for s, g in all_stages() if stages is None or s in stages]
        stage = self.rng.choice(chosen)
        delay = self.rng.uniform(0.0, self.whole.seconds[stage])
        self.outcome.instant = f"{delay:.3f} s after the start of {stage}"
        return stage, delay

    def strike(
        self,
        inject: Callable[[Child], object],
        first: Callable[[], None] = lambda: None,
        stages: Sequence[str] | None = None,
    ) -> Child:
        """Start the loop, `inject` at a random instant while the process is stopped, and wait for its end."""
        child = Child(self.folder / "disturbed", self.work(first))
        if not child.wait_for(*self.instant(stages)):
            raise TooLate
        child.freeze()
        if child.poll() is not None:
            raise TooLate
        self.note_committed()
        inject(child)
        child.thaw()
        child.wait()
        self.ended(child)
        return child

    def note_committed(self) -> None:
        self.before = self.aside(lambda: committed(self.root))
        self.outcome.committed_files = len(self.before)

    def ended(self, child: Child) -> None:
        code = child.wait()
        self.outcome.ended = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit status {code}"
        self.outcome.message = "" if code == 0 else re.sub(r"\s+", " ", child.message())[-600:]

    def named(self, child: Child, pattern: str, signals: Sequence[int] = ()) -> None:
        """The failure must say `pattern`; one of `signals` says it all, and so does a run that came through."""
        code = child.wait()
        said = re.search(pattern, child.message() + child.log.read_text(errors="replace"))
        self.outcome.names_cause = code == 0 or -code in signals or said is not None

    def aside(self, work: Callable[[], Any]) -> Any:
        """`work` in a process of its own, with this trial's surroundings."""

        def prepared() -> Any:
            self.prepare()
            return work()

        return in_child(self.folder / "aside", prepared) if self.root.startswith("s3:") else work()

    def resume(self) -> Child:
        """Run the loop again to its end."""
        child = Child(self.folder / "resumed", self.work())
        self.outcome.resumed = child.wait() == 0
        if not self.outcome.resumed:
            self.outcome.different = [f"the resumed run: {child.message()[-600:]}"]
        return child

    def judge(self) -> Outcome:
        """Compare with the undisturbed run, once everything is over."""
        outcome = self.outcome
        remade = "replace" in outcome.remedies

        def look() -> Any:
            self.prepare()
            return audit(self.root) | {"changed": changed(self.before, self.root, self.damaged, remade)}

        found = in_child(self.folder / "judged", look)
        digest: dict[str, str] = found["digest"]
        names = sorted({*digest, *self.whole.digest})
        if self.root.startswith("s3:"):  # what is not published stays in the machine's mirror
            names = [name for name in names if "/base_policy/base/" not in name]
        wrong = [name for name in names if digest.get(name) != self.whole.digest.get(name)]
        outcome.different += wrong[:8] + found["damage"]
        outcome.same_policy = not any("policy" in name for name in wrong)
        outcome.same_store = not any("policy" not in name for name in wrong) and not found["damage"]
        outcome.committed_changed = found["changed"]
        outcome.duplicates = found["duplicates"]
        outcome.orphans = orphans(self.known)
        return outcome


def _counted_run(here: Path) -> tuple[Child, int]:
    from tests.faults.kills import counted

    yaml_path, root, count = write_experiment(here), str(here / "data"), here / "calls"

    def work(announce: Callable[[str], None]) -> None:
        with counted(count):
            run_loop(yaml_path, root, announce)
        loaded.write_text("\n".join(sys.modules), encoding="utf-8")

    loaded = here / "modules"
    child = Child(here / "run", work)
    code = child.wait()
    assert code == 0, child.message() + child.log.read_text()[-3000:]
    import_all(loaded.read_text().splitlines())
    return child, int(count.read_text())


def undisturbed(folder: Path) -> Whole:
    """Run the loop without a fault, twice: all must be equal, and the second run gives the seconds."""
    digests: list[dict[str, str]] = []
    seconds: dict[str, float] = {}
    calls = 0
    for turn in ("first", "second"):
        here = folder / turn
        child, calls = _counted_run(here)
        times = list(child.times().items())
        ends = [at for _, at in times[1:]] + [time.monotonic()]
        seconds = {stage: end - at for (stage, at), end in zip(times, ends, strict=True)}
        digests.append(in_child(here / "judged", partial(audit, str(here / "data")))["digest"])
    wrong = [name for name in digests[0] if digests[0][name] != digests[1].get(name)]
    assert not wrong, f"two undisturbed runs differ: {wrong}"
    return Whole(digests[0], seconds, calls)
