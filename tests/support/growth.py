"""How the cost of something grows with the size of what it is given."""

import math
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_REPEATS = 2


def exponent(make: Callable[[int], T], run: Callable[[T], object], small: int, times: int = 8) -> float:
    """k where the processor time of `run(make(n))` grows as n^k, between `small` and `times` that.

    The least of a few runs each: other processes only ever make one slower. A square shows as 2 and a line as 1; noise
    moves either by a few tenths, so that a bound in the middle tells them apart on a busy machine too.
    """
    return math.log(_seconds(make(small * times), run) / _seconds(make(small), run), times)


def _seconds(given: T, run: Callable[[T], object]) -> float:
    found: list[float] = []
    for _ in range(_REPEATS):
        begun = time.thread_time()
        run(given)
        found.append(time.thread_time() - begun)
    return min(found)
