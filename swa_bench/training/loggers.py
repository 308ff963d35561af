"""Where an epoch's figures go beside epochs.csv: TensorBoard or Weights & Biases, if asked for.

A logger that fails is named once and left; the run goes on.
"""

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable
from typing import Any

from swa_bench.config.schema import Logger, TrainConfig, plain
from swa_bench.errors import ConfigError
from swa_bench.results.record import run_folder

log = logging.getLogger(__name__)

Row = dict[str, Any]
PACKAGES = {Logger.tensorboard: "tensorboard", Logger.wandb: "wandb"}


def check_installed(logger: Logger) -> None:
    """Raise ConfigError if the logger's package is not installed."""
    package = PACKAGES.get(logger)
    if package is not None and importlib.util.find_spec(package) is None:
        mend = f"needs an extra: pip install 'swa-bench[{package}]'"
        raise ConfigError("logger", logger.value, mend)


def open_logger(config: TrainConfig) -> Callable[[Row], None]:
    """What takes the rows of epochs (records.EPOCH_COLUMNS), from the walk's first on."""
    try:
        write = {Logger.csv: _nowhere, Logger.tensorboard: _tensorboard, Logger.wandb: _wandb}[
            config.logger
        ](config)
    except Exception as error:
        log.warning("logger=%s is left: %s", config.logger.value, error)
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
            log.warning("logger=%s is left: %s", config.logger.value, error)

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
        config=plain(config),
        reinit="create_new",
    )

    def write(row: Row) -> None:
        run.log(row, step=row["epoch"])
        if row["epoch"] == config.epochs:
            run.finish()

    return write
