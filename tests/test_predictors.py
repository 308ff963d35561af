"""A method's own predictor, an exponential moving average: its values, columns, record, resume."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from training_helpers import (
    TINY,
    SwaTrain,
    TinyNet,
    checkpoint_of,
    config_of,
    epochs_of,
    plan_of,
    records_of,
    signalled,
)

from swa_bench.data.batches import to_device
from swa_bench.data.images import load_images
from swa_bench.results.epochs import epoch_columns
from swa_bench.training import step
from swa_bench.training.averaging import WeightEMA
from swa_bench.training.batch_norm import recompute_batch_norm
from swa_bench.training.evaluation import predict, score
from swa_bench.training.forward import TrainingPass
from swa_bench.training.states import weights_sha256

EMA = [*TINY, "method=ema", "method.predictors.ema.decay=0.75"]


def stored_average(results: Path) -> dict[str, Any]:
    n, average = torch.load(checkpoint_of(results, 4), weights_only=True)["predictors"]["ema"]
    assert n == 0  # it collects nothing
    return dict(average)


def test_the_average_is_that_of_the_weights_after_every_step(
    tmp_path: Path, swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against sums in float64: decay^12 of the first weights, 0.25 * decay^(12 - i) of step i's."""
    seen: list[dict[str, torch.Tensor]] = []
    take_step = step.take_step

    def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name: p.detach().double().clone() for name, p in model.named_parameters()}

    def watched(call: Any, *rest: Any) -> Any:
        if not isinstance(call, TrainingPass):  # in the rehearsal
            return take_step(call, *rest)
        if not seen:
            seen.append(weights(call.model))
        found = take_step(call, *rest)
        seen.append(weights(call.model))
        return found

    monkeypatch.setattr(step, "take_step", watched)
    assert swa_train(*EMA).code == 0
    assert len(seen) == 1 + 4 * 3  # four epochs of three steps
    shares = [0.75**12, *(0.25 * 0.75 ** (12 - i) for i in range(1, 13))]
    assert sum(shares) == pytest.approx(1.0)
    average = stored_average(tmp_path / "results")
    assert list(average) == list(seen[0])
    for name, found in average.items():
        expected = sum(s * one[name] for s, one in zip(shares, seen, strict=True))
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)
        assert not torch.equal(found.double(), seen[-1][name])


def test_its_record_and_columns_are_of_the_average(tmp_path: Path, swa_train: SwaTrain) -> None:
    """The stored average with recomputed statistics, tested here again; SGD's weights beside it."""
    outcome = swa_train(*EMA)
    assert outcome.code == 0, outcome.err
    assert "ema 1 seed 0: test error" in outcome.out
    results = tmp_path / "results"
    ((name, record),) = records_of(results).items()
    assert name.startswith("ema-seed0-")
    average = stored_average(results)
    assert record["result"]["weights_sha256"] == weights_sha256(average)
    rows = epochs_of(results, "ema")
    assert list(rows) == epoch_columns(["ema"])
    assert list(rows)[10:12] == ["ema_test_loss", "ema_test_error_pct"]
    assert rows["ema_test_loss"].notna().all() and rows["swa_test_loss"].isna().all()
    assert list(rows["n_averaged"]) == [0] * 4

    config = config_of(*EMA)
    data = to_device(load_images(config.dataset), config, torch.device("cpu"))
    model = TinyNet(10).to(memory_format=torch.channels_last)
    stored = torch.load(checkpoint_of(results, 4), weights_only=True)
    model.load_state_dict({**stored["model"], **average})
    plain = torch.autocast("cpu", enabled=False)
    recompute_batch_norm(model, data.train_batches(data.draw(0, 4, "recompute"), 128), plain)
    tested = score(*predict(model, data.test_batches(500), plain))
    assert record["result"]["test_loss"] == rows["ema_test_loss"].iloc[-1] == tested.loss
    assert record["result"]["test_error_pct"] == tested.error_pct

    # The trained weights are those of SGD, bit by bit; the state has a name of its own.
    assert swa_train(*TINY, "method=sgd").code == 0
    sgd = next(one for name, one in records_of(results).items() if name.startswith("sgd"))
    assert record["result"]["last_weights"]["test_loss"] == sgd["result"]["test_loss"]
    assert sgd["result"]["weights_sha256"] == weights_sha256(stored["model"])
    assert len(list(results.rglob("checkpoints/seed0-epoch0004-*.pt"))) == 2
    keys = [plan_of(*TINY, f"method={m}").state_keys("data", "weights") for m in ("ema", "sgd")]
    assert not set(keys[0]) & set(keys[1])


