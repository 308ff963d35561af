"""A recorded network as one file: its weights and, as metadata, its record.

The commands swa-export, which writes it, and swa-evaluate, which tests it.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from swa_bench.analysis.restore import restore
from swa_bench.commands import errors_in_one_line
from swa_bench.config import schema as configs
from swa_bench.config.schema import Device
from swa_bench.data import images as sources
from swa_bench.data.batches import to_device
from swa_bench.errors import SwaBenchError
from swa_bench.files import write_atomically
from swa_bench.results.record import Record
from swa_bench.training import evaluation as metrics
from swa_bench.training import hardware as device
from swa_bench.training import step as engine
from swa_bench.training.network import fresh_model

METADATA = "swa_bench"  # under which the record stands in the file's metadata, as JSON


def export(path: Path, out: Path, target: Device, epoch: int | None = None) -> Record:
    """Write the network of a record as safetensors; see `restore` for its weights.

    Raises:
        SwaBenchError: the network cannot be restored, or the file not be written.
    """
    restored = restore(path, target, epoch)
    record = {**restored.record, "weights_after_epoch": epoch}
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in restored.model.state_dict().items()
    }
    metadata = {"format": "pt", METADATA: json.dumps(record)}
    write_atomically(out, safetensors.torch.save(tensors, metadata))
    return record


def read_record(path: Path) -> Record:
    """The record that an exported file holds: recipe, errors, versions.

    Raises:
        SwaBenchError: there is no such file, or it was not written by swa-export.
    """
    if not path.exists():
        raise SwaBenchError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})[METADATA])
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise SwaBenchError(f"{path} was not written by swa-export, or is damaged") from error
    assert isinstance(record, dict)
    return record


def load_model(path: str | Path) -> nn.Module:
    """The network of an exported file, on the CPU, in evaluation mode.

    It maps normalised images (N, 3, 32, 32) to logits (N, classes); `read_record` gives mean and
    deviation under ["config"]["model"]["normalisation"], of pixels scaled to 0..1.
    """
    config = configs.from_plain(read_record(Path(path))["config"])
    model = fresh_model(config, torch.device("cpu"))
    model.load_state_dict(safetensors.torch.load_file(path))
    return model.eval()


def evaluate(path: Path, target: Device) -> tuple[engine.Score, float]:
    """Loss, error and calibration error in % on the test images of its data set."""
    config = configs.from_plain(read_record(path)["config"])
    model = load_model(path)
    config.device = target
    on = device.decide(config)
    data = to_device(sources.load_arrays(config.dataset), config, on)
    batches = data.test_batches(config.evaluation.batch_size)
    predictions, labels = engine.predict(model.to(on), batches, device.autocast(config))
    ece_pct = metrics.calibration_error_pct(predictions, labels)
    return engine.score(predictions, labels), ece_pct


def main(arguments: Sequence[str] | None = None) -> None:
    """The command swa-export."""
    parser = argparse.ArgumentParser(
        "swa-export",
        description="Write the final weights of a recorded run, with its record, as safetensors.",
    )
    parser.add_argument("record", type=Path, metavar="CELL.json")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    parser.add_argument(
        "--epoch", type=int, help="the weights after this epoch, not the final ones"
    )
    options = _parse(parser, arguments)
    with errors_in_one_line("swa-export"):
        record = export(options.record, options.out, options.device, options.epoch)
    size = options.out.stat().st_size / 1e6
    what = f"{record['model']} {record['method']} on {record['dataset']}, seed {record['seed']}"
    print(f"{options.out}: {what}, {size:.1f} MB")


def main_evaluate(arguments: Sequence[str] | None = None) -> None:
    """The command swa-evaluate."""
    parser = argparse.ArgumentParser(
        "swa-evaluate", description="Test an exported network on the test images of its data set."
    )
    parser.add_argument("file", type=Path, metavar="FILE.safetensors")
    options = _parse(parser, arguments)
    with errors_in_one_line("swa-evaluate"):
        score, ece_pct = evaluate(options.file, options.device)
        record = read_record(options.file)
    print(f"test error {score.error_pct:.2f} %, loss {score.loss:.4f}, ECE {ece_pct:.2f} %")
    if record["weights_after_epoch"] is None:
        result = record["result"]
        print(
            f"its record: {result['test_error_pct']:.2f} %, loss {result['test_loss']:.4f}, "
            f"ECE {result['test_ece_pct']:.2f} % ({record['device']})"
        )


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser.add_argument(
        "--device", type=Device, default=Device.auto, metavar="auto|cpu|cuda", help="(auto)"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    configs.register()
    return options
