"""What tells in a run's folder, from its first second, what the run is: options and a log.

`config.yaml` holds all options as they were resolved, `overrides.txt` those that were typed, one a
line, and `log.txt` what the program logged. A run that goes on writes the first two again.
"""

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from swa_bench.config.own_code import own_code
from swa_bench.config.schema import TrainConfig, to_dict
from swa_bench.errors import without_frames
from swa_bench.files import write_atomically
from swa_bench.results.foreign import read_file
from swa_bench.text import printable

CONFIG, OVERRIDES, LOG = "config.yaml", "overrides.txt", "log.txt"
DIFFERS = "# Differs from the published recipe in: "
LINE, TIME = "%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"

log = logging.getLogger(__name__)


def write_options(folder: Path, config: TrainConfig, differs: str) -> None:
    """Write config.yaml, headed by what differs, and overrides.txt if options were typed."""
    lines = [f"{DIFFERS}{differs or 'nothing'}"]
    for option, source in own_code(config).items():
        lines.append(printable(f"# {option} is in {source.file}, SHA-256 {source.sha256}"))
    lines.append(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))
    write_atomically(folder / CONFIG, "\n".join(lines).encode())
    if typed := _typed():
        write_atomically(folder / OVERRIDES, "".join(f"{one}\n" for one in typed).encode())


def _typed() -> list[str]:
    """The arguments of swa-train that do this job again; of a sweep, those of the job alone."""
    from hydra.core.hydra_config import HydraConfig  # which swa-status has no use for

    if not HydraConfig.initialized():
        return []
    hydra = HydraConfig.get()
    sources = hydra.runtime.config_sources
    folders = [source.path for source in sources if source.provider == "command-line"]
    return [*(f"--config-dir={folder}" for folder in folders), *hydra.overrides.task]


@dataclass(frozen=True)
class Options:
    """What config.yaml says: the run's length, and what differs from the published recipe."""

    epochs: int
    differs: str


def read_options(folder: Path) -> Options | None:
    """The options of a run, or None if they are not there, as of earlier versions, or damaged."""
    try:
        text = read_file(folder / CONFIG).decode()
    except (OSError, ValueError):
        return None
    differs = re.match(rf"{re.escape(DIFFERS)}(.*)\n", text)
    epochs = re.search(r"^epochs: (\d{1,18})$", text, re.MULTILINE)
    if not differs or not epochs:
        return None
    return Options(int(epochs[1]), printable("" if differs[1] == "nothing" else differs[1]))


@contextlib.contextmanager
def logged_in(folders: Sequence[Path]) -> Iterator[None]:
    """Add what is logged inside to log.txt in run folders, and the failure that ends it.

    A file that cannot be written is given up: it stops no run.
    """
    logger, handlers = logging.getLogger("swa_bench"), []
    for folder in folders:
        try:
            handlers.append(_Handler(folder / LOG, encoding="utf-8"))
        except OSError as error:
            log.warning("%s cannot be written: %s", folder / LOG, error.strerror)
    for handler in handlers:
        handler.note(logging.INFO, f"swa-train {' '.join(_typed())}")
        logger.addHandler(handler)
    try:
        yield
    except Exception as error:
        for handler in handlers:
            handler.note(logging.ERROR, str(without_frames(error)))
        raise
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            with contextlib.suppress(OSError):  # of a full disk
                handler.close()


class _Handler(logging.FileHandler):
    """A log file whose errors are nobody's business."""

    def __init__(self, path: Path, encoding: str) -> None:
        super().__init__(path, encoding=encoding, errors="backslashreplace")
        self.setFormatter(logging.Formatter(LINE, TIME))

    def note(self, level: int, text: str) -> None:
        """Write a line that is shown nowhere else."""
        name = logging.getLevelName(level)
        self.handle(logging.makeLogRecord({"levelno": level, "levelname": name, "msg": text}))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A full disk stops no run, and fills no terminal."""
