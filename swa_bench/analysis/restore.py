"""From a record back to the network: the weights that its figures are of.

A record is data: what it may build is in trust.py, and where the data are is the user's to say.
"""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from swa_bench.analysis.trust import check_trusted, with_own_data
from swa_bench.config.plan import Plan, load_schedule, steps_per_epoch
from swa_bench.config.schema import Device, TrainConfig, from_dict, require
from swa_bench.data.batches import Images, to_device
from swa_bench.data.file_set import FileSet
from swa_bench.data.images import ImageSet, load_images
from swa_bench.errors import SwaBenchError
from swa_bench.results.record import Record, sound_record
from swa_bench.results.same_data import check_code, check_data
from swa_bench.training import checkpoints, hardware
from swa_bench.training.batch_norm import describe_kept
from swa_bench.training.network import Spare
from swa_bench.training.states import State, fresh_state, weights_sha256, with_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class User:
    """What the user says, and not the record.

    Attributes:
        device: to compute on.
        data: the folder of the data sets; None for the default of swa-train.
        trust: whether code that the record names may run.
    """

    device: Device = "cpu"
    data: str | None = None
    trust: bool = False


@dataclass(frozen=True)
class Restored:
    """A recorded network.

    Attributes:
        config: the record's, but for the device.
        images, data: its data set, on the host and on the device.
        model: with its final weights and batch-norm statistics, on the device.
    """

    record: Record
    config: TrainConfig
    images: ImageSet | FileSet
    data: Images
    model: nn.Module


def recorded_config(record: Record, user: User) -> TrainConfig:
    """A record's configuration on the user's device, or ConfigError as of `as_recorded`."""
    config, device = as_recorded(record, user), hardware.decide_device(user.device)
    precision = hardware.recorded_precision(device, config.precision)
    return dataclasses.replace(config, device=device, precision=precision)


def as_recorded(record: Record, user: User) -> TrainConfig:
    """A record's configuration; ConfigError if it is not sound, or names code not to be run."""
    if not user.trust:
        check_trusted(record.config)
    return from_dict(with_own_data(record.config, user.data) | {"init": "random"})


def _first_weights(record: Record, user: User) -> str:
    """The record's option init; ConfigError for a file that it names, unless it is trusted."""
    init = str(record.config.get("init"))
    expected = "is a file that the record names; with --trust it is read"
    require("init", init, init in ("random", "pretrained") or user.trust, expected)
    return init


def restore(
    path: Path, user: User, epoch: int | None = None, other: Restored | None = None
) -> Restored:
    """Build a record's network from the checkpoint of its last epoch, or raise SwaBenchError.

    Args:
        path: the record, in its folder beside the folder of the checkpoints.
        epoch: the weights, as they were, after that epoch of the run instead: such as a member
            of an ensemble. Which states are kept is option checkpoints.keep.
        other: a network whose data set is taken, where it is the same.
    """
    if not path.exists():
        raise SwaBenchError(f"{path}: no such file; name a cell-*.json or a run's folder")
    record = sound_record(path)
    config = recorded_config(record, user)
    images, data = _recorded_data(path, record, config, other)
    done = config.epochs if epoch is None else epoch
    first = config if done else dataclasses.replace(config, init=_first_weights(record, user))
    state = fresh_state(first, data)
    predictor = state.predictors.get(config.method.result)
    if epoch is None and predictor is not None and not predictor.has_weights:
        raise SwaBenchError(
            f"{path} is of an ensemble, which has no weights of its own: take one member (--epoch, "
            "trained with checkpoints.keep=collected), or the average of FGE's (method=swa_fge)"
        )
    if done:
        _load_state(path, record, as_recorded(record, user), images.identity().sha256, done, state)
    elif weights_sha256(state.model.state_dict()) != record.initial_weights_sha256:
        raise SwaBenchError(f"{path}: init={first.init} gives other weights than the run had")
    model = state.model
    if epoch is None and predictor is not None:
        spare = Spare(config)
        model, kept = with_weights(config, state, predictor.weights(), data, spare)
        for sentence in describe_kept(kept):
            log.warning("%s: %s", path, sentence)
    check_finite(path, model)
    return Restored(record, config, images, data, model)


def _recorded_data(
    path: Path, record: Record, config: TrainConfig, other: Restored | None
) -> tuple[ImageSet | FileSet, Images]:
    """A record's data set, or that of `other` if it is the same; SwaBenchError if it changed."""
    if other is not None and _data_options(other.config) != _data_options(config):
        other = None
    images = other.images if other else load_images(config.dataset)
    check_data(path, record, config.dataset, images.identity(), "put the images of the run there")
    check_code(path, record, config, "put the file of the run there")
    device = hardware.prepare(config)
    return images, other.data if other else to_device(images, config, device)


def _load_state(
    path: Path, record: Record, there: TrainConfig, data_sha256: str, done: int, state: State
) -> None:
    """Load the state after epoch `done`, or raise SwaBenchError.

    Args:
        there: the configuration on the device that it ran on, which the keys of states hold.
    """
    plan = Plan(there, steps_per_epoch(there), load_schedule(there), [])
    keys = plan.state_keys(data_sha256, record.initial_weights_sha256 or "")[1 : done + 1]
    folder = path.resolve().parent.parent / "checkpoints"
    checkpoints.load_newest(folder, keys, state)
    if (state.epoch, state.step) != (done, 0):
        raise SwaBenchError(
            f"The state after epoch {done} of {path} is not in {folder} (the ends of runs are): "
            "train it again with force=true checkpoints.keep=cells (or =collected, for --epoch)"
        )


def _data_options(config: TrainConfig) -> list[object]:
    """What a data set on a device depends on."""
    layout = [config.augmentation, config.model.normalisation, config.channels_last]
    return [config.dataset, *layout, config.device]


def check_finite(path: Path, model: nn.Module) -> None:
    """Raise SwaBenchError if a weight is not finite; a buffer, such as a mask, may be infinite."""
    weights = {name for name, _ in model.named_parameters()}
    for name, tensor in model.state_dict().items():
        infinite = name in weights or "running_" in name
        bad = ~tensor.isfinite() if infinite else tensor.isnan()
        if bad.any():
            raise SwaBenchError(f"{path}: {int(bad.sum()):,} values of {name} are not finite")
