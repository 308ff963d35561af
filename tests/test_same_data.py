"""Data are known by their content: what is finished, averaged or restored is of the same images."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import made_images
from record_helpers import write_record
from training_helpers import SHORT_RECIPE, TINY, TINY_NET, SwaTrain

from swa_bench.commands import export
from swa_bench.commands.records import swa_tables
from swa_bench.config.schema import DatasetConfig
from swa_bench.data.images import ImageSet
from swa_bench.training import ensembles, job

FIRST, OTHER = made_images(288, 100), made_images(288, 100)
OTHER.train_images[5, 0, 0, 0] ^= 1
now: list[ImageSet] = []


def mine(dataset: DatasetConfig) -> ImageSet:
    """A user's own data set, which a test changes."""
    return now[-1]


MINE = [*TINY_NET, *SHORT_RECIPE[1:], "dataset=cifar10", "dataset.name=mine"]
MINE += ["dataset._target_=test_same_data.mine", "dataset.source=local", "device=cpu", "budget=1"]


@pytest.fixture(autouse=True)
def first() -> None:
    now[:] = [FIRST]


def record_of(folder: Path, method: str = "swa", seed: int = 0) -> Path:
    (path,) = folder.rglob(f"{method}-seed{seed}-*/cell-1.json")
    return path


def test_a_record_of_other_images_is_not_finished_and_not_overwritten(
    swa_train: SwaTrain, tmp_path: Path
) -> None:
    assert swa_train(*MINE).code == 0
    assert "Finished already" in swa_train(*MINE).err
    path = record_of(tmp_path)
    before = path.read_text()
    now.append(OTHER)
    for more in ([], ["budget=1.5"], ["budget=1.5", "force=true", "report_budgets=[]"]):
        outcome = swa_train(*MINE, *more)
        assert outcome.code == 1
        line = outcome.err.splitlines()[-1]
        place = path.relative_to(tmp_path)
        there, here = (images.identity().sha256[:12] for images in (FIRST, OTHER))
        assert line == (
            f"swa-train: {place} is of other images (data_sha256 {there}; mine in data now has "
            f"{here}): choose another results_dir or dataset.name, or train it again with "
            "force=true budget=1"
        )
    assert path.read_text() == before
    assert not list(tmp_path.rglob("traceback.txt")) and not list(tmp_path.rglob("cell-1.5.json"))

    outcome = swa_train(*MINE, "seed=1")  # a row of its own, with a label
    assert outcome.code == 0
    for letter, images in (("a", FIRST), ("b", OTHER)):
        assert f"tiny [{letter}]" in outcome.out and "±" not in outcome.out.split("┌")[1]
        assert f"data_sha256={images.identity().sha256[:12]}" in outcome.out
    assert swa_train(*MINE, "force=true").code == 0
    assert "Finished already" in swa_train(*MINE).err
    assert json.loads(path.read_text())["data_sha256"] == OTHER.identity().sha256


def test_other_class_names_are_another_data_set(swa_train: SwaTrain, tmp_path: Path) -> None:
    names = [f"class {label}" for label in range(10)]
    now.append(dataclasses.replace(FIRST, class_names=names))
    assert swa_train(*MINE, "method=sgd").code == 0
    assert "Finished already" in swa_train(*MINE, "method=sgd").err
    now.append(dataclasses.replace(FIRST, class_names=names[::-1]))
    outcome = swa_train(*MINE, "method=sgd")
    assert outcome.code == 1
    assert "cell-1.json is of other classes (class 0, class 1, " in outcome.err
    assert "mine in data now has class 9, class 8, " in outcome.err


def test_published_images_are_not_needed_once_a_run_is_finished(
    swa_train: SwaTrain, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dataset: DatasetConfig) -> ImageSet:
        raise AssertionError("loaded")

    monkeypatch.setattr(job, "load_images", refuse)
    outcome = swa_train(*TINY, "budget=1.5", f"results_dir={undisturbed / 'runs'}", "device=cpu")
    assert outcome.code == 0 and "Finished already" in outcome.err


def test_an_ensemble_is_of_one_data_set(swa_train: SwaTrain, tmp_path: Path) -> None:
    both = [*MINE, "model.budget_epochs=1", "model.swa_start=1", "method=independent", "budget=2"]
    assert swa_train(*both).code == 0
    now.append(OTHER)
    outcome = swa_train(*both)
    assert outcome.code == 1 and "is of other images" in outcome.err
    for path in tmp_path.rglob("sgd-seed*/cell-1.json"):
        path.unlink()  # of the ensemble's members
    outcome = swa_train(*both)
    assert outcome.code == 1
    assert "independent-seed0-" in outcome.err and "is of other images" in outcome.err
    assert swa_train(*both, "force=true").code == 0
    assert "is of other images" not in swa_train(*both).err


