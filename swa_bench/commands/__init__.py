"""The console scripts: arguments and printing only."""

import contextlib
import sys
from collections.abc import Iterator

from swa_bench.errors import SwaBenchError


@contextlib.contextmanager
def errors_in_one_line(command: str) -> Iterator[None]:
    """End the command with a line instead of a traceback."""
    try:
        yield
    except SwaBenchError as error:
        sys.exit(f"{command}: {error}")
