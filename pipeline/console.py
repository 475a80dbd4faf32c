"""Tables and trees on a terminal, of strings that come out of logs, models and manifests."""

from typing import Any

from rich.console import Console
from rich.text import Text

from pipeline.terminal import visible


class PlainConsole(Console):
    """A rich console to which every string is plain text, wherever it stands: in a cell, a title, a column's name.

    Square brackets are no markup, `:x:` is no emoji, and control characters are written out (`visible`). Colours come
    from `rich.text.Text`; the caller makes its content visible.
    """

    def render_str(self, text: str, **options: Any) -> Text:  # pyright: ignore[reportIncompatibleMethodOverride]
        plain: dict[str, Any] = options | {"markup": False, "emoji": False}
        return super().render_str(visible(text), **plain)
