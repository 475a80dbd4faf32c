"""What OpenMP's library itself says about its settings, when it is loaded under OMP_DISPLAY_ENV."""

import os
import re

SAID_NOTHING = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY", "TBRM_CHOSEN")
"""Variables to unset for a test that is about our choice."""
DISPLAY = {"OMP_DISPLAY_ENV": "TRUE"}


def undecided() -> dict[str, str]:
    """This process's environment without a word about threads, and with the display on."""
    return {name: value for name, value in os.environ.items() if name not in SAID_NOTHING} | DISPLAY


def displayed(output: str) -> list[tuple[int, str]]:
    """(threads, wait policy) of each process that loaded the library and wrote to `output`; of one once per library."""
    blocks = re.findall(r"OPENMP DISPLAY ENVIRONMENT BEGIN(.*?)OPENMP DISPLAY ENVIRONMENT END", output, re.DOTALL)
    return [(int(_value("OMP_NUM_THREADS", block)), _value("OMP_WAIT_POLICY", block)) for block in blocks]


def _value(name: str, block: str) -> str:
    found = re.search(rf"{name} = '([^']*)'", block)
    assert found, block
    return found[1]
