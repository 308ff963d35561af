"""What the report says at its top, of own data, and over what it is not written."""

import re
from pathlib import Path

import pytest
from record_helpers import write_run

from swa_bench.commands.records import swa_report


def page_of(folder: Path) -> str:
    swa_report(["--records", str(folder), "--out", str(folder.parent / "out")])
    return (folder.parent / "out" / "index.html").read_text()


def test_every_link_of_the_contents_leads_to_a_heading(tmp_path: Path) -> None:
    bf16 = {"recipe_hash": "b" * 12, "recipe_diff": {"precision": "bf16"}}
    for changes in ({}, bf16):
        write_run(tmp_path / "in", {1.0: 6.0}, [0.1], **changes)
    page = page_of(tmp_path / "in")
    links = re.findall(r'<a href="#([^"]+)">(.*?)</a>', page)
    headings = dict(re.findall(r'<h[23] id="([^"]+)">(.*?)</h[23]>', page))
    assert all(headings[name].startswith(said) for name, said in links)
    assert [name for name, _ in links] == list(headings)
    rows = [said for name, said in links if name.startswith("row-")]
    assert rows == ["VGG16 on CIFAR-10", "VGG16 [a] on CIFAR-10"]
    assert page.count("<li>[a] precision=bf16</li>") == 1
    assert "Seed 0; [a] precision=bf16." in " ".join(page.split())


def test_a_page_of_own_data_says_nothing_of_the_paper(tmp_path: Path) -> None:
    write_run(tmp_path / "in", {1.0: 21.3}, [0.05] * 4, dataset="mine", model="mynet")
    page = page_of(tmp_path / "in")
    assert "Test errors from 1 record in" in page
    assert "published" not in page and "Missing" not in page and "no runs" not in page
    assert "In all figures: one seed." in page


def test_what_is_missing_is_said_of_the_tables_that_have_records(tmp_path: Path) -> None:
    """Whole rows first; SWA has a record after 5 of 10 epochs."""
    row = {"dataset": "imagenet", "model": "resnet50"}
    write_run(tmp_path / "in", {0.5: 23.1}, [], method="swa", **row)
    page = page_of(tmp_path / "in")
    lacking = "ImageNet: ResNet-152, DenseNet-161, ResNet-50 (Before, SWA, 10 epochs)"
    assert lacking in page and "CIFAR" not in page.partition("Row by row")[0]


def test_a_page_of_others_is_not_overwritten(tmp_path: Path) -> None:
    write_run(tmp_path / "in", {1.0: 6.0}, [0.1])
    own = tmp_path / "out" / "index.html"
    own.parent.mkdir()
    own.write_text("<title>My site</title>")
    with pytest.raises(SystemExit, match=rf"{own} is there and not of this command"):
        page_of(tmp_path / "in")
    assert own.read_text() == "<title>My site</title>"
