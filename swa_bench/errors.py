"""Errors that a user can fix: one or two lines that say what is wrong and what would be right."""

from swa_bench.text import printable


class SwaBenchError(Exception):
    """Something went wrong outside the code: data, disk, training. Exit code 1."""

    exit_code = 1


class ConfigError(SwaBenchError):
    """A setting cannot be used. Exit code 2."""

    exit_code = 2

    def __init__(self, field: str, value: object, expected: str) -> None:
        if value is None or isinstance(value, bool):  # as YAML has it
            value = "null" if value is None else str(value).lower()
        super().__init__(printable(f"{field}={value}: ") + expected)


class Terminated(BaseException):
    """The process was asked to end, and has stored its state; no sweep goes on after it."""
