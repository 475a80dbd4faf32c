"""docs/dependencies.md has a line for each package that is declared, and for each extra."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = ("all", "dev")
"""Extras that add to the others nothing that a user runs."""


def test_each_package_and_each_extra_has_its_line() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    listed = re.findall(r"^\| ([\w-]+) \| .* \| .* \| [\d-]+ \| [\d.-]+ \|$", page, re.MULTILINE)
    extras = PROJECT["optional-dependencies"]
    declared = [*PROJECT["dependencies"], *(line for name in extras if name not in OURS for line in extras[name])]
    assert sorted(listed) == sorted({Requirement(line).name for line in declared})
    told = {
        name for cell in re.findall(r"^\| (`[^|]*`) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    }
    assert told == set(extras)
