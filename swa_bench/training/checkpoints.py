"""The state of a run on disk: written atomically, found by its key, verified when it is read.

It holds tensors, numbers and text only, and is read with weights_only=True, so that a foreign file
cannot run code. For its name see results/stored.py.
"""

import contextlib
import hashlib
import io
import logging
import pickle
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch

from swa_bench.errors import SwaBenchError
from swa_bench.files import remove, write_atomically
from swa_bench.results.stored import MARKED, MARKER, find_all, stem_of
from swa_bench.training.states import State

log = logging.getLogger(__name__)


def save(folder: Path, seed: int, key: str, state: State) -> Path:
    """Write a state, over the same one, and return its file; SwaBenchError leaves the others."""
    values = {
        "epoch": state.epoch,
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "predictors": {name: (one.n, one.kept) for name, one in state.predictors.items()},
        "rows": state.rows,
        "segments": state.segments,
    }
    if state.step:
        values["in_epoch"] = {
            "step": state.step,
            "train_seconds": state.train_seconds,
            "tally": state.tally.sums(),
            "random": state.random.position(),
        }
    buffer = io.BytesIO()
    torch.save(values, buffer)
    content = buffer.getvalue()
    sha256 = hashlib.sha256(content).hexdigest()[:16]
    stem = stem_of(seed, state.epoch, state.step, key)
    path = folder / f"{stem}-{sha256}.pt"
    if not (folder / MARKER).exists():
        write_atomically(folder / MARKER, MARKED)
    write_atomically(path, content)
    for same in folder.glob(f"{stem}-*.pt"):
        if same != path:
            remove(same)
    return path


def load_newest(folder: Path, keys: Container[str], state: State) -> Path | None:
    """Fill `state` from the furthest sound checkpoint with one of the keys, and return its file.

    A damaged file is named in the log and passed over.
    """
    for path in reversed(find_all(folder, keys)):
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
        if part := stored.get("in_epoch"):
            state.step, state.train_seconds = part["step"], part["train_seconds"]
            state.tally.set(*part["tally"])
            state.random.go_on(part["random"])
    except (ValueError, KeyError, TypeError, RuntimeError, EOFError, pickle.PickleError) as error:
        reason = str(error).splitlines()[0]
        raise SwaBenchError(
            f"Checkpoint {path} is whole but not of this version of the code ({reason}): delete it."
        ) from error


def _from_version_0_1(stored: dict[str, Any]) -> dict[str, Any]:
    n = stored["n_averaged"]
    predictors = {"swa": (n, stored["average"]), "ensemble": (n, stored["ensemble"])}
    return {"predictors": predictors, "segments": stored["origins"]}
