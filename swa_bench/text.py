"""Text that can be printed anywhere: it stays on its line and keeps its direction."""

import re
from typing import Any

# Control codes, ends of lines and paragraphs, overrides of direction, and halves of characters.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
DEEPEST = 50  # levels of nested values; records have five


def check_printable(value: Any, name: str = "", depth: int = 0) -> None:
    """Check all strings of nested values; ValueError for control characters, or deep nesting."""
    if depth > DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, str) and CONTROL.search(value):
        raise ValueError(f"{name or 'it'} holds a control character")
    if isinstance(value, dict):
        for key, inner in value.items():
            check_printable(key, f"a key of {name or 'it'}")
            check_printable(inner, f"{name}.{key}" if name else str(key), depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_printable(inner, name, depth + 1)


def printable(value: Any) -> Any:
    """The same nested plain values with a replacement character for what cannot be printed."""
    if isinstance(value, str):
        return CONTROL.sub("\ufffd", value)
    if isinstance(value, dict):
        return {printable(key): printable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [printable(inner) for inner in value]
    return value
