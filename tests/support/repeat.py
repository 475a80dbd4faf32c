"""The last lines of a failing run: what failed, why, and the command that repeats it alone."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

_SHOWN = 8
"""Failures with their reason: three lines each, so that all of it fits into thirty."""
_WIDTH = 160


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    failed = [*terminalreporter.getreports("failed"), *terminalreporter.getreports("error")]
    if failed:
        terminalreporter.section("what failed, and how to repeat it alone")
        for line in _lines(failed):
            terminalreporter.write_line(line)


def _lines(failed: list[Any]) -> list[str]:
    python = _shown(Path(sys.executable))
    lines = list[str]()
    for report in failed[:_SHOWN]:
        name = _without_group(report.nodeid)
        lines.append(f"{name.replace(chr(10), ' ')[:_WIDTH]}{'' if report.when == 'call' else f' ({report.when})'}")
        lines.append(f"    {_reason(report)[:_WIDTH]}")
        lines.append(f"    {python} -m pytest {shlex.quote(name)}")
    if len(failed) > _SHOWN:
        lines.append(f"and {len(failed) - _SHOWN} more; all that failed, again: {python} -m pytest --last-failed")
    return lines


def _without_group(nodeid: str) -> str:
    """pytest-xdist appends `@group` to the names of grouped tests; parameters, which may hold an @, end with `]`."""
    return re.sub(r"@[^\]@]*$", "", nodeid)


def _reason(report: Any) -> str:
    """First line of what was raised, and where."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:  # a worker that died, a file that cannot be imported
        text = str(report.longrepr).strip().splitlines()
        return text[-1] if text else "no reason was given"
    message = crash.message.splitlines()
    return f"{_shown(Path(crash.path))}:{crash.lineno}: {message[0] if message else ''}"


def _shown(path: Path) -> str:
    """Relative to the current folder where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
