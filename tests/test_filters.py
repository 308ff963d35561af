"""swa-tables of some of the records."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from record_helpers import write_record

from swa_bench.commands.records import swa_tables
from swa_bench.results.epochs import write_epochs
from swa_bench.results.frames import cells_frame, epochs_frame
from swa_bench.results.record import read_records


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Two models and methods, in fp32 and bf16."""
    for model in ("vgg16", "preresnet164"):
        for method in ("sgd", "swa"):
            for precision, error in (("fp32", 6.0), ("bf16", 5.0)):
                options = {"precision": precision, "model": {"swa_start": 161, "name": model}}
                diff = {"precision": "bf16"} if precision == "bf16" else {}
                changes = {"config": options, "recipe_diff": diff, "recipe_hash": precision * 3}
                write_record(tmp_path / "in", model=model, method=method, error=error, **changes)
    return tmp_path / "in"


def filtered(folder: Path, *filters: str) -> set[tuple[str, str, str]]:
    swa_tables(["--records", str(folder), "--out", str(folder.parent / "out"), *filters])
    frame = pd.read_csv(folder.parent / "out" / "cifar10.csv", keep_default_na=False)
    return set(zip(frame["model"], frame["method"], frame["recipe_diff"], strict=True))


def test_filters(several: Path, capsys: Any) -> None:
    assert filtered(several, "--model", "vgg16", "--where", "precision=bf16") == {
        ("vgg16", "sgd", "precision=bf16"),
        ("vgg16", "swa", "precision=bf16"),
    }
    printed = capsys.readouterr().out
    assert "2 records from" in printed and "with model=vgg16 precision=bf16;" in printed
    assert "PreResNet" not in printed.split("Published:")[0]  # no rows without runs
    assert "All runs: precision=bf16" in printed and "[a]" not in printed
    both = filtered(several, "--method", "sgd", "--where", "precision=bf16", "precision=fp32")
    assert len(both) == 4 and {method for _, method, _ in both} == {"sgd"}
    assert len(filtered(several, "--model", "vgg16", "preresnet164")) == 8
    assert len(filtered(several, "--where", "model.swa_start=161.0", "budget=1")) == 8


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ("--model vgg17", "--model vgg17: of no record; there are: preresnet164, vgg16"),
        ("--model vgg16 vgg17", "--model vgg17: of no record; there are: preresnet164, vgg16"),
        ("--dataset x", "--dataset x: of no record; there are: cifar10"),
        ("--where precision=fp8", "--where precision=fp8: of no record; there are: bf16, fp32"),
        ("--where seed=3", "--where seed=3: of no record; there are: 0"),
        (
            "--where swa_start=3",
            "--where swa_start=3: no record has this option; they differ in: precision, model.name",
        ),
    ],
)
def test_a_filter_that_leaves_nothing_lists_what_there_is(
    several: Path, filters: str, said: str
) -> None:
    with pytest.raises(SystemExit, match=re.escape(f"swa-tables: {said}")):
        filtered(several, *filters.split())


def test_a_curve_ends_with_the_longest_cell_that_is_shown(several: Path) -> None:
    for budget in (1.0, 1.5):
        changes = {"method": "swa", "budget": budget, "epochs": int(2 * budget)}
        path = write_record(several.parent / "runs", **changes)
    rows = [{"epoch": e, "learning_rate": 0.1, "test_error_pct": 9} for e in (1, 2, 3)]
    write_epochs(path.parent, rows)
    assert shown_epochs(several.parent / "runs") == [1, 2, 3]
    path.unlink()
    assert shown_epochs(several.parent / "runs") == [1, 2]


def shown_epochs(folder: Path) -> list[float]:
    return list(epochs_frame(cells_frame(read_records([folder])))["epoch"])
