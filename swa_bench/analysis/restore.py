"""From a record back to the network: the weights that its figures are of."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from swa_bench.config import schema as configs
from swa_bench.config.plan import Plan, load_schedule, state_keys
from swa_bench.config.schema import Combine, Device, TrainConfig
from swa_bench.data import images as sources
from swa_bench.data.batches import DeviceData, to_device
from swa_bench.errors import SwaBenchError
from swa_bench.results import record as records
from swa_bench.results.record import Record
from swa_bench.training import checkpoints
from swa_bench.training import hardware as device
from swa_bench.training.network import fresh_model
from swa_bench.training.run import averaged_model, fresh_optimizer


@dataclass(frozen=True)
class Restored:
    """A recorded network.

    Attributes:
        config: the record's, but for the device.
        data: its data set, on the device.
        model: with its final weights and batch-norm statistics, on the device.
    """

    record: Record
    config: TrainConfig
    data: DeviceData
    model: nn.Module


def restore(path: Path, target: Device = Device.auto, epoch: int | None = None) -> Restored:
    """Build the network of a cell's record from the checkpoint of its last epoch.

    Args:
        path: the record, in its folder beside the folder of the checkpoints.
        epoch: the weights, as they were, after that epoch of the walk instead: such as a member
            of an ensemble. Which states are kept is option checkpoints.keep.

    Raises:
        SwaBenchError: there is no such record, data set or checkpoint, or no such device.
    """
    if not path.exists():
        raise SwaBenchError(f"{path}: no such file; name a cell-*.json")
    record = records.read_cell(path)
    if record is None:
        raise SwaBenchError(f"{path}: no sound record is there; name a cell-*.json")
    config = configs.from_plain(record["config"])
    combine = config.method.combine
    if epoch is None and combine is Combine.predictions:
        raise SwaBenchError(
            f"{path} is of an ensemble, which has no weights of its own: take one member (--epoch, "
            "trained with checkpoints.keep=copies), or the average of FGE's (method=swa_fge)"
        )
    arrays = sources.load_arrays(config.dataset)
    if arrays.fingerprint() != record["data_sha256"]:
        raise SwaBenchError(f"{path} is of other data than {config.dataset.name} here")
    done = record["epochs"] if epoch is None else epoch
    plan = Plan(
        config,
        -(-len(arrays.train_labels) // config.optimizer.batch_size),
        load_schedule(config),
        [],
    )
    keys = state_keys(plan, arrays.fingerprint(), record["initial_weights_sha256"])[: done + 1]
    config.device = target
    on = device.decide(config)
    model = fresh_model(config, on)
    state = checkpoints.State(model, fresh_optimizer(config, model))
    folder = path.resolve().parent.parent / "checkpoints"
    checkpoints.load_newest(folder, config.seed, keys, state)
    if state.epoch != done:
        raise SwaBenchError(
            f"The state after epoch {done} of {path} is not in {folder} (the ends of runs are, and "
            "more with checkpoints.keep=cells or copies): train it again with force=true"
        )
    data = to_device(arrays, config, on)
    if epoch is None and combine is Combine.weights:
        model = averaged_model(config, state, data)
    return Restored(record, config, data, model)
