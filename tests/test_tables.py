"""Golden tables from made records; Welch's test by hand; what is never averaged together."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from swa_bench.reporting import figures, tables
from swa_bench.results import statistics as summary
from swa_bench.results.record import read_cells, write_epochs

ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "tests" / "fixtures"


def write_record(folder: Path, **changes: Any) -> Path:
    """A record of VGG16's SGD cell as swa-train writes it, with some fields changed."""
    record: dict[str, Any] = {
        "format": 1,
        "dataset": "cifar10",
        "model": "vgg16",
        "method": "sgd",
        "budget": 1.0,
        "epochs": 200,
        "seed": 0,
        "identity": "0123456789ab",
        "path_sha256": "f" * 64,
        "result": {"test_error_pct": 6.75},
        "variant": {},
        "device": "a made device",
    }
    result = {"test_error_pct": changes.pop("error", 6.75)} | changes.pop("result", {})
    record |= changes | {"result": result}
    name = f"{record['method']}-seed{record['seed']}-{record['identity']}"
    path = folder / record["dataset"] / record["model"] / name / f"cell-{record['budget']:g}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """SGD and SWA of VGG16, one seed of PreResNet110, and a variant."""
    folder = tmp_path / "records"
    for seed, error in enumerate((6.50, 6.70, 6.90)):
        write_record(folder, seed=seed, error=error)
    for seed, error in enumerate((6.00, 6.02, 6.04)):
        write_record(folder, seed=seed, error=error, method="swa", budget=1.5)
    write_record(folder, model="preresnet110", error=5.03)
    variant = {"dataset.augmentation.padding_mode": "reflect"}
    write_record(folder, seed=0, error=6.40, identity="reflect00000", variant=variant)
    return folder


def test_golden_tables(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "tables"
    tables.main(["--records", str(made), "--out", str(out)])
    for suffix in ("txt", "md", "csv", "tex"):
        expected = (FIXTURES / f"cifar10.{suffix}").read_text()
        assert (out / f"cifar10.{suffix}").read_text() == expected, suffix


def test_mean_std_and_welch_by_hand() -> None:
    """6.5, 6.7, 6.9: mean 6.7, std 0.2. Against 6.75 ± 0.16 (n=3), by Welch's formulae."""
    compared = summary.compare(summary.Cell(6.7, 0.2, 3), summary.Cell(6.75, 0.16, 3))
    va, vb = 0.2**2 / 3, 0.16**2 / 3
    t = (6.7 - 6.75) / math.sqrt(va + vb)
    degrees = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 2)
    assert t == pytest.approx(-0.3381, abs=1e-4)
    assert degrees == pytest.approx(3.816, abs=1e-3)
    # The two-sided p-value by numerical integration of Student's density.
    constant = math.gamma((degrees + 1) / 2) / (
        math.sqrt(degrees * math.pi) * math.gamma(degrees / 2)
    )
    step = abs(t) / 10_000
    inside = sum(
        constant * (1 + ((i + 0.5) * step) ** 2 / degrees) ** (-(degrees + 1) / 2) * step
        for i in range(10_000)
    )
    assert compared["p_value"] == pytest.approx(1 - 2 * inside, abs=1e-6)
    assert compared["verdict"] == "agrees"
    assert compared["difference"] == pytest.approx(-0.05)


def test_verdicts() -> None:
    theirs = summary.Cell(6.36, 0.18, 3)
    assert summary.compare(summary.Cell(5.0, 0.1, 3), theirs)["verdict"] == "lower"
    assert summary.compare(summary.Cell(8.0, 0.1, 3), theirs)["verdict"] == "higher"
    assert summary.compare(summary.Cell(6.0, math.nan, 1), theirs)["verdict"] == "one seed: no test"
    assert summary.compare(summary.Cell(6.0, 0.1, 3), None)["verdict"] == "nothing published"


def test_published_figures() -> None:
    figures_ = summary.published()
    assert len(figures_) == 2 * 4 * 4 + (2 + 3) * 6
    cell = figures_["cifar10", "wrn28_10", "swa", 1.5]
    assert (round(cell.mean, 2), cell.std, cell.n) == (3.21, 0.05, 3)


