"""A verifier whose module takes half a second of a processor to import, as one that imports torch would."""

import time
from collections.abc import Mapping
from typing import Any

while time.process_time() < 0.5:
    pass


def equal(response: str, answer: str, extra: Mapping[str, Any]) -> bool:
    return response == answer
