"""Where an epoch's figures go beside epochs.csv: TensorBoard or Weights & Biases, if asked for.

A logger that fails is named once and given up; the run goes on.
"""

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable

from swa_bench.config.schema import TrainConfig, to_dict
from swa_bench.errors import ConfigError, needs_extra
from swa_bench.results.epochs import Row
from swa_bench.results.record import run_folder

log = logging.getLogger(__name__)


def check_installed(logger: str) -> None:
    """Raise ConfigError if the package that a logger is named after is not installed."""
    if logger != "csv" and importlib.util.find_spec(logger) is None:
        raise ConfigError("logger", logger, needs_extra(logger))


def open_logger(config: TrainConfig) -> Callable[[Row], None]:
    """A function that takes the row of each epoch, from the run's first on."""
    loggers = {"csv": _nowhere, "tensorboard": _tensorboard, "wandb": _wandb}
    try:
        write = loggers[config.logger](config)
    except Exception as error:
        log.warning("logger=%s is given up: %s", config.logger, error)
        write = _nowhere(config)
    alive = True

    def write_while_alive(row: Row) -> None:
        nonlocal alive
        if not alive:
            return
        figures = {name: value for name, value in row.items() if value is not None}
        try:
            write(figures)
        except Exception as error:
            alive = False
            log.warning("logger=%s is given up: %s", config.logger, error)

    return write_while_alive


def _nowhere(config: TrainConfig) -> Callable[[Row], None]:
    return lambda row: None


def _tensorboard(config: TrainConfig) -> Callable[[Row], None]:
    from torch.utils.tensorboard import SummaryWriter

    # What an earlier start of the run wrote is written again, from the first epoch on.
    writer = SummaryWriter(run_folder(config) / "tensorboard", purge_step=1)

    def write(row: Row) -> None:
        for name, value in row.items():
            writer.add_scalar(name, value, row["epoch"])
        writer.flush()

    return write


def _wandb(config: TrainConfig) -> Callable[[Row], None]:
    wandb = importlib.import_module("wandb")
    folder = run_folder(config)
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "swa_bench"),
        name=folder.name,
        dir=folder,
        mode=os.environ.get("WANDB_MODE", "offline"),
        config=to_dict(config),
        reinit="create_new",
    )

    def write(row: Row) -> None:
        run.log(row, step=row["epoch"])
        if row["epoch"] == config.epochs:
            run.finish()

    return write
