"""YAML made to take long: what can be read is read in linear time, the rest is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.load import build_experiment, read_yaml
from pipeline.errors import ConfigError
from tests.support.growth import exponent

LINEAR = 1.5  # between a line and a square
SHAPES: dict[str, tuple[Callable[[int], str], int]] = {
    "keys": (lambda n: "".join(f"k{i}: 1\n" for i in range(n)), 400),
    "keys inside": (lambda n: "a: {" + ",".join(f"k{i}: 1" for i in range(n)) + "}\n", 400),
    "a set": (lambda n: "a: !!set {" + ",".join(f"k{i}" for i in range(n)) + "}\n", 400),
    "a list": (lambda n: "a: [" + "1," * n + "]\n", 300),
    "lines of text": (lambda n: "a: |\n" + "  x\n" * n, 4_000),
    "quotes": (lambda n: "a: '" + "''" * n + "'\n", 10_000),
    "comments": (lambda n: "# x\n" * n + "a: 1\n", 4_000),
    "a number of base 60": (lambda n: "seed: 1" + ":1" * n + "\n", 2_000),
}


@pytest.mark.parametrize("name", list(SHAPES))
def test_time_is_linear(tmp_path: Path, name: str) -> None:
    make, small = SHAPES[name]
    path = tmp_path / "experiment.yaml"

    def read(text: str) -> None:
        path.write_text(text)
        try:
            build_experiment(read_yaml(path), "test")
        except ConfigError:
            return
        pytest.fail("none of these is an experiment")

    assert exponent(make, read, small) < LINEAR


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1" + ":1" * 50, "base 60"),
        ("seed: 1:1.5", "base 60"),
        ("seed: 0x" + "f" * 5_000, "5,002 digits"),
        ("seed: " + "9" * 400, "400 digits"),
        (f"{2**61 - 1}: a", "no text"),
        ("? [a]\n: b", "no text"),
        ("a: " + "[" * 70 + "]" * 70, "levels of nesting"),
        ("[" * 500_000, "levels of nesting"),
        ("a: {b: 1, b: 2}", "'b' stands twice"),
    ],
    ids=lambda value: value[:30],
)
def test_what_is_refused_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "e.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_yaml(tmp_path / "e.yaml")


def test_thousands_of_wrong_fields_are_not_all_listed() -> None:
    with pytest.raises(ConfigError) as error:
        build_experiment({f"k{i}": 1 for i in range(5_000)}, "here.yaml")
    assert "more" in str(error.value)
    assert len(str(error.value)) < 5_000
