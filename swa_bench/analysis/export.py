"""A recorded network as one file: its weights and, as metadata, its record."""

import json
import logging
import stat
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import nn

from swa_bench.analysis.restore import recorded_config, restore
from swa_bench.config.schema import Device
from swa_bench.data.batches import to_device
from swa_bench.data.images import load_images
from swa_bench.errors import SwaBenchError
from swa_bench.files import check_writable, write_atomically
from swa_bench.results.record import Record, parse_record
from swa_bench.results.same_data import check_data, difference, other_classes
from swa_bench.training import hardware
from swa_bench.training.evaluation import (
    Score,
    calibration_error_pct,
    predict_test_images,
    score,
)
from swa_bench.training.network import fresh_model, unwrapped

log = logging.getLogger(__name__)

METADATA = "swa_bench"  # under which the record stands in the file's metadata, as JSON


@dataclass(frozen=True)
class Exported:
    """What an exported file says of itself: the record, and after which epoch, if not the last."""

    record: Record
    epoch: int | None

    @property
    def epochs(self) -> int:
        """After how many epochs of its run."""
        return self.epoch or self.record.epochs or 0


def check_out(out: Path, force: bool) -> None:
    """Check that an export may be written there: nothing is there, or an export to overwrite.

    Raises:
        SwaBenchError: something else is there, or an export and `force` is not given, or nothing
            can be written there.
    """
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


def export(path: Path, out: Path, device: Device, epoch: int | None = None) -> Record:
    """Write the network of a record as safetensors; see `restore` for its weights.

    Raises:
        SwaBenchError: the network cannot be restored, or the file not be written.
    """
    restored = restore(path, device, epoch)
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()  # safetensors takes no shared memory
        for name, tensor in unwrapped(restored.model).state_dict().items()
    }
    content = {**restored.record.model_dump(mode="json"), "weights_after_epoch": epoch}
    metadata = {"format": "pt", METADATA: json.dumps(content)}
    write_atomically(out, safetensors.torch.save(tensors, metadata))
    return restored.record


def read_exported(path: Path) -> Exported:
    """What an exported file says of itself: recipe, errors, versions.

    Raises:
        SwaBenchError: there is no such file, or it was not written by swa-export.
    """
    if not path.exists():
        raise SwaBenchError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})[METADATA])
        return Exported(parse_record(content), content["weights_after_epoch"])
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise SwaBenchError(f"{path} was not written by swa-export, or is damaged") from error


def load_model(path: str | Path) -> nn.Module:
    """The network of an exported file, on the CPU, in evaluation mode.

    It maps normalised images (N, 3, 32, 32) to logits (N, classes). Mean and deviation, of pixels
    scaled to 0..1, are in read_exported(path).record.config["model"]["normalisation"].
    """
    config = recorded_config(read_exported(Path(path)).record)
    model = fresh_model(config, hardware.prepare(config))
    unwrapped(model).load_state_dict(safetensors.torch.load_file(path))
    return model.eval()


def evaluate(path: Path, device: Device) -> tuple[Score, float]:
    """Loss, error and calibration error in % on the test images of its data set.

    Raises:
        SwaBenchError: the data set has other classes now; other images are only logged.
    """
    exported = read_exported(path)
    record = exported.record
    config = recorded_config(record, device)
    images = load_images(config.dataset)
    if other_classes(record, images.identity()):
        check_data(path, record, config.dataset, images.identity(), "take a data set with these")
    if found := difference(record, config.dataset, images.identity()):
        log.warning("%s is %s: its record does not compare.", path, found)
    model, target = load_model(path), hardware.prepare(config)
    data = to_device(images, config, target)
    predictions, labels = predict_test_images(model.to(target), data, config, exported.epochs)
    return score(predictions, labels), calibration_error_pct(predictions, labels)
