"""Environment variables for the length of a block."""

import contextlib
import os
from collections.abc import Generator, Mapping


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Generator[None]:
    """Set for this process and those that it starts inside; what was there before comes back."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
