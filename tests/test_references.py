"""What ours are compared with: another source of results/published, or other records."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from record_helpers import write_record

from swa_bench.commands.records import swa_tables
from swa_bench.results.references import Estimate, Reference, published

ROOT = Path(__file__).parent.parent
KEY = ("cifar10", "vgg16", "sgd", 1.0)


def tables_against(folder: Path, against: str | Path, *more: str) -> list[str]:
    """The lines of the table of single networks, of records in a folder."""
    out = folder.parent / "tables"
    swa_tables(["--records", str(folder), "--out", str(out), "--against", str(against), *more])
    return (out / "cifar10.txt").read_text().splitlines()


def line_of(lines: list[str], name: str) -> list[str]:
    """The cells of the first line of a name, after its row's."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
    return next(cells[2:] for cells in rows if cells[1:2] == [name])


def test_another_source(tmp_path: Path) -> None:
    """The fast.ai replication has 93.42 % for SGD of VGG16, and no deviation."""
    write_record(tmp_path / "runs", error=6.75)
    lines = tables_against(tmp_path / "runs", "fastai_horton")
    assert line_of(lines, "fast.ai")[0] == "6.58 (n=3)"
    assert line_of(lines, "difference")[0] == "+0.17"
    assert line_of(lines, "Welch")[0] == "no deviation: no test"
    assert "Fast.ai: replication with the fast.ai library" in " ".join(lines)
    assert "published" not in " ".join(lines)


def test_other_records_and_their_weights(tmp_path: Path, capsys: Any) -> None:
    """Means 6.7 and 6.4; the weights of seed 1 are the same, seed 3 is of theirs alone."""
    for seed, error in enumerate((6.5, 6.7, 6.9)):
        weights = {"weights_sha256": f"{seed:064}"}
        write_record(tmp_path / "runs", seed=seed, error=error, result=weights)
    for seed, error in ((0, 6.2), (1, 6.7), (3, 6.3)):
        weights = {"weights_sha256": f"{seed or 9:064}"}
        write_record(tmp_path / "theirs", seed=seed, error=error, result=weights)
    lines = tables_against(tmp_path / "runs", tmp_path / "theirs")
    assert line_of(lines, "reference")[0] == "6.40 ± 0.26 (n=3)"
    assert line_of(lines, "difference")[0] == "+0.30"
    assert "Weights equal to those of the reference, to the last bit: 1 of 2" in (
        capsys.readouterr().out
    )
    frame = pd.read_csv(tmp_path / "tables" / "cifar10.csv")
    assert frame["reference_mean"].tolist() == [6.4] and "published_mean" not in frame


@pytest.mark.parametrize(("digest", "said"), [("0" * 64, True), ("1" * 64, False), (None, False)])
def test_a_reference_of_other_images_is_named(
    tmp_path: Path, capsys: Any, digest: str | None, said: bool
) -> None:
    """Not where a record does not say of which images it is."""
    write_record(tmp_path / "runs", data_sha256=digest)
    write_record(tmp_path / "theirs", data_sha256="1" * 64)
    tables_against(tmp_path / "runs", tmp_path / "theirs")
    sentence = "cifar10: these records are of other images than the reference."
    assert (sentence in capsys.readouterr().out) is said


def test_a_figure_of_another_precision_serves_where_there_is_no_other() -> None:
    """Not where two would do; figures that are of no recipe are compared with any."""
    one, other = Estimate(6.0, 0.1, 3), Estimate(7.0, 0.1, 3)
    figures = {
        (KEY, "batch_size=64 precision=bf16"): one,
        (KEY, "precision=bf16"): one,
        (KEY, "precision=tf32"): other,
    }
    reference = Reference("reference", figures)
    assert reference.figure(KEY, "batch_size=64") is one
    assert reference.figure(KEY, "batch_size=64 precision=tf32") is one
    assert reference.figure(KEY, "precision=tf32") is other
    assert reference.figure(KEY) is None
    assert reference.figure(KEY, "batch_size=32 precision=bf16") is None
    assert published().figure(KEY, "batch_size=32") == published().figure(KEY)


@pytest.mark.parametrize(
    ("against", "message"),
    [
        ("nobody", r"nobody: no source and no folder; sources: authors, fge_authors, "),
        ("torch_swa_examples", "nothing to compare with these records; it has cifar100 "),
        ("theirs", "nothing to compare with these records; its recipe is another: batch_size=64"),
        ("empty", "--against .*empty: no records there"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, against: str, message: str) -> None:
    write_record(tmp_path / "runs")
    write_record(tmp_path / "theirs", recipe_diff={"batch_size": 64})
    (tmp_path / "empty").mkdir()
    folder = tmp_path / against
    with pytest.raises(SystemExit, match=message):
        tables_against(tmp_path / "runs", folder if folder.is_dir() else against)


def test_shipped_records_are_beside_the_authors_program(tmp_path: Path) -> None:
    """Their six SGD runs have 52.317 %, ours 50.683 %."""
    folder = ROOT / "results" / "shipped" / "cpu-amd-epyc" / "fidelity"
    swa_tables(["--records", str(folder), "--against", "authors_program", "--out", str(tmp_path)])
    frame = pd.read_csv(tmp_path / "cifar10_mini.csv")
    assert frame["reference_n"].tolist() == [6] * 4 and frame["n"].tolist() == [6] * 4
    assert frame["difference"][frame["method"] == "sgd"].tolist() == [
        pytest.approx(50.683 - 52.317, abs=1e-3)
    ]