def test_killed_and_started_again_its_average_has_the_same_bits(
    tmp_path: Path, swa_train: SwaTrain
) -> None:
    """Killed in the middle of epoch 3."""
    command = signalled(signal.SIGKILL, 7, *EMA)
    killed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = swa_train(*EMA)
    assert "Going on after step 1 of epoch 3" in again.err
    assert swa_train(*EMA, "results_dir=alone").code == 0
    assert records_of(tmp_path / "results") == records_of(tmp_path / "alone")
    pd.testing.assert_frame_equal(
        epochs_of(tmp_path / "results", "ema").drop(columns="seconds"),
        epochs_of(tmp_path / "alone", "ema").drop(columns="seconds"),
        check_exact=True,
    )
    average, alone = stored_average(tmp_path / "results"), stored_average(tmp_path / "alone")
    assert weights_sha256(average) == weights_sha256(alone)


def test_a_decay_of_zero_gives_the_last_weights() -> None:
    model = TinyNet(10)
    ema = WeightEMA(decay=0.0)
    ema.start(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    ema.after_step(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(ema.kept[name], parameter)


SWA_AGAIN = "{_target_:swa_bench.training.averaging.WeightEMA,decay:0.9}"
BAD = {
    "method.predictors.ema.decay=2": "method.predictors.ema=swa_bench.training.averaging.WeightEMA"
    ": cannot be built: decay is 2, not from 0 to below 1",
    "+method.predictors.ema.rate=2": "unexpected keyword argument 'rate'",
    "method.predictors.ema._target_=nowhere.Ema": "method.predictors.ema=nowhere.Ema: "
    "cannot be built: No module named 'nowhere'",
    f"+method.predictors.swa={SWA_AGAIN}": "method.predictors.swa=swa_bench.training.averaging."
    "WeightEMA: this name is taken",
    "method.result=emma": "method.result=emma: must be one of last, swa, ensemble, ema",
}


@pytest.mark.parametrize("option", BAD)
def test_bad_predictors_get_one_line(swa_train: SwaTrain, tmp_path: Path, option: str) -> None:
    outcome = swa_train(*EMA, option)
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith("swa-train: method.") and BAD[option] in line
    assert list(tmp_path.iterdir()) == []


def test_a_predictor_of_a_users_own(
    tmp_path: Path, swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first collected weights, kept by a class in the working folder."""
    (tmp_path / "own_predictors.py").write_text(
        "from swa_bench.training.averaging import WeightAverage\n"
        "class First(WeightAverage):\n"
        "    def collect(self, model, predictions):\n"
        "        if not self.n:\n"
        "            super().collect(model, predictions)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = ["+method.predictors.first={_target_:own_predictors.First}", "method.result=first"]
    outcome = swa_train(*TINY, *own)
    assert outcome.code == 0, outcome.err
    (path,) = tmp_path.rglob("cell-1.json")
    record = json.loads(path.read_text())
    rows = epochs_of(tmp_path / "results")
    # After epoch 3 it is the average of one; after epoch 4 the same, and the average is not.
    assert rows["first_test_loss"][2] == rows["swa_test_loss"][2]
    assert record["result"]["test_loss"] == rows["first_test_loss"][3] != rows["swa_test_loss"][3]
    assert record["recipe_diff"]["method.result"] == "first"
