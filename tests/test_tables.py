"""Golden tables from made records; Welch's test by hand; what is never averaged together."""

import math
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from record_helpers import write_record

from swa_bench.commands.records import swa_tables
from swa_bench.reporting import tables
from swa_bench.results import frames, statistics
from swa_bench.results.record import read_records
from swa_bench.results.references import Estimate, published

ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "tests" / "fixtures"


def compare(ours: Estimate, theirs: Estimate | None) -> dict[str, Any]:
    """Difference, p-value and verdict of one cell."""
    figures_ = {"error_mean": ours.mean, "error_std": ours.std, "n": ours.n}
    published = theirs or Estimate(math.nan, math.nan, None)
    figures_ |= {"published_mean": published.mean, "published_std": published.std}
    figures_ |= {"published_n": math.nan if published.n is None else published.n}
    (compared,) = statistics.compare(pd.DataFrame([figures_])).to_dict("records")
    return {str(name): value for name, value in compared.items()}


def summary_of(folder: Path) -> pd.DataFrame:
    return statistics.summarise(frames.cells_frame(read_records([folder])))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """SGD and SWA of VGG16, one seed of PreResNet110, and another recipe."""
    folder = tmp_path / "records"
    for seed, error in enumerate((6.50, 6.70, 6.90)):
        write_record(folder, seed=seed, error=error)
    for seed, error in enumerate((6.00, 6.02, 6.04)):
        write_record(folder, seed=seed, error=error, method="swa", budget=1.5)
    write_record(folder, model="preresnet110", error=5.03)
    recipe_diff = {"augmentation.padding_mode": "reflect"}
    write_record(folder, seed=0, error=6.40, recipe_hash="reflect00000", recipe_diff=recipe_diff)
    return folder


