"""The work of a stage, cut into shards: made one after another on this machine, or by the workers of a Ray cluster."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pyarrow as pa

Advance = Callable[[int], None]
"""Called with the number of rows that are ready since the last call, by work that makes them one after another."""
Make = Callable[[int, Advance], pa.Table]
"""The function of a shard: its rows, by its number. The same shard gives the same rows on every machine of a kind."""
Start = Callable[[], AbstractContextManager[Make]]
"""Starts what makes shards, where it runs: loads a model, or starts an engine or grading workers. Leaving the context
gives memory and processes back."""
