"""One line of the doctor's findings."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["ok", "warning", "stop"]


@dataclass(frozen=True)
class Row:
    """`stop`: a run would fail by this. Whatever is not `ok` says in `next_step` what to do."""

    check: str
    state: State
    found: str
    next_step: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def will_stop(rows: Iterable[Row]) -> bool:
    """Whether one of the rows stops a run."""
    return any(row.state == "stop" for row in rows)
