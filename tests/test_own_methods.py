"""Methods, schedules and predictors that users write as files of their own."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_helpers import TINY, SwaTrain, epochs_of

from swa_bench.results.frames import cells_frame
from swa_bench.results.record import read_records
from swa_bench.results.statistics import summarise

ROOT = Path(__file__).parent.parent
Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, swa_train: SwaTrain, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file into the working folder, which Python searches."""
    monkeypatch.syspath_prepend(tmp_path)

    def write_file(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write_file


def collected(plan: str) -> list[int]:
    """The epochs in which a dry run's plan collects."""
    return [
        int(row["epoch"]) for row in csv.DictReader(io.StringIO(plan)) if row["collects"] == "1"
    ]


@pytest.mark.parametrize("base", ["fge", "snapshot"])
def test_a_method_made_from_an_ensemble_is_trained_itself(
    swa_train: SwaTrain, write: Write, base: str
) -> None:
    write("my/method/mine.yaml", f"defaults: [{base}]\nname: mine\ncycle_epochs: 4\n")
    own = ["--config-dir", "my", *TINY, "model.budget_epochs=20", "dry_run=csv"]
    mine = swa_train(*own, "method=mine")
    assert mine.code == 0 and ", mine, seed 0: 20 epochs" in mine.err
    theirs = swa_train(*own, f"method={base}", "method.cycle_epochs=4")
    assert collected(mine.out) == collected(theirs.out) != []


def test_methods_after_an_own_one_have_their_own_schedule(
    swa_train: SwaTrain, write: Write
) -> None:
    flat = "defaults:\n  - sgd\n  - override /schedule@_global_.schedule: constant\nname: flat\n"
    write("my/method/flat.yaml", flat)
    own = ["--config-dir", "my", *TINY, "dry_run=csv", "method=flat", "also_train=[sgd]"]
    rates = [row.split(",")[1] for row in swa_train(*own).out.splitlines()]
    # T = 4: the factor of the last epoch, t = 3/4, is 1 - 0.99 * 0.25 / 0.4.
    assert rates[1:5] == ["0.1"] * 4 and rates[6:9] == ["0.1"] * 3
    assert float(rates[9]) == pytest.approx(0.1 * (1 - 0.99 * 0.25 / 0.4))
    # A schedule that the user names holds for all.
    rates = [row.split(",")[1] for row in swa_train(*own, "schedule=constant").out.splitlines()]
    assert rates[6:10] == ["0.1"] * 4


LATE = "defaults: [swa]\nname: late\ncollect_from: 4\n"


def records_below(folder: Path) -> list[dict[str, Any]]:
    """The records below a folder, in the order of their paths."""
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("cell-*.json"))]


def test_an_own_method_is_trained_and_shared_like_a_shipped_one(
    tmp_path: Path, swa_train: SwaTrain, write: Write
) -> None:
    """In a sweep; SGD of one budget and `late` share the epochs before their decays."""
    write("my/method/late.yaml", LATE)
    own = ["--config-dir", "my", "-m", *TINY, "seed=0,1", "checkpoints.keep_for=[late]"]
    outcome = swa_train(*own, "method=sgd", "also_train=[late]")
    assert outcome.code == 0, outcome.err
    # T is 4 for SGD and swa_start=3 for the other: their decays begin after epochs 2 and 1.
    assert outcome.err.count("Going on after epoch 2, shared with ") == 2
    records = records_below(tmp_path)
    assert [(one["method"], one["seed"]) for one in records] == [
        (method, seed) for method in ("late", "sgd") for seed in (0, 1)
    ]
    assert len({json.dumps(one["recipe_diff"]) for one in records}) == 1
    assert len(re.findall(r"│ tiny .*│ ours │.*\(n=2\).*\(n=2\)", outcome.out)) == 1
    # What is typed beyond the file is a difference.
    assert swa_train(*own[:2], *TINY, "method=late", "method.cycle_epochs=2").code == 0
    (typed,) = [
        one for one in records_below(tmp_path) if "method.cycle_epochs" in one["recipe_diff"]
    ]
    assert typed["method"] == "late" and typed["recipe_diff"]["method.cycle_epochs"] == 2


@pytest.mark.parametrize("option", ["also_train", "checkpoints.keep_for"])
def test_unknown_methods_are_refused_with_all_choices(
    swa_train: SwaTrain, write: Write, option: str
) -> None:
    write("my/method/late.yaml", LATE)
    outcome = swa_train("--config-dir", "my", *TINY, f"{option}=[lat]")
    assert outcome.code == 2
    assert outcome.err == (
        f"swa-train: {option}=lat: choose from ema, fge, independent, late, pretrained, sgd, "
        "sgd_bn, sgd_fixed_rate, snapshot, swa, swa_cyclic, swa_fge, swa_fixed_rate\n"
    )


