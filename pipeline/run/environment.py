"""Environment variables for the length of a block."""

import contextlib
import os
from collections.abc import Generator, Mapping


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Generator[None]:
    """Set `variables` for this process and for those that it starts inside the block; afterwards the old values come
    back."""
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
