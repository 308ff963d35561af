"""A recorded network as one file: its weights and, as metadata, its record and a digest of both.

Such a file may come from anybody: its record is read as every other, what it builds is in trust.py,
and weights that are not those of the digest, or not finite, are refused.
"""

import dataclasses
import hashlib
import json
import logging
import stat
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from swa_bench.analysis.restore import User, as_recorded, check_finite, recorded_config, restore
from swa_bench.config.own_code import changed
from swa_bench.config.schema import NonNegativeInt
from swa_bench.data.batches import to_device
from swa_bench.data.images import load_images
from swa_bench.errors import SwaBenchError
from swa_bench.files import check_writable, write_atomically
from swa_bench.results.foreign import NewerFormatError, parse_json
from swa_bench.results.record import Record, parse_record
from swa_bench.results.same_data import check_data, difference, other_classes
from swa_bench.text import printable
from swa_bench.training import hardware
from swa_bench.training.evaluation import (
    Score,
    calibration_error_pct,
    predict_test_images,
    score,
)
from swa_bench.training.faults import device_faults
from swa_bench.training.network import fresh_model, unwrapped

log = logging.getLogger(__name__)

METADATA = "swa_bench"  # under which the record stands in the file's metadata, as JSON
DIGEST = "swa_bench_sha256"  # of the record and all tensors
NEEDS_LESS = "--device cpu needs no GPU"
_EPOCH: TypeAdapter[int | None] = TypeAdapter(NonNegativeInt | None)


@dataclass(frozen=True)
class Exported:
    """What an exported file says of itself: the record, and after which epoch, if not the last."""

    record: Record
    epoch: int | None


def check_out(out: Path, force: bool) -> None:
    """Raise SwaBenchError unless nothing is there, or an export that `force` overwrites."""
    check_writable("OUT", out.parent)
    if not out.is_symlink() and not out.exists():
        return
    if not stat.S_ISREG(out.lstat().st_mode):
        raise SwaBenchError(f"{out} is no regular file: name another to write to")
    try:
        read_exported(out)
    except SwaBenchError:
        raise SwaBenchError(f"{out} is there and no export: name another to write to") from None
    if not force:
        raise SwaBenchError(f"{out} is there already: --force overwrites it")


@device_faults(NEEDS_LESS)
def export(path: Path, out: Path, user: User, epoch: int | None = None) -> Record:
    """Write the network that `restore` gives as safetensors; SwaBenchError if that fails."""
    restored = restore(path, user, epoch)
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()  # safetensors takes no shared memory
        for name, tensor in unwrapped(restored.model).state_dict().items()
    }
    content = json.dumps({**restored.record.model_dump(mode="json"), "weights_after_epoch": epoch})
    metadata = {"format": "pt", METADATA: content, DIGEST: content_digest(content, tensors)}
    write_atomically(out, safetensors.torch.save(tensors, metadata))
    return restored.record


def content_digest(content: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the record, and name, type, shape and bytes of each tensor by name."""
    running = hashlib.sha256(content.encode())
    for name, tensor in sorted(tensors.items()):
        running.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        running.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return running.hexdigest()


def read_exported(path: Path) -> Exported:
    """What an exported file says of itself; SwaBenchError if swa-export did not write it."""
    return _read(path)[0]


def _read(path: Path) -> tuple[Exported, dict[str, Tensor]]:
    """What an exported file holds, if it has its digest."""
    try:
        if not path.is_file():
            what = "a folder, not a file that swa-export wrote" if path.is_dir() else "no such file"
            raise SwaBenchError(f"{path}: {what}")
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = metadata[METADATA]
        content = parse_json(text)
        epoch = _EPOCH.validate_python(content["weights_after_epoch"])
        exported = Exported(parse_record(content), epoch)
        digest = content_digest(text, tensors)
    except NewerFormatError as error:
        raise SwaBenchError(f"{path} {error.what} ({error})") from error
    except (OSError, safetensors.SafetensorError, LookupError, TypeError, ValueError) as error:
        raise SwaBenchError(f"{path} was not written by swa-export, or is damaged") from error
    if DIGEST not in metadata:
        version = exported.record.versions.get("swa_bench") or "0.1"
        if not str(version).startswith(("0.1", "0.2")):  # which wrote none
            raise SwaBenchError(f"{path} is damaged: it has lost its SHA-256")
        log.warning("%s is of an earlier version, without a digest: it cannot be checked.", path)
    elif metadata[DIGEST] != digest:
        raise SwaBenchError(f"{path} is damaged: its SHA-256 is not that of its content")
    return exported, tensors


def load_model(path: str | Path, trust: bool = False) -> nn.Module:
    """The network of an exported file, on the CPU, in evaluation mode.

    It maps normalised images (N, 3, 32, 32) to logits (N, classes). Mean and deviation, of pixels
    scaled to 0..1, are in read_exported(path).record.config["model"]["normalisation"].

    Args:
        path: of the file.
        trust: whether code that the file names, such as a network of your own, may run.

    Raises:
        SwaBenchError: it is no such file, is damaged, or names code that is not of this program.
    """
    return _load(Path(path), User(trust=trust))[1]


def _load(path: Path, user: User) -> tuple[Exported, nn.Module]:
    exported, tensors = _read(path)
    config = dataclasses.replace(as_recorded(exported.record, user), device="cpu")
    model = fresh_model(config, hardware.prepare(config))
    try:
        unwrapped(model).load_state_dict(tensors)
    except RuntimeError as error:
        reason = textwrap.shorten(printable(str(error)), 300)
        raise SwaBenchError(f"{path} does not fit its network: {reason}") from error
    check_finite(path, model)
    return exported, model.eval()


@device_faults(NEEDS_LESS)
def evaluate(path: Path, user: User) -> tuple[Score, float, Exported]:
    """Loss, error and ECE in % on its test images, SwaBenchError for other classes; the file's."""
    exported, model = _load(path, user)
    record, config = exported.record, recorded_config(exported.record, user)
    images = load_images(config.dataset)
    if other_classes(record, images.identity()):
        check_data(path, record, config.dataset, images.identity(), "take a data set with these")
    if found := difference(record, config.dataset, images.identity()):
        log.warning("%s is %s: its record does not compare.", path, found)
    if found := changed(record.source_sha256, config):
        log.warning("%s: %s has changed since: its record does not compare.", path, found)
    target = hardware.prepare(config)
    data = to_device(images, config, target)
    epochs = exported.epoch or record.epochs or 0
    predictions, labels = predict_test_images(model.to(target), data, config, epochs)
    return score(predictions, labels), calibration_error_pct(predictions, labels), exported