def test_an_ensemble_of_runs_of_an_own_method(
    tmp_path: Path, swa_train: SwaTrain, write: Write
) -> None:
    write("my/method/late.yaml", LATE)
    write("my/method/lates.yaml", "defaults: [independent]\nname: lates\nensemble_of: late\n")
    assert swa_train("--config-dir", "my", *TINY, "method=lates", "budget=2").code == 0
    found = {(one["method"], one["budget"]) for one in records_below(tmp_path)}
    assert found == {("late", 1), ("lates", 1), ("lates", 2)}


def test_versions_of_an_own_method_are_told_apart_by_their_options(
    tmp_path: Path, swa_train: SwaTrain, write: Write
) -> None:
    own = ["--config-dir", "my", *TINY, "method=mean", "also_train=[sgd]"]
    for seed, decay in ((0, 0.5), (1, 0.9), (2, 0.9)):
        write(
            "my/method/mean.yaml",
            "defaults: [sgd]\nname: mean\nresult: mean\npredictors:\n  mean:\n"
            f"    _target_: swa_bench.training.averaging.WeightEMA\n    decay: {decay}\n",
        )
        assert swa_train(*own, f"seed={seed}").code == 0
    summary = summarise(cells_frame(read_records([tmp_path])))
    means = summary[summary["method"] == "mean"]
    decays = means["recipe_diff"].str.extract(r"method.predictors.mean.decay=(\S+)")[0]
    assert dict(zip(decays, means["n"], strict=True)) == {"0.5": 1, "0.9": 2}
    (sgd,) = summary[summary["method"] == "sgd"].to_dict("records")
    assert sgd["n"] == 3 and "method." not in sgd["recipe_diff"]


def test_an_own_method_keeps_what_it_selects_to_itself(swa_train: SwaTrain, write: Write) -> None:
    """Its optimiser too; one that the user chooses holds for all."""
    write("my/optimizer/adamw.yaml", "_target_: torch.optim.AdamW\nweight_decay: 0.1\n")
    write(
        "my/method/adam.yaml",
        "defaults:\n  - sgd\n  - override /optimizer@_global_.optimizer: adamw\nname: adam\n",
    )
    own = ["--config-dir", "my", *TINY, "model.learning_rate=0.01", "also_train=[sgd]"]
    assert swa_train(*own, "method=adam").code == 0
    assert swa_train(*own, "method=swa", "optimizer=adamw", "results_dir=chosen").code == 0
    selected = [
        (
            one["method"],
            one["config"]["optimizer"]["_target_"],
            "optimizer" in str(one["recipe_diff"]),
        )
        for one in records_below(Path("results")) + records_below(Path("chosen"))
    ]
    assert selected == [
        ("adam", "torch.optim.AdamW", False),
        ("sgd", "torch.optim.SGD", False),
        ("sgd", "torch.optim.AdamW", True),
        ("swa", "torch.optim.AdamW", True),
    ]


def test_own_files_that_mislead_are_refused(
    tmp_path: Path, swa_train: SwaTrain, write: Write
) -> None:
    write("my/method/late.yaml", "defaults: [swa]\n")
    own = ["--config-dir", "my", *TINY]
    for options in (["method=late"], ["also_train=[late]"]):
        outcome = swa_train(*own, *options)
        assert outcome.code == 2
        assert "method.name=swa: must be late, as its file is called" in outcome.err
    write("my/method/broken.yaml", "defaults: [nothing]\n")
    outcome = swa_train(*own, "also_train=[broken]")
    assert outcome.code == 2
    assert outcome.err.startswith("swa-train: method=broken: In 'method/broken': Could not load")
    write("my/schedule/cyclic.yaml", "_target_: my_rates.steps\n")
    outcome = swa_train(*own)
    assert outcome.code == 1
    assert (
        "my/schedule/cyclic.yaml: is never read, since a file of swa_bench has its" in outcome.err
    )
    assert not (tmp_path / "results").exists()


def test_a_schedule_that_follows_from_the_method_leaves_methods_in_one_row(
    tmp_path: Path, swa_train: SwaTrain, write: Write
) -> None:
    write("flat_rates.py", "def rate(epoch, step, steps, *, first, until):\n    return first\n")
    write(
        "my/schedule/flat.yaml",
        "_target_: flat_rates.rate\nfirst: 0.05\nuntil: ${method.decay_epochs}\n",
    )
    assert swa_train("--config-dir", "my", *TINY, "schedule=flat", "also_train=[sgd]").code == 0
    records = records_below(tmp_path)
    assert {one["config"]["schedule"]["until"] for one in records} == {3, 4}
    for record in records:
        assert record["recipe_diff"]["schedule.first"] == 0.05
        assert record["recipe_diff"]["schedule.until"] == "method.decay_epochs"


def test_a_rate_is_checked_in_every_step(tmp_path: Path, swa_train: SwaTrain, write: Write) -> None:
    write("late.py", "def rate(epoch, step, steps):\n    return -0.1 if step == 2 else 0.1\n")
    write("my/schedule/late.yaml", "_target_: late.rate\n")
    outcome = swa_train("--config-dir", "my", *TINY, "schedule=late")
    assert outcome.code == 2
    assert "schedule=late.rate: gave the rate -0.1 in epoch 1" in outcome.err
    assert not (tmp_path / "results").exists()


