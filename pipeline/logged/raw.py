"""One row of a log as it stands in its file, and what may be wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEFT_OUT = "left out: "
"""So begin the reasons of rows that are no trajectory and nobody's mistake: they are kept apart from bad rows."""
DUPLICATE = "duplicate: "
PER_TOKEN = frozenset(
    (
        *(
            "prompt_token_ids",
            "response_token_ids",
            "prompt_ids",
            "completion_ids",
            "response_ids",
            "prompt_tokens",
            "response_tokens",
            "token_ids",
            "tokens",
            "input_ids",
            "labels",
            "sampled_tokens",
            "generation_token_ids",
            "input_tokens",
            "output_tokens",
        ),
        *(
            "prompt_mask",
            "response_mask",
            "completion_mask",
            "loss_mask",
            "action_mask",
            "token_loss_mask",
            "mask",
            "masks",
        ),
        *(
            "logprobs",
            "behavior_logprobs",
            "response_logprobs",
            "old_log_probs",
            "rollout_log_probs",
            "completion_logprobs",
            "generation_logprobs",
            "generation_log_probs",
            "inference_logprobs",
            "prompt_logprobs",
            "prev_logprobs",
            "trainer_logprobs",
            "token_logprobs",
            "advantages",
            "position_ids",
        ),
    )
)
"""Names of fields that hold a number for each token. Long lists of numbers there are arrays, and lists elsewhere."""
_MAX_SHOWN, _MAX_NAME, _MAX_REASON = 200, 80, 500


class BadField(Exception):
    """A value that no trajectory can be made of."""

    def __init__(self, field: str, reason: str, value: object = None) -> None:
        super().__init__(reason)
        self.field, self.reason = _storable(field, _MAX_NAME), _storable(reason, _MAX_REASON)
        self.value = None if value is None else _storable(repr(value), _MAX_SHOWN)


def _storable(text: str, most: int) -> str:
    """The beginning of a text that a log may have made up, as Unicode that a file can hold."""
    return text[:most].encode("utf-8", "backslashreplace").decode()


class LeftOut(BadField):
    """A row that its own log marks as no trajectory to learn from, such as a failed request."""

    def __init__(self, field: str, reason: str, value: object = None) -> None:
        super().__init__(field, LEFT_OUT + reason, value)


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row of a log. Exactly one of `data` and `problem` is set."""

    file: str
    row: int
    """1-based; the line number in JSONL and CSV files."""
    data: Mapping[str, Any] | None
    problem: str | None
    digest: int
    """Hash of the row as it stands in the log; equal rows have equal digests."""
    size: int
    """Bytes that were read for it; in columnar files those of its values, spelled out."""
    text_cells: bool = False
    """Every value is text, as CSV has it: numbers and lists are parsed where a field needs them."""


def too_large(file: str, row: int, size: float, limit: int, read: int) -> RawRow:
    """A row of `size` bytes that is not looked at, though `read` bytes of it were read to get past it.

    It takes no part in the comparison of rows: its digest is its place.
    """
    problem = f"the row has {size / 2**20:.1f} MiB, more than --max-row-mb {limit / 2**20:g}"
    return RawRow(file, row, None, problem, row, read)