def test_a_seed_counts_once_and_precisions_stay_apart(made: Path) -> None:
    write_record(made / "again", seed=2, error=6.90)
    write_record(made, seed=5, error=9.0, identity="bf16bf16bf16", variant={"precision": "bf16"})
    cells = summary.summarise(summary.cells_frame(read_cells([made])))
    sgd = cells[(cells["method"] == "sgd") & (cells["model"] == "vgg16")]
    by_variant = {row["variant"]: (row["error_mean"], row["n"]) for _, row in sgd.iterrows()}
    assert by_variant[""] == (pytest.approx(6.7), 3)
    assert by_variant["precision=bf16"] == (9.0, 1)


def test_one_variant_of_two_identities_stays_apart(made: Path) -> None:
    """As when a default was changed between two versions of the project."""
    write_record(made, seed=7, error=1.0, identity="ffffffffffff")
    cells = summary.summarise(summary.cells_frame(read_cells([made])))
    sgd = cells[(cells["method"] == "sgd") & (cells["error_mean"] < 2)]
    assert list(sgd["variant"]) == ["identity=ffffffffffff/ffffff"]
    assert list(sgd["n"]) == [1]


def test_nothing_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    tables.main([])
    printed = capsys.readouterr().out
    # The four rows of either data set, and those with published ensembles, beside SWA and SGD.
    assert printed.count("no runs") == 2 * 4 * 4 + (2 + 3) * 8
    assert "6.75 ± 0.16 (n=3)" in printed
    assert "0 records from results/runs or results/shipped" in printed


def test_own_records_come_before_shipped_ones(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    made.rename(tmp_path / "results" / "shipped")
    tables.main([])
    assert "8 records from results/shipped" in capsys.readouterr().out
    write_record(tmp_path / "results" / "runs", error=7.0)
    tables.main([])
    assert "1 records from results/runs" in capsys.readouterr().out


def test_damaged_records_are_named(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_record(made, seed=9)
    path.write_text(path.read_text()[:-20])
    assert len(read_cells([made])) == 8
    assert f"{path} is damaged" in caplog.text


def test_an_unknown_folder_is_an_error(capsys: Any) -> None:
    with pytest.raises(SystemExit, match="swa-tables: --records nowhere: no such folder"):
        tables.main(["--records", "nowhere"])


def test_learning_curves_show_means_of_seeds(tmp_path: Path) -> None:
    for seed, errors in enumerate(((50.0, 40.0), (54.0, 44.0))):
        for method, identity in (("sgd", "a" * 12), ("swa", "b" * 12)):
            path = write_record(
                tmp_path, dataset="cifar10_mini", method=method, identity=identity, seed=seed
            )
            rows = [
                {"epoch": epoch, "learning_rate": 0.1, "test_error_pct": error, "n_averaged": 0}
                for epoch, error in enumerate(errors, start=1)
            ]
            rows[-1]["swa_test_error_pct"] = 30.0 if method == "swa" else None
            write_epochs(path.parent, rows)
    figure = figures.captioned(figures.draw_learning_curves, read_cells([tmp_path]))
    errors_axes, rates_axes = figure.axes
    lines = {line.get_label(): list(line.get_ydata()) for line in errors_axes.lines}
    assert lines == {
        "SGD 1, n=2": [52.0, 42.0],
        "SWA 1, last weights": [52.0, 42.0],
        "SWA 1, n=2": [30.0],
    }
    assert len(rates_axes.lines) == 2
    assert "NOT comparable with the paper" in figure.get_suptitle()
    (path,) = figures.write_figures(read_cells([tmp_path]), tmp_path / "out")
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_a_record_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    path = write_record(tmp_path / "records")
    path.write_text(path.read_text().replace('"cifar10"', '"../outside"'))
    tables.main(["--records", str(tmp_path / "records"), "--out", str(tmp_path / "tables" / "in")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records", "tables"]
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["in"]
    assert (tmp_path / "tables" / "in" / "_outside.md").exists()


def test_the_readmes_table_is_made_from_the_shipped_records(tmp_path: Path) -> None:
    quickstart = ROOT / "results" / "shipped" / "cpu-amd-epyc" / "quickstart"
    tables.main(["--records", str(quickstart), "--out", str(tmp_path)])
    assert (tmp_path / "cifar10_mini.md").read_text() in (ROOT / "README.md").read_text()


def test_the_tables_of_the_questions_are_made_from_the_shipped_records(tmp_path: Path) -> None:
    tables.main(["--records", str(ROOT / "results" / "shipped"), "--out", str(tmp_path)])
    page = (ROOT / "docs" / "questions.md").read_text()
    made = list(tmp_path.glob("*.md"))
    assert len(made) == 4 and all(path.read_text() in page for path in made)
