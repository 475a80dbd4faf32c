"""Text that models, logs and manifests wrote, on a terminal: no control sequence in it may reach the terminal."""

import unicodedata

_KEPT = "\n\t"


def visible(text: str) -> str:
    """`text` with control, format and private characters (escape sequences, direction overrides) written out.

    Rich markup is not escaped: print the result with `markup=False`, as `rich.text.Text`, or on a PlainConsole.
    """
    return "".join(c if c in _KEPT or not _is_hidden(c) else _written(c) for c in text)


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs")


def _written(character: str) -> str:
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"
