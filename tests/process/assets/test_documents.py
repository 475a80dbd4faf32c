"""--json: one document on standard output, whatever else the command, its libraries and its children write there."""

import json
import subprocess
import sys

NOISY = """
import os, subprocess, sys
import click
from pipeline.cli.options import json_option, print_json

@click.command()
@json_option
def noisy(as_json):
    print("a library prints")
    os.write(1, b"and writes to the descriptor\\n")
    subprocess.run(["echo", "so does a child"])
    print_json({"é": [1.5, None]}) if as_json else click.echo("done")
    print("and again")

noisy()
"""


def test_only_the_document_reaches_standard_output() -> None:
    command = [sys.executable, "-c", NOISY]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"é": [1.5, None]}
    assert done.stdout.count("\n") == 1
    for line in ("a library prints", "and writes to the descriptor", "so does a child", "and again"):
        assert line in done.stderr
    plain = subprocess.run(command, capture_output=True, text=True, check=True)
    assert plain.stdout.splitlines()[-2:] == ["done", "and again"]
    assert plain.stderr == ""
