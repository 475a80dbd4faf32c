"""One problem of a prompt set."""

from dataclasses import dataclass, field

from pydantic import JsonValue


@dataclass(frozen=True)
class Problem:
    """A question and its gold answer. `verifier` None means the experiment's own; `extra` is what a verifier needs."""

    id: str
    text: str
    answer: str
    source: str
    verifier: str | None = None
    extra: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])
