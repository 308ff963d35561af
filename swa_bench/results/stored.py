"""Checkpoints as files: their names, their size, and what the plan of a run knows them by.

A checkpoint's name holds the seed, the number of epochs done, the key of its state (see
config/identity.py) and the SHA-256 of its content: seed0-epoch0081-<key>-<sha256>.pt. In the middle
of an epoch it holds the steps done, too, and the key of the state after that epoch, which covers
its rates: seed0-epoch0081-step000123-<key>-<sha256>.pt. So names sort as the states follow.

A folder of checkpoints holds a file that marks it. Without it nothing in there counts towards
checkpoints.max_gb, nor is it deleted for that. A key depends on the images and the first weights,
whose digests stand in start-*.json beside the checkpoints, so that a plan need not make them.
"""

import contextlib
import json
import logging
import operator
import os
import re
import stat
from collections.abc import Container, Iterator
from pathlib import Path

from swa_bench.config.identity import digest
from swa_bench.config.own_code import source_file
from swa_bench.config.schema import TrainConfig, shaping, to_dict
from swa_bench.files import remove, write_atomically
from swa_bench.results.foreign import if_sound, parse_json, read_file
from swa_bench.results.record import checkpoint_folder

log = logging.getLogger(__name__)

MARKER = ".swa-checkpoints"
MARKED = b"swa-train deletes checkpoints here when all of them exceed checkpoints.max_gb.\n"
NAME = re.compile(
    r"seed\d+-epoch(?P<epoch>\d{4,})(-step(?P<step>\d{6,}))?"
    r"-(?P<key>[0-9a-f]{16})-[0-9a-f]{16}\.pt"
)


def stem_of(seed: int, epoch: int, step: int, key: str) -> str:
    """The name of a checkpoint without the digest of its content."""
    return f"seed{seed}-epoch{epoch:04d}{f'-step{step:06d}' * (step > 0)}-{key}"


def find_all(folder: Path, keys: Container[str]) -> dict[Path, tuple[int, int]]:
    """The files of states with these keys, in the order of these: epochs done, steps after them."""
    names = ((path, NAME.fullmatch(path.name)) for path in folder.glob("*.pt"))
    found = {
        path: (int(name["epoch"]), int(name["step"] or 0))
        for path, name in names
        if name and name["key"] in keys
    }
    return dict(sorted(found.items(), key=operator.itemgetter(1)))


def limit_size(results: Path, limit_bytes: float, keep: Container[Path | None]) -> int:
    """Delete checkpoints, none of `keep`, until all below a folder fit; return their bytes.

    Only this program's own files count and are deleted, in folders that it marked. Those that were
    not written or used for the longest time go first. The epochs that they would save are then
    trained again: no result is lost.
    """
    found = []
    for path in _checkpoints_below(results):
        with contextlib.suppress(FileNotFoundError):  # another run has just deleted it
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit_bytes:
            break
        if path not in keep and remove(path):
            log.info("checkpoints.max_gb=%g: deleted %s", limit_bytes / 1e9, path)
            total -= size
    return total


def _checkpoints_below(results: Path) -> Iterator[Path]:
    """What is named like a checkpoint, in marked folders; no link to a folder is followed."""
    for folder, _, names in os.walk(results):
        if MARKER in names:
            yield from (Path(folder) / name for name in names if NAME.fullmatch(name))


def _start_path(config: TrainConfig) -> Path:
    """The file of the digests of a run's start, named by what these depend on."""
    values = shaping(to_dict(config))
    source = source_file(config.model._target_)
    data = config.dataset
    depends = {
        "seed": config.seed,
        "init": config.init,
        "model": [values["model"][name] for name in ("_target_", "arguments")],
        "source": source and source.sha256,
        "dataset": values["dataset"] | {"root": None if data.is_published else data.root},
    }
    return checkpoint_folder(config) / f"start-{digest(depends)[:16]}.json"


def note_start(config: TrainConfig, data_sha256: str, initial_sha256: str) -> None:
    """Write the digests of a run's images and first weights beside its checkpoints."""
    known = (data_sha256, initial_sha256)
    if read_start(config) != known:
        write_atomically(_start_path(config), json.dumps(known).encode())


def read_start(config: TrainConfig) -> tuple[str, str] | None:
    """The digests of the images and the first weights of a run, if it was started before."""
    return if_sound(_parse_start, _start_path(config))


def _parse_start(path: Path) -> tuple[str, str]:
    data_sha256, initial_sha256 = map(str, list(parse_json(read_file(path))))
    return data_sha256, initial_sha256


def furthest(config: TrainConfig, keys: list[str]) -> tuple[int, int]:
    """Epochs and steps after them of the furthest stored state, given the keys from 0 epochs on."""
    return max(find_all(checkpoint_folder(config), keys[1:]).values(), default=(0, 0))