def test_the_pages_predictor(tmp_path: Path, swa_train: SwaTrain, write: Write) -> None:
    """docs/own.md: the average of the last three collected weights, resumed halfway too."""
    page = (ROOT / "docs" / "own.md").read_text()
    (code,) = re.findall(
        r"^    (?:import|from) [^`]*?class LastThree(?:\n|.)*?(?=\n\S)", page, re.M
    )
    write("last_three.py", "\n".join(line[4:] for line in code.splitlines()) + "\n")
    own = ["+method.predictors.last3={_target_:last_three.LastThree}", "method.result=last3"]
    outcome = swa_train(*TINY, *own, "budget=1.5")
    assert outcome.code == 0, outcome.err
    rows = epochs_of(tmp_path / "results")
    # Weights are collected after epochs 3, 4, 5 and 6: the two averages agree until the
    # fourth.
    losses = rows["last3_test_loss"], rows["swa_test_loss"]
    assert losses[0][4] == pytest.approx(losses[1][4], rel=1e-5)
    assert losses[0][5] != pytest.approx(losses[1][5], rel=1e-5)
    for budget in ("1", "1.5"):
        assert swa_train(*TINY, *own, f"budget={budget}", "results_dir=again").code == 0
    (path,) = (tmp_path / "again").rglob("cell-1.5.json")
    (whole,) = (tmp_path / "results").rglob("cell-1.5.json")
    digest = json.loads(path.read_text())["result"]["weights_sha256"]
    assert digest == json.loads(whole.read_text())["result"]["weights_sha256"]


SUBCLASS = "class Mine(Predictor):\n    def "
BROKEN = {
    "class Mine: pass\n": "is no swa_bench.training.averaging.Predictor",
    f"{SUBCLASS}__init__(self): pass\n": "calls no super().__init__()",
    f"{SUBCLASS}collect(self, model, predictions): self.kept = [1]\n": "fails: TypeError",
}


@pytest.mark.parametrize("code", BROKEN)
def test_a_broken_predictor_is_named_before_anything_is_trained(
    tmp_path: Path, swa_train: SwaTrain, write: Write, code: str
) -> None:
    name = f"broken{list(BROKEN).index(code)}"
    write(f"{name}.py", f"from swa_bench.training.averaging import Predictor\n{code}")
    outcome = swa_train(*TINY, f"+method.predictors.mine={{_target_:{name}.Mine}}")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"swa-train: method.predictors.mine={name}.Mine: ")
    assert BROKEN[code] in line
    assert not (tmp_path / "results").exists()


def test_an_optimiser_that_needs_a_closure_is_refused(swa_train: SwaTrain, write: Write) -> None:
    write("my/optimizer/lbfgs.yaml", "_target_: torch.optim.LBFGS\n")
    outcome = swa_train("--config-dir", "my", *TINY, "optimizer=lbfgs")
    assert outcome.code == 2
    assert "optimizer._target_=torch.optim.LBFGS: takes no step: " in outcome.err


def test_states_are_kept_for_methods_that_can_start_from_them(
    tmp_path: Path, swa_train: SwaTrain
) -> None:
    """EMA's state holds an average that SGD, SWA and FGE do not have."""
    assert swa_train(*TINY, "method=ema").code == 0
    assert [path.name[:15] for path in tmp_path.rglob("*.pt")] == ["seed0-epoch0004"]


def test_the_last_weights_of_a_fixed_rate_are_trained_with_their_average(
    tmp_path: Path, swa_train: SwaTrain
) -> None:
    """Of 4 epochs, those after 2, 3 and 4 are averaged."""
    outcome = swa_train(*TINY, "method=swa_fixed_rate", "also_train=[sgd_fixed_rate]")
    assert outcome.code == 0, outcome.err
    assert "Going on after epoch 4, shared with swa_fixed_rate: sgd_fixed_rate" in outcome.err
    assert re.search(r"│ +│ +│ Fixed-rate SGD +│ Fixed-rate SWA +│", outcome.out)
    last, average = records_below(tmp_path)
    assert (last["recipe_diff"], average["recipe_diff"]) == (average["recipe_diff"],) * 2
    assert average["result"]["n_averaged"] == 3
    assert last["result"]["test_loss"] == average["result"]["last_weights"]["test_loss"]
    assert last["result"]["test_loss"] != average["result"]["test_loss"]


def test_every_failure_is_named_with_its_method(swa_train: SwaTrain) -> None:
    outcome = swa_train(*TINY, "also_train=[sgd]", "model.learning_rate=1e20")
    assert outcome.code == 1
    lines = [line for line in outcome.err.splitlines() if "training loss of epoch 1" in line]
    assert len(lines) == 2 and "(tiny, swa, seed 0" in lines[0] and "(tiny, sgd," in lines[1]
