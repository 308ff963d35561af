"""The state of a run on disk: written atomically, found by its key, verified when it is read.

A checkpoint's name holds the seed, the number of epochs done, the key of its state (see
config/identity.py) and the SHA-256 of its content: seed0-epoch0081-<key>-<sha256>.pt. It holds
tensors, numbers and text only, and is read with weights_only=True, so that a foreign file cannot
run code.

A folder of checkpoints holds a file that marks it. Without it nothing in there counts towards
checkpoints.max_gb, nor is it deleted for that.
"""

import contextlib
import hashlib
import io
import logging
import os
import pickle
import re
import stat
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from swa_bench.errors import SwaBenchError
from swa_bench.files import remove, write_atomically
from swa_bench.training.states import State

log = logging.getLogger(__name__)

MARKER = ".swa-checkpoints"
MARKED = b"swa-train deletes checkpoints here when all of them exceed checkpoints.max_gb.\n"
NAME = re.compile(r"seed\d+-epoch\d{4,}-[0-9a-f]{16}-[0-9a-f]{16}\.pt")


def save(folder: Path, seed: int, key: str, state: State) -> Path:
    """Write a state and return its file; the same state written before is replaced.

    Raises:
        SwaBenchError: the file could not be written; earlier checkpoints are as they were.
    """
    buffer = io.BytesIO()
    torch.save(
        {
            "epoch": state.epoch,
            "model": state.model.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "predictors": {name: (one.n, one.kept) for name, one in state.predictors.items()},
            "rows": state.rows,
            "segments": state.segments,
        },
        buffer,
    )
    content = buffer.getvalue()
    sha256 = hashlib.sha256(content).hexdigest()[:16]
    path = folder / f"{_stem(seed, state.epoch, key)}-{sha256}.pt"
    if not (folder / MARKER).exists():
        write_atomically(folder / MARKER, MARKED)
    write_atomically(path, content)
    for same in find_all(folder, seed, {state.epoch: key}):
        if same != path:
            remove(same)
    return path


def _stem(seed: int, epoch: int, key: str) -> str:
    return f"seed{seed}-epoch{epoch:04d}-{key}"


def find_all(folder: Path, seed: int, keys: Mapping[int, str]) -> list[Path]:
    """The files of states, given the key of each number of epochs done."""
    stems = {_stem(seed, epoch, key) for epoch, key in keys.items()}
    return [path for path in folder.glob("*.pt") if path.stem.rsplit("-", 1)[0] in stems]


def limit_size(results: Path, limit_bytes: float, keep: Container[Path | None]) -> int:
    """Delete checkpoints until all below a folder fit into a limit; return the bytes they take.

    Only this program's own files count and are deleted, in folders that it marked. Those that were
    not written or used for the longest time go first. The epochs that they would save are then
    trained again: no result is lost.

    Args:
        keep: files that stay even so.
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


def load_newest(folder: Path, seed: int, keys: list[str], state: State) -> Path | None:
    """Fill `state` from the furthest sound checkpoint among keys[1:], and return its file.

    A damaged file is named in the log and passed over.

    Args:
        keys: the keys of the run's states after 0, 1, 2, ... epochs.
    """
    candidates = find_all(folder, seed, dict(enumerate(keys[1:], start=1)))
    for path in sorted(candidates, reverse=True):  # by epoch, which the name holds
        try:
            content = path.read_bytes()
        except OSError as error:
            log.warning("%s: %s: using the checkpoint before it.", path, error.strerror)
            continue
        if hashlib.sha256(content).hexdigest()[:16] == path.stem.rsplit("-", 1)[1]:
            _load(path, content, state)
            with contextlib.suppress(OSError):  # another user's
                path.touch()  # used: see limit_size
            return path
        reason = "its SHA-256 is not that in its name"
        log.warning("Checkpoint %s is damaged (%s): using the one before it.", path, reason)
    return None


def _load(path: Path, content: bytes, state: State) -> None:
    device = next(state.model.parameters()).device
    try:
        stored = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        if "predictors" not in stored:
            stored |= _from_version_0_1(stored)
        state.model.load_state_dict(stored["model"])
        state.optimizer.load_state_dict(stored["optimizer"])
        for name, predictor in state.predictors.items():
            predictor.n, predictor.kept = stored["predictors"][name]
        state.epoch, state.rows = stored["epoch"], stored["rows"]
        state.segments = stored["segments"]
    except (ValueError, KeyError, TypeError, RuntimeError, EOFError, pickle.PickleError) as error:
        reason = str(error).splitlines()[0]
        raise SwaBenchError(
            f"Checkpoint {path} is whole but not of this version of the code ({reason}): delete it."
        ) from error


def _from_version_0_1(stored: dict[str, Any]) -> dict[str, Any]:
    n = stored["n_averaged"]
    predictors = {"swa": (n, stored["average"]), "ensemble": (n, stored["ensemble"])}
    return {"predictors": predictors, "segments": stored["origins"]}