def test_golden_tables(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "tables"
    swa_tables(["--records", str(made), "--out", str(out)])
    for suffix in ("txt", "md", "csv", "tex"):
        expected = (FIXTURES / f"cifar10.{suffix}").read_text()
        assert (out / f"cifar10.{suffix}").read_text() == expected, suffix


def test_mean_std_and_welch_by_hand() -> None:
    """6.5, 6.7, 6.9: mean 6.7, std 0.2. Against 6.75 ± 0.16 (n=3), by Welch's formulae."""
    compared = compare(Estimate(6.7, 0.2, 3), Estimate(6.75, 0.16, 3))
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
    theirs = Estimate(6.36, 0.18, 3)
    assert compare(Estimate(5.0, 0.1, 3), theirs)["verdict"] == "lower"
    assert compare(Estimate(8.0, 0.1, 3), theirs)["verdict"] == "higher"
    assert compare(Estimate(6.0, math.nan, 1), theirs)["verdict"] == "one seed: no test"
    assert compare(Estimate(6.0, 0.1, 3), None)["verdict"] == "nothing to compare"


def test_published_figures() -> None:
    assert len(published().cells()) == 2 * 4 * 4 + (2 + 3) * 6 + 9
    before = published().figure(("imagenet", "resnet50", "pretrained", 0.0))
    assert (round(before.mean, 2), before.n) == (23.85, None)
    assert compare(Estimate(23.87, 0.1, 3), before)["verdict"] == "no n: no test"
    cell = published().figure(("cifar10", "wrn28_10", "swa", 1.5))
    assert (round(cell.mean, 2), cell.std, cell.n) == (3.21, 0.05, 3)


def test_a_seed_counts_once_and_precisions_stay_apart(made: Path) -> None:
    write_record(made / "again", seed=2, error=6.90)
    write_record(
        made, seed=5, error=9.0, recipe_hash="bf16bf16bf16", recipe_diff={"precision": "bf16"}
    )
    cells = summary_of(made)
    sgd = cells[(cells["method"] == "sgd") & (cells["model"] == "vgg16")]
    by_recipe = {row["recipe_diff"]: (row["error_mean"], row["n"]) for _, row in sgd.iterrows()}
    assert by_recipe[""] == (pytest.approx(6.7), 3)
    assert by_recipe["precision=bf16"] == (9.0, 1)


def test_one_recipe_diff_of_two_hashes_stays_apart(made: Path) -> None:
    """As when a default was changed between two versions of the project."""
    write_record(made, seed=7, error=1.0, recipe_hash="ffffffffffff")
    cells = summary_of(made)
    sgd = cells[(cells["method"] == "sgd") & (cells["error_mean"] < 2)]
    assert list(sgd["recipe_diff"]) == ["recipe_hash=ffffffffffff/ffffff"]
    assert list(sgd["n"]) == [1]


def test_nothing_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    swa_tables([])
    printed = capsys.readouterr().out
    # The four rows of either data set, and those with published ensembles, beside SWA and SGD.
    assert printed.count("no runs") == 2 * 4 * 4 + (2 + 3) * 8
    assert "6.75 ± 0.16 (n=3)" in printed
    assert "0 records from results/runs or results/shipped" in printed


def test_the_papers_table_of_a_data_set_without_records(made: Path, tmp_path: Path) -> None:
    """It is asked for by the filter; a data set that the paper has not must have records."""
    out = tmp_path / "tables"
    command = ["--records", str(made), "--out", str(out), "--dataset"]
    swa_tables([*command, "imagenet"])
    (table,) = out.glob("*.txt")
    assert table.read_text().count("no runs") == 3 * 3 and "23.03 ± 0.05 (n=3)" in table.read_text()
    with pytest.raises(SystemExit, match="--dataset mnist: of no record; there are: cifar10"):
        swa_tables([*command, "mnist"])


def test_own_records_come_before_shipped_ones(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    made.rename(tmp_path / "results" / "shipped")
    swa_tables([])
    assert "8 records from results/shipped" in capsys.readouterr().out
    write_record(tmp_path / "results" / "runs", error=7.0)
    swa_tables([])
    assert "1 record from results/runs" in capsys.readouterr().out


def test_damaged_records_are_named(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_record(made, seed=9)
    path.write_text(path.read_text()[:-20])
    assert len(read_records([made])) == 8
    assert f"{path} is damaged" in caplog.text


def test_an_unknown_folder_is_an_error(capsys: Any) -> None:
    with pytest.raises(SystemExit, match="swa-tables: --records nowhere: no such folder"):
        swa_tables(["--records", "nowhere"])


def letters_of(folder: Path) -> dict[str, list[str]]:
    """The letters below each table in a folder."""
    return {
        path.stem: re.findall(r"^(\[\w+\] .*)$", path.read_text(), re.MULTILINE)
        for path in folder.glob("*.txt")
    }


def test_a_letter_means_one_recipe_in_all_tables(tmp_path: Path) -> None:
    shared = {"batch_size": 64}
    own = {"precision": "bf16"}
    write_record(tmp_path, recipe_diff=shared, recipe_hash="0" * 12)
    write_record(tmp_path, recipe_diff=shared | {"init": "a b"}, recipe_hash="1" * 12)
    for method in ("sgd", "fge"):
        changes = {"method": method, "recipe_diff": shared | own, "recipe_hash": "2" * 12}
        write_record(tmp_path, **changes)
        write_record(tmp_path, dataset="mine", **changes)
    swa_tables(["--records", str(tmp_path), "--out", str(tmp_path / "out")])
    assert letters_of(tmp_path / "out") == {
        "cifar10": ["[a] init=a b", "[b] precision=bf16"],
        "cifar10-ensembles": ["[b] precision=bf16"],
        "cifar10-gains": ["[b] precision=bf16"],
        "mine": ["[b] precision=bf16"],
        "mine-ensembles": ["[b] precision=bf16"],
        "mine-gains": ["[b] precision=bf16"],
    }
    for path in (tmp_path / "out").glob("*.txt"):
        assert path.read_text().count("batch_size=64") == 1
        assert "\nAll runs: batch_size=64\n" in path.read_text()
    assert (tmp_path / "out" / "mine.csv").read_text().count("batch_size=64 precision=bf16") == 1


def test_recipes_have_letters_beyond_z(tmp_path: Path) -> None:
    for number in range(28):
        changes = {"model.swa_start": 100 + number}
        write_record(tmp_path, recipe_diff=changes, recipe_hash=f"{number:012}", dataset="mine")
    swa_tables(["--records", str(tmp_path), "--out", str(tmp_path / "out")])
    found = letters_of(tmp_path / "out")["mine"]
    assert [found[index] for index in (0, 25, 26, 27)] == [
        "[a] model.swa_start=100",
        "[z] model.swa_start=125",
        "[aa] model.swa_start=126",
        "[ab] model.swa_start=127",
    ]


def test_rows_whose_recipe_is_not_published_say_so(tmp_path: Path) -> None:
    said = "Shake-Shake and PyramidNet: the paper has no code for these rows"
    for model, expected in (("vgg16", False), ("shakeshake26_2x64d", True)):
        folder = tmp_path / model
        write_record(folder, model=model, method="swa", budget=1.5, error=2.9)
        cells, epochs = frames_of(folder)
        (table,) = (one for one in tables.make_tables(cells, epochs) if one.name == "cifar10")
        assert any(note.startswith(said) for note in table.notes) == expected
        (row,) = frames.rows(cells, epochs)
        assert row.recipe == ("this project's recipe" if expected else "the published recipe")


def test_own_data_show_only_columns_with_runs(tmp_path: Path) -> None:
    write_record(tmp_path, dataset="mine", method="swa", budget=1.5, error=6.0)
    (table,) = tables.make_tables(*frames_of(tmp_path))
    assert (table.header[2:], table.rows) == (["SWA 1.5"], [["VGG16", "ours", "6.00 (n=1)"]])


def test_own_data_have_the_columns_of_the_table_that_is_most_like_theirs(tmp_path: Path) -> None:
    """A network that is fine-tuned on them: those of the ImageNet table."""
    for method, budget in (("swa", 1.0), ("pretrained", 0.0), ("sgd", 1.0), ("swa", 0.5)):
        epochs = int(10 * budget)
        write_record(tmp_path, dataset="mine", method=method, budget=budget, epochs=epochs)
    table, *_ = tables.make_tables(*frames_of(tmp_path))
    assert table.header[2:] == ["Before", "SWA 0.5", "SWA 1", "SGD"]


def frames_of(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    cells = frames.cells_frame(read_records([folder]))
    return cells, frames.epochs_frame(cells)


def test_lines_around_a_table_fill_the_terminal(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for columns, widest in (("60", 60), ("100", 100), ("300", 110)):
        monkeypatch.setenv("COLUMNS", columns)
        swa_tables(["--records", str(made), "--out", str(tmp_path / "out")])
        printed = capsys.readouterr().out.splitlines()[:-1]
        lengths = [len(line) for line in printed if not line.startswith(tuple("┌│├└"))]
        assert widest - 12 < max(lengths) <= widest


def test_a_wide_table_fits_a_terminal_with_every_figure(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The table of cifar10.txt has 92 characters a line; into a pipe it is printed as it is."""

    def printed() -> list[str]:
        swa_tables(["--records", str(made), "--out", str(tmp_path)])
        return list(capsys.readouterr().out.splitlines()[:-1])  # the last one names folders

    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, printed())) > 60
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = printed()
    assert max(map(len, lines)) <= 60
    rows = [line.split() for line in lines]
    first = rows.index("VGG16 ours 6.70 ± 0.20 no runs".split())
    assert rows[first - 2] == "SGD SWA 1".split()
    assert rows[first + 1] == ["(n=3)"]
    second = rows.index("VGG16 ours no runs 6.02 ± 0.02".split())
    assert second > first and rows[second - 2] == "SWA 1.25 SWA 1.5".split()


def test_a_csv_of_others_is_not_overwritten(made: Path, tmp_path: Path) -> None:
    own = tmp_path / "cifar10.csv"
    own.write_text("image,label\n")
    with pytest.raises(SystemExit, match=rf"{own} is there and not of this command"):
        swa_tables(["--records", str(made), "--out", str(tmp_path)])
    assert own.read_text() == "image,label\n"
    assert not (tmp_path / "cifar10.txt").exists()


def test_a_record_cannot_name_a_file_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_record(tmp_path / "records")
    path.write_text(path.read_text().replace('"cifar10"', '"../outside"'))
    swa_tables(["--records", str(tmp_path / "records"), "--out", str(tmp_path / "tables" / "in")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records", "tables"]
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["in"]
    assert not [path for path in tmp_path.rglob("*outside*")]
    assert f"{path} is damaged (dataset: " in caplog.text


def test_the_readmes_table_is_made_from_the_shipped_records(tmp_path: Path) -> None:
    shipped = ROOT / "results" / "shipped" / "cpu-amd-epyc"
    for folder, dataset in (("quickstart", "cifar10_mini"), ("cifar10_cpu", "cifar10")):
        only = ["--model", "preresnet20", "--method", "swa", "sgd"]
        swa_tables(["--records", str(shipped / folder), *only, "--out", str(tmp_path)])
        assert (tmp_path / f"{dataset}.md").read_text() in (ROOT / "README.md").read_text()


def test_the_tables_of_the_questions_are_made_from_the_shipped_records(tmp_path: Path) -> None:
    page, shipped = (ROOT / "docs" / "questions.md").read_text(), ROOT / "results" / "shipped"
    # Of CIFAR-10 without the rows of the paper that have no runs.
    for dataset, count, only in (
        ("cifar10", 5, ["--model", "preresnet20"]),
        ("cifar10_mini", 5, []),
    ):
        out = tmp_path / dataset
        swa_tables(["--records", str(shipped), "--out", str(out), "--dataset", dataset, *only])
        made = list(out.glob("*.md"))
        assert len(made) == count and all(path.read_text() in page for path in made)
