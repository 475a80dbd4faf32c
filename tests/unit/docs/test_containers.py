"""The container files name what is there: extras of pyproject.toml, and files that the build may see."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("name", ["Containerfile", "Containerfile.cuda"])
def test_a_container_file_names_what_is_there(name: str) -> None:
    text = (ROOT / "scripts" / name).read_text()
    seen = (ROOT / "scripts" / f"{name}.dockerignore").read_text().splitlines()
    copied = [path for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for path in line.split()]
    assert copied
    for path in copied:
        assert (ROOT / path).exists()
        assert f"!{path}" in seen
    (asked,) = re.findall(r"\'\.\[(.*)\]\'", text)
    assert set(asked.split(",")) <= set(EXTRAS)
