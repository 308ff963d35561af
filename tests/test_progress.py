"""What a run prints while it trains: a line an epoch and, in a terminal, a bar below them."""

import functools
import io
import logging
import re
from typing import Any

import pytest
from rich.console import Console
from training_helpers import TINY, config_of

from swa_bench.training import progress
from swa_bench.training.progress import Progress

ROW = {"epoch": 3, "learning_rate": 0.0625, "train_loss": 1.2341, "train_error_pct": 45.1}
ROW |= {"test_error_pct": 48.32, "swa_test_error_pct": None, "ensemble_test_error_pct": None}
AVERAGED = ROW | {"swa_test_error_pct": 40.12, "ensemble_test_error_pct": 41.5}
TERMINAL = {"force_terminal": True, "color_system": None, "_environ": {}}


def report(row: dict[str, Any], *options: str, seeds: int = 1) -> None:
    """Epoch 3 of 4, of 100 images in two steps."""
    shown = Progress(config_of(*TINY, *options), list(range(seeds)), 100, end=4)
    with shown:
        shown.epoch_starts(2, seeds)
        for _ in range(2 * seeds):
            shown.images_done(50)
        for seed in range(seeds):
            shown.epoch_done(seed, row)


def test_a_file_and_the_log_have_the_whole_line(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    report(ROW, "method=sgd")
    report(AVERAGED)
    one, two = capsys.readouterr().out.splitlines()
    figures = "epoch 3/4  lr 0.0625  loss 1.234  train 45.10 %  test 48.32 %  "
    assert re.fullmatch(rf"sgd seed 0  {figures}[\d,]+ images/s  \d+ s left", one)
    assert two.startswith(f"swa seed 0  {figures}average 40.12 %  ensemble 41.50 %  ")
    assert caplog.messages == [one, two]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_bar_of_a_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    file = io.StringIO()
    made = functools.partial(Console, file=file, width=width, **TERMINAL)
    monkeypatch.setattr(progress, "Console", made)
    report(AVERAGED, seeds=3)
    frames = re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", file.getvalue()))
    bars = [frame for frame in frames if "━" in frame]
    assert all(len(frame) <= width for frame in bars)
    assert not any(word in bar for bar in bars for word in ("loss", "test", "average"))
    # After three of four epochs, of three seeds.
    assert bars[-1].startswith("swa seeds 0-2  epoch 3/4 ━") and " 75%" in bars[-1]
    assert bars[-1].rstrip().endswith("left")
    lines = [frame.rstrip() for frame in frames if "average" in frame]
    # The method's own result stays; what is of less importance goes.
    kept = "epoch 3/4  loss 1.234  train 45.10 %  test 48.32 %  average 40.12 %"
    assert width != 80 or lines[0] == f"swa seed 0  {kept}"
    assert [line.split("  ")[0] for line in lines] == ["swa seed 0", "swa seed 1", "swa seed 2"]
    assert all(len(line) <= min(width, 80) for line in lines)


def beginning(monkeypatch: pytest.MonkeyPatch) -> Progress:
    """Of a run of four epochs of 100 images; whatever follows happens after 100 s."""
    clock = iter([0.0, *[100.0] * 9])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    return Progress(config_of(*TINY), [0], 100, end=4)


def test_a_line_a_minute_where_epochs_are_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """100 images of 400 in 100 s: the rest takes 300 s."""
    shown = beginning(monkeypatch)
    shown.__enter__()
    shown.epoch_starts(0, 1)
    shown.images_done(100)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "swa seed 0  epoch 1/4   25%  1 images/s  5 min 0 s left"
    shown.__exit__(None, None, None)


def test_an_epoch_that_is_gone_on_with_is_done_in_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """50 images of the second of four epochs were there; 50 more in 100 s: 200 are left."""
    shown = beginning(monkeypatch)
    with shown:
        shown.epoch_starts(1, 1, done=50)
        shown.images_done(50)
    line = capsys.readouterr().out.rstrip()
    assert line == "swa seed 0  epoch 2/4   50%  0 images/s  6 min 40 s left"


class Device:
    """A GPU that takes 10 ms for a step, while its host hands out steps in no time."""

    def __init__(self) -> None:
        self.now = self.busy_until = 0.0
        self.waits: list[float] = []

    def step(self) -> None:
        self.busy_until = max(self.busy_until, self.now) + 0.01

    def record_event(self, event: "Event") -> "Event":
        event.device, event.done_at = self, self.busy_until
        return event


class Event:
    device: Device
    done_at: float

    def __init__(self, blocking: bool) -> None:
        assert blocking  # others keep a core of the host busy

    def synchronize(self) -> None:
        assert self.device.busy_until > self.done_at  # it has work while the host waits
        self.device.now = max(self.device.now, self.done_at)
        self.device.waits.append(self.device.now)


def test_the_bar_is_never_far_ahead_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs of 1,000 steps, which are 20 s."""
    device = Device()
    monkeypatch.setattr("torch.cuda.Event", Event)
    monkeypatch.setattr(progress.time, "monotonic", lambda: device.now)
    shown = Progress(config_of(*TINY), [0], 1000, end=2)
    ahead_s = []
    with shown:
        for epoch in range(2):
            streams: Any = [device]
            shown.epoch_starts(epoch, 1, streams)
            for _ in range(1000):
                device.step()
                shown.images_done(1)
                ahead_s.append(device.busy_until - device.now)
            device.now = device.busy_until  # for the loss of the epoch
    assert max(ahead_s) < 1.1
    settled = [wait for wait in device.waits if wait > 2]
    assert 30 < len(settled) < 40  # about twice a second
    shown.epoch_starts(0, 1)
    shown.images_done(1)  # on a CPU it waits for nothing
