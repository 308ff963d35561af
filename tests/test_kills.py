"""Runs that are stopped at random steps, and in passes over images, end with the same bits."""

import random
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import make_folder
from torch import Tensor
from training_helpers import TINY, TinyNet, epochs_of, records_of, spec_of

from swa_bench.errors import Terminated
from swa_bench.results.locks import EndRequest
from swa_bench.training import hardware
from swa_bench.training.job import train_missing

KILLS = 10  # of each of the five kinds of run


class PowerCut(BaseException):
    """The process ends here, and nothing more is written."""


class Drawing(TinyNet):
    """Draws from all generators in its forward pass, beside its dropout."""

    def forward(self, images: Tensor) -> Tensor:
        """As its base, with noise."""
        noise = random.gauss(0, 0.1) + np.random.standard_normal() * 0.1
        return super().forward(images) * (1 + noise)


# Batches of 40, 40 and 16; five batches of test images.
SMALL = [*TINY, "+model.arguments.dropout=0.5", "dataset.train_images=96"]
SMALL += ["dataset.test_images=50", "batch_size=40", "evaluation.batch_size=10", "budget=1.5"]
SMALL += ["checkpoints.keep_for=[]"]
SELDOM, TOGETHER = "checkpoints.every_s=1000", "seeds_together=2"
# 12 files for training in batches of 5, 5 and 2; 6 for tests.
STREAMED = ["dataset=image_folder", "dataset.root=images", "dataset.memory=disk"]
STREAMED += ["augmentation=random_resized_crop", "dataset.workers=2", "dataset.resize=40"]
STREAMED += ["dataset.train_images=12", "dataset.test_images=6", "batch_size=5"]
STREAMED += ["evaluation.batch_size=4"]
RUNS = {
    "swa": [*SMALL, SELDOM, f"model._target_={__name__}.Drawing", TOGETHER],
    "ema": [*SMALL, SELDOM, "method=ema", TOGETHER],
    "fge": [*SMALL, "method=fge", "budget=1"],  # with a checkpoint after each step
    "disk": [*SMALL, SELDOM, *STREAMED, TOGETHER],
    "adamw": [*SMALL, SELDOM, "optimizer._target_=torch.optim.AdamW", "~optimizer.momentum"],
}


class Killer:
    """Ends runs at random ones of the moments at which they look whether they shall end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chance, self.check = random.Random(0), EndRequest.check
        self.left, self.kills = 0, 0
        monkeypatch.setattr(hardware, "free_memory", lambda: None)  # a third of a start here
        monkeypatch.setattr(EndRequest, "check", lambda request: self.look(request))

    def look(self, request: EndRequest) -> None:
        self.left -= 1
        if self.left == 0:
            self.kills += 1
            if self.chance.random() < 0.3:
                raise PowerCut
            request.note(signal.SIGTERM, None)
        self.check(request)

    def train(self, *options: str) -> None:
        """Start a run until it gets to its end, with kills while there are some left."""
        spec = spec_of(*options)
        while True:
            self.left = self.chance.randint(1, 30) if self.kills < KILLS else 0
            try:
                train_missing(spec)
            except (Terminated, PowerCut):
                continue
            return


@pytest.mark.parametrize("name", RUNS)
def test_kills_at_random_moments_change_no_bit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "images")
    train_missing(spec_of(*RUNS[name], "results_dir=undisturbed"))
    killer, runs = Killer(monkeypatch), 0
    while killer.kills < KILLS:
        runs += 1
        killer.train(*RUNS[name], f"results_dir=killed{runs}")
    expected = records_of(tmp_path / "undisturbed")
    assert expected
    trained = {(record["method"], record["seed"]) for record in expected.values()}
    for folder in (tmp_path / f"killed{run + 1}" for run in range(runs)):
        assert records_of(folder) == expected
        for method, seed in trained:
            found, rows = (
                epochs_of(at, method, seed).drop(columns="seconds")
                for at in (folder, tmp_path / "undisturbed")
            )
            pd.testing.assert_frame_equal(found, rows, check_exact=True)
        assert not [path for path in folder.rglob("*.pt") if "-step" in path.name]