def test_restoring_and_evaluating_name_other_images(
    swa_train: SwaTrain, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert swa_train(*MINE).code == 0
    arguments = [str(record_of(tmp_path)), "net.safetensors", "--device=cpu", "--trust"]
    export.swa_export(arguments)
    export.swa_evaluate(["net.safetensors", "--device=cpu", "--trust"])
    assert "other images" not in capfd.readouterr().err
    now.append(OTHER)
    with pytest.raises(SystemExit, match=r"is of other images .*: put the images of the run there"):
        export.swa_export([*arguments, "--force"])
    export.swa_evaluate(["net.safetensors", "--device=cpu", "--trust"])
    assert "net.safetensors is of other images" in capfd.readouterr().err


def test_seeds_of_other_images_are_never_averaged(tmp_path: Path, capsys: Any) -> None:
    """Nor is one model compared with another's data; older records do not say."""
    made = {"dataset": "mine", "model": "net"}
    for seed, (sha256, error) in enumerate((("a" * 64, 10.0), ("a" * 64, 12.0), ("b" * 64, 50.0))):
        write_record(tmp_path / "runs", seed=seed, error=error, data_sha256=sha256, **made)
    write_record(tmp_path / "runs", error=40, data_sha256="b" * 64, **made | {"model": "deep"})
    fewer = {"recipe_hash": "fewer0000000", "recipe_diff": {"dataset.train_images": 9}}
    write_record(tmp_path / "runs", error=60, data_sha256="c" * 64, **made | fewer)
    for seed, data in enumerate(({}, {"data_sha256": "d" * 64})):
        write_record(tmp_path / "runs", seed=seed, error=20 + seed, dataset="old", **data)
    swa_tables(["--records", str(tmp_path / "runs"), "--out", str(tmp_path / "tables")])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("│")[1:4:2] for line in lines if line.startswith("│ ") and "ours" in line]
    assert [[text.strip() for text in row] for row in rows] == [
        ["deep [a]", "40.00 (n=1)"],
        ["net [b]", "11.00 ± 1.41 (n=2)"],
        ["net [a]", "50.00 (n=1)"],
        ["net [c]", "60.00 (n=1)"],
        ["VGG16", "20.50 ± 0.71 (n=2)"],
    ]
    labels = ["[a] data_sha256=bbbbbbbbbbbb", "[b] data_sha256=aaaaaaaaaaaa"]
    assert all(label in lines for label in [*labels, "[c] dataset.train_images=9"])


def test_seeds_of_other_code_are_never_averaged(tmp_path: Path, capsys: Any) -> None:
    """Nor is one method compared with another that trained another network of the name."""
    code = {name: {"model._target_": name * 64} for name in "ab"}
    made = {"dataset": "mine", "model": "net", "method": "swa"}
    for seed, (name, error) in enumerate((("a", 10.0), ("a", 12.0), ("b", 50.0))):
        write_record(tmp_path / "runs", seed=seed, error=error, source_sha256=code[name], **made)
    sgd = {"method": "sgd", "recipe_hash": "ofsgd0000000", "source_sha256": code["b"]}
    write_record(tmp_path / "runs", error=40, **made | sgd)
    swa_tables(["--records", str(tmp_path / "runs"), "--out", str(tmp_path / "tables")])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("│")[1:5] for line in lines if line.startswith("│ ") and "ours" in line]
    assert [[text.strip() for text in row] for row in rows] == [
        ["net [a]", "ours", "no runs", "11.00 ± 1.41 (n=2)"],
        ["net [b]", "ours", "40.00 (n=1)", "50.00 (n=1)"],
    ]
    assert [f"[{name}] model.source_sha256={name * 12}" for name in "ab"] == lines[-4:-2]


def test_one_recipe_is_one_row_whether_typed_or_from_a_file(tmp_path: Path, capsys: Any) -> None:
    made = {"dataset": "mine", "model": "net", "method": "late"}
    for seed, typed in enumerate(({"method.cycle_epochs": 2}, {})):
        made["config"] = {"model": {"name": "net"}, "method": {"name": "late", "cycle_epochs": 2}}
        write_record(tmp_path / "runs", seed=seed, error=10 + seed, recipe_diff=typed, **made)
    swa_tables(["--records", str(tmp_path / "runs"), "--out", str(tmp_path / "tables")])
    printed = capsys.readouterr().out
    assert "10.50 ± 0.71 (n=2)" in printed and "cycle_epochs" not in printed


def test_the_changed_image_is_the_only_difference() -> None:
    assert (FIRST.train_images != OTHER.train_images).sum() == 1
    assert np.array_equal(FIRST.test_images, OTHER.test_images)
    assert ensembles.load_images is job.load_images
