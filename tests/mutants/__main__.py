"""Plant small defects, one at a time, in a copy of the tree, and see which the tests find.

    python -m tests.mutants --defects 100 --seed 1

Writes build/mutants/seed-1.json, after every defect; started again it goes on. A hang counts as found. What is left is
either tested or marked there by hand as `"equivalent": "<reason>"`. For each defect only those test files run that
execute its line. `--tier process --tests tests/process/store` runs those files whole against what no tier before found.

mutmut has neither defects outside functions nor a random choice; cosmic-ray starts a process for each defect, which
imports torch again.
"""

import hashlib
import json
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from tests.mutants.sessions import Ended, Session, copy_of_tree, import_heavy, run_sessions
from tests.mutants.sites import ROOMS, Site, defect_sites, planted

TREE = Path(__file__).resolve().parents[2]
BUILD = TREE / "build" / "mutants"
Defect = dict[str, Any]


@click.command()
@click.option("--defects", default=100, show_default=True, help="How many.")
@click.option("--seed", default=1, show_default=True, help="Of their choice.")
@click.option("--rooms", default=",".join(ROOMS), show_default=True, help="Folders or files to plant them in.")
@click.option("--tier", default="unit", show_default=True, help="The name under which the finds are kept.")
@click.option("--tests", "paths", multiple=True, help="Test files or folders. Default: tests/unit.")
@click.option("--again", is_flag=True, help="Try again what this tier has not found.")
@click.option("--jobs", default=2, show_default=True, help="Sessions side by side.")
@click.option("--limit", default=600, show_default=True, help="Seconds for one defect where test files run whole.")
def main(
    defects: int, seed: int, rooms: str, tier: str, paths: tuple[str, ...], again: bool, jobs: int, limit: int
) -> None:
    """Plant small defects and count what the tests find."""
    import_heavy()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    known = {site.place: site for site in defect_sites(TREE) if site.file.startswith(tuple(rooms.split(",")))}
    out = BUILD / f"seed-{seed}.json"
    chosen: list[Defect] = json.loads(out.read_text()) if out.exists() else _choose(list(known.values()), defects, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    open_ = [d for d in chosen if not any(d["found"].values()) and not d.get("equivalent")]
    with tempfile.TemporaryDirectory(prefix="tbrm-mutants-") as scratch:
        copies = [copy_of_tree(TREE, Path(scratch) / f"tree{job}") for job in range(jobs)]
        files = _test_files(paths or ("tests/unit",))
        covered = _executed_lines(copies, files) if not paths else None
        todo = [d for d in open_ if d["place"] in known and (again or tier not in d["found"])]
        click.echo(f"{len(todo)} of {len(chosen)} to try")
        free, by_place = list(copies), {d["place"]: d for d in todo}
        used: dict[str, Path] = {}

        def sessions() -> Iterator[Session]:
            for place in by_place:
                site, tests, seconds = known[place], files, float(limit)
                if covered is not None:
                    tests, seconds = _tests_of(site, covered)
                if not tests:
                    by_place[place]["found"][tier] = ""
                    click.echo(f"-  no test runs it: {place}")
                    continue
                folder = used[place] = free.pop()
                (folder / site.file).write_bytes(planted((TREE / site.file).read_bytes(), site))
                yield Session(place, folder, tests, seconds)

        def done(session: Session, ended: Ended) -> None:
            site = known[session.name]
            (session.folder / site.file).write_bytes((TREE / site.file).read_bytes())
            free.append(used.pop(session.name))
            by_place[session.name]["found"][tier] = ended.failed
            click.echo(f"{'+' if ended.failed else '-'}  {ended.seconds:.1f} s: {session.name}: {ended.failed}")
            _write(out, chosen)

        run_sessions(jobs, sessions(), done)
    _write(out, chosen)
    click.echo(summary(chosen))


def summary(chosen: list[Defect]) -> str:
    """Lines `room: of how many each tier found`; a tier counts what an earlier one found as well."""
    tiers = list(dict.fromkeys(tier for d in chosen for tier in d["found"]))
    lines: list[str] = []
    for room in [*dict.fromkeys(d["room"] for d in sorted(chosen, key=lambda d: d["room"])), ""]:
        of_room = [d for d in chosen if d["room"] == room or not room]
        equal = sum(bool(d.get("equivalent")) for d in of_room)
        found = Counter(
            t for d in of_room for i, t in enumerate(tiers) if any(d["found"].get(x) for x in tiers[: i + 1])
        )
        counts = ", ".join(f"{tier} {found[tier]}" for tier in tiers)
        lines.append(
            f"{room or 'all':24} {len(of_room) - equal:4}: {counts}" + (f" ({equal} equivalent)" if equal else "")
        )
    return "\n".join(lines)


def _choose(sites: list[Site], count: int, seed: int) -> list[Defect]:
    chosen = random.Random(seed).sample(sites, min(count, len(sites)))
    return [
        {"place": s.place, "line": s.line, "room": _room(s.file), "found": {}}
        for s in sorted(chosen, key=lambda s: s.place)
    ]


def _room(file: str) -> str:
    parts = Path(file).parts
    return "/".join(parts[:2]) if parts[0] == "pipeline" and len(parts) > 2 else parts[0]


def _write(out: Path, chosen: list[Defect]) -> None:
    new = out.with_suffix(".new")
    new.write_text(json.dumps(chosen, indent=1, ensure_ascii=False) + "\n")
    new.rename(out)


def _test_files(paths: tuple[str, ...]) -> list[str]:
    found = [f for p in paths for f in ([TREE / p] if p.endswith(".py") else sorted((TREE / p).rglob("test_*.py")))]
    return [f.relative_to(TREE).as_posix() for f in found]


Covered = dict[str, tuple[float, dict[str, list[int]]]]


def _executed_lines(copies: list[Path], files: list[str]) -> Covered:
    """Of each test file: its seconds and the lines of the product that it executes. Kept while neither changes."""
    kept = BUILD / "lines.json"
    before: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    product = hashlib.sha256()
    for path in sorted(path for room in ROOMS for path in (TREE / room).rglob("*.py")):
        product.update(path.read_bytes())
    helpers = b"".join(p.read_bytes() for p in sorted((TREE / "tests" / "unit").rglob("*.py")) if "test_" not in p.name)
    covered: dict[str, Any] = {}
    keys = {f: hashlib.sha256(product.digest() + helpers + (TREE / f).read_bytes()).hexdigest() for f in files}
    covered |= {f: before[f] for f in files if f in before and before[f]["key"] == keys[f]}
    failing: list[str] = []

    def done(session: Session, ended: Ended) -> None:
        if ended.failed:
            failing.append(f"{session.name}: {ended.failed}")
        covered[session.name] = {"key": keys[session.name], "seconds": ended.seconds, "lines": ended.lines}
        click.echo(f"   {ended.seconds:.1f} s: {session.name}")

    new = (Session(file, copies[0], [file], 900, lines=True) for file in files if file not in covered)
    run_sessions(len(copies), new, done)
    if failing:
        sys.exit("these fail without any defect:\n" + "\n".join(failing))
    kept.write_text(json.dumps(covered))
    return {file: (one["seconds"], one["lines"]) for file, one in covered.items()}


def _tests_of(site: Site, covered: Covered) -> tuple[list[str], float]:
    """The test files that execute its statement, those of its room first, then the quickest; and a limit in seconds."""
    lines = set(range(site.first_line, site.last_line + 1))
    files = [f for f, (_, by_file) in covered.items() if lines.intersection(by_file.get(site.file, ()))]
    files.sort(key=lambda f: (not set(Path(f).parts) & set(Path(site.file).parts), covered[f][0]))
    return files, 60 + 5 * sum(covered[f][0] for f in files)


if __name__ == "__main__":
    main()
