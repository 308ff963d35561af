"""The report: figures by hand, hostile records, and the page in a real browser."""

import html
import html.parser
import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from record_helpers import write_run

from swa_bench.commands.records import swa_report, swa_tables
from swa_bench.reporting import page as report
from swa_bench.results import frames
from swa_bench.results.cost import costs
from swa_bench.results.frames import Row
from swa_bench.results.record import read_records
from swa_bench.results.statistics import Gain, gains

SHIPPED = Path(__file__).parent.parent / "results" / "shipped" / "cpu-amd-epyc" / "quickstart"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars
    --disable-background-networking --disable-component-update --disable-sync""".split()
HOSTILE = (
    "\"'><script>alert(1)</script><img src=http://x.invalid/a.png onerror=alert(1)>-->$\\frac$"
)
LONG = "averyverylongword" * 14


def rows_of(*folders: Path) -> list[Row]:
    cells = frames.cells_frame(read_records(folders))
    return frames.rows(cells, frames.epochs_frame(cells))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Three seeds of SGD and SWA that share two epochs; seed 2 of SGD is missing, 3 is alone."""
    folder = tmp_path / "records"
    for seed, error in ((0, 6.5), (1, 6.9), (3, 9.0)):
        write_run(folder, {1.0: error}, [0.05, 0.05, 0.02, 0.01], seed=seed)
    for seed, error in ((0, 6.1), (1, 6.3), (2, 6.2)):
        errors = {1.0: error, 1.25: error - 0.1, 1.5: error - 0.2}
        write_run(folder, errors, [0.05, 0.05, *[0.03] * 4], seed=seed, method="swa")
    return folder


def gain_of(folder: Path, budget: float, baseline: float = 1.0) -> Gain:
    (row,) = rows_of(folder)
    (gain,) = (g for g in gains(row) if (g.budget, g.baseline_budget) == (budget, baseline))
    return gain


def test_gains_are_paired_by_seed(made: Path) -> None:
    gain = gain_of(made, 1.0)
    assert gain.ours is not None and gain.theirs is not None
    pairs = [6.5 - 6.1, 6.9 - 6.3]
    assert gain.ours.n == 2
    assert gain.ours.mean == pytest.approx(statistics.mean(pairs))
    assert gain.ours.std == pytest.approx(statistics.stdev(pairs))
    assert gain.theirs.mean == pytest.approx(93.59 - 93.25)
    assert gain.theirs.std == pytest.approx((0.16**2 + 0.16**2) ** 0.5)


def test_the_table_of_gains(made: Path, tmp_path: Path) -> None:
    """Gains of 0.4 and 0.6: mean 0.5, and 12.706 x 0.1414 / sqrt(2) = 1.27 around it."""
    write_run(made, {1.5: 6.4}, [], seed=0)
    out = tmp_path / "tables"
    swa_tables(["--records", str(made), "--out", str(out)])
    text = (out / "cifar10-gains.txt").read_text()
    lines = [line.split("│") for line in text.splitlines() if "│" in line and " over SGD" in line]
    cells = [[cell.strip() for cell in line[2:-1]] for line in lines]
    assert cells[0] == ["SWA 1 over SGD 1", "+0.50", "−0.77 to +1.77", "2", "+0.34 ± 0.23 (n=3)"]
    assert cells[-1] == ["SWA 1.5 over SGD 1.5", "+0.50", "-", "1", "-"]


def test_gains_over_sgd_of_equal_length_where_it_was_run(made: Path) -> None:
    assert len(gains(*rows_of(made))) == 3
    write_run(made, {1.5: 6.4}, [], seed=0)
    gain = gain_of(made, 1.5, 1.5)
    assert gain.ours is not None and gain.ours.mean == pytest.approx(6.4 - 5.9)
    assert gain.theirs is None


def test_gains_never_mix_two_recipe_hashes(made: Path) -> None:
    write_run(made, {1.0: 1.0}, [], seed=7, recipe_hash="another")
    gain = gain_of(made, 1.0)
    assert gain.ours is None
    assert gain.theirs is not None


def test_cost_counts_runs_and_shared_epochs_once(made: Path) -> None:
    of = costs(rows_of(made)).iloc[0]
    assert of.runs == 6
    assert of.epochs_by_cell == 3 * 4 + 3 * (4 + 5 + 6)
    assert of.epochs_by_run == 3 * 4 + 3 * 6
    assert of.epochs == of.epochs_by_run - 2 * 2  # seeds 0 and 1 share two epochs
    assert of.hours == of.epochs  # an hour each
    assert of.images_per_s == {"sgd": 1000.0, "swa": 1500.0}


def test_cost_of_the_shipped_records() -> None:
    """SGD of 15 epochs, SWA of 22, of which 7 are shared."""
    of = costs(rows_of(SHIPPED)).iloc[0]
    assert (of.runs, of.epochs_by_cell, of.epochs_by_run) == (6, 3 * (15 + 15 + 18 + 22), 3 * 37)
    assert of.epochs == 3 * (37 - 7)
    seconds = {}
    for path in SHIPPED.rglob("epochs.csv"):
        for line in path.read_text().splitlines()[1:]:
            seconds[line.split(",")[2], line.split(",")[-1]] = float(line.split(",")[-1])
    assert of.hours * 3600 == pytest.approx(sum(seconds.values()), abs=0.01)


def test_what_records_lack_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "in", {1.0: 7.0}, [], timing={}, config={})
    swa_report(["--records", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<td>not recorded</td>" in page
    assert "No learning curves: no epochs.csv" in page
    assert "1 of one seed, which cannot be tested" in page
    assert "VGG16 (SWA 1, SWA 1.25, SWA 1.5)" in page
    assert "CIFAR-100: VGG16, PreResNet110, PreResNet164, WRN-28-10" in page


def test_nothing_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    swa_report([])
    page = Path("results/report/index.html").read_text()
    assert page.count("<td>no runs</td>") == 2 * 4 * 4 + 8 * (2 + 3)  # and ensembles of FGE's nets
    assert "No runs yet, so there is nothing to draw." in page
    assert "0 records from results/runs or results/shipped" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="swa-report: --records nowhere: no such folder"):
        swa_report(["--records", "nowhere"])


def test_each_figure_states_what_it_shows(made: Path, tmp_path: Path) -> None:
    swa_report(["--records", str(made), "--out", str(tmp_path / "out")])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    stems = [f"cifar10-vgg16-{drawing.name}" for drawing in report.DRAWINGS]
    assert names == {"index.html", *(f"{s}.{kind}" for s in stems for kind in ("png", "svg"))}
    for stem in stems:
        svg = ElementTree.parse(tmp_path / "out" / f"{stem}.svg")
        text = " ".join("".join(svg.getroot().itertext()).split())
        for said in ("VGG16 on CIFAR-10", "± s", "standard", "recipe", "a made GPU", "n=3"):
            assert said in text or (said == "n=3" and "n=2" in text), (stem, said)
    page = (tmp_path / "out" / "index.html").read_text()
    assert len(re.findall(r"<figcaption>", page)) == 4
    assert "In all figures: mean over n seeds, bar or band ± s" in page  # once
    assert page.count("± s (") == page.count("All runs: a made GPU") == 1
    again = report.write_report(read_records([made]), str(made), tmp_path / "again")
    assert again.read_text() == page


class Tags(html.parser.HTMLParser):
    """What a browser would act on: the names of elements and their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def write_hostile(folder: Path) -> None:
    """Records whose every text is an attack, or too long for its place."""
    for text, seed in ((HOSTILE, 0), (LONG, 1), ("$x$ {{ 7 * 7 }}", 2)):
        texts = {"device": text, "recipe_diff": {text: text}}
        if text == LONG:
            texts |= {"model": text, "dataset": text}
        versions = {"versions": {"commit": text}}
        for method in ("sgd", "swa"):
            changes = {**texts, **versions, "method": method, "seed": seed}
            write_run(folder, {1.0: 50.0}, [0.1, 0.2], **changes)
    left_out = ({"device": "\ud800"}, {"device": "\x00"}, {"method": "<b>"}, {"seed": "0"})
    for number, changes in enumerate(left_out):
        write_run(folder, {1.0: 5.0}, [0.1], recipe_hash=f"{number}", **changes)


def test_records_are_escaped(tmp_path: Path) -> None:
    write_hostile(tmp_path / "in")
    path = report.write_report(read_records([tmp_path / "in"]), HOSTILE, tmp_path / "deep" / "out")
    page = path.read_text()
    found = Tags(page)
    assert not found.tags & {"script", "img", "iframe", "link", "object", "base", "form"}
    assert all(value.startswith("#") for name, value in found.attributes if name == "href")
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert "{{ 7 * 7 }}" in page
    assert {p.parent for p in tmp_path.rglob("*.svg")} == {path.parent}
    for svg in path.parent.glob("*.svg"):
        ElementTree.parse(svg)


def test_nothing_in_the_page_asks_for_another_file(made: Path, tmp_path: Path) -> None:
    page = report.write_report(read_records([made, SHIPPED]), "made", tmp_path / "out").read_text()
    links = [v for name, v in Tags(page).attributes if name in ("src", "href", "xlink:href")]
    assert links and all(link.startswith("#") for link in links)
    assert set(re.findall(r"url\((.)", page)) == {"#"}
    assert "@import" not in page
    assert "default-src 'none'" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_commands_do_without_torch() -> None:
    program = """import sys
import swa_bench.commands.records, swa_bench.reporting.page, swa_bench.reporting.width_figures
import swa_bench.commands.status
sys.exit('torch' in sys.modules)"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_records_and_epochs_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    read_epochs = frames.read_epochs

    def noted(path: Path) -> Any:
        read.append(path)
        return read_epochs(path)

    monkeypatch.setattr(frames, "read_epochs", noted)
    swa_report(["--records", str(SHIPPED), "--out", str(tmp_path)])
    assert sorted(read) == sorted(SHIPPED.rglob("epochs.csv"))


def test_a_damaged_file_is_named(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = next(made.rglob("epochs.csv"))
    path.write_text(path.read_text().replace("train_loss", "loss"))
    swa_report(["--records", str(made), "--out", str(tmp_path / "out")])
    assert f"{path} is damaged (its columns are not those of epochs.csv): left out." in caplog.text
    assert (tmp_path / "out" / "index.html").exists()


MEASURE = """
addEventListener("load", () => {
  const frame = document.querySelector("iframe"), page = frame.contentDocument;
  const width = frame.clientWidth, over = [];
  if (page.documentElement.scrollWidth > width) over.push("the page");
  for (const element of page.body.querySelectorAll("*")) {
    const svg = element.closest("svg"), scroll = element.closest(".scroll");
    if (scroll && scroll !== element) continue;
    if (svg && svg !== element && element.tagName !== "text") continue;
    const box = element.getBoundingClientRect();
    const room = svg ? svg.getBoundingClientRect() : {left: 0, right: width};
    if (box.width && (box.left < room.left - 1 || box.right > room.right + 1))
      over.push(element.tagName + ": " + element.textContent.slice(0, 60));
  }
  const requests = frame.contentWindow.performance.getEntriesByType("resource");
  const height = page.documentElement.scrollHeight;
  frame.remove();
  const found = {over, height, requests: requests.map(request => request.name)};
  document.querySelector("pre").textContent = JSON.stringify(found);
});
"""


def browse(page: str, width: int, folder: Path) -> dict[str, Any]:
    """Open a page in a frame of a width, which a window may not have, and measure it."""
    assert CHROMIUM is not None
    folder.mkdir(exist_ok=True)
    outer = folder / "outer.html"
    frame = f'<iframe style="border:0;width:{width}px;height:2400px"'
    body = f'{frame} srcdoc="{html.escape(page)}"></iframe><pre></pre>'
    (folder / "look.html").write_text(f'<body style="margin:0">{body}')
    outer.write_text(f"<body>{body}<script>{MEASURE}</script>")
    own = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1280,2400"]
    own.append("--host-resolver-rules=MAP * ~NOTFOUND")
    look = [f"--screenshot={folder / 'look.png'}", (folder / "look.html").as_uri()]
    subprocess.run([*own, *look], check=True, capture_output=True, timeout=120)
    dom = [*own, "--dump-dom", outer.as_uri()]
    done = subprocess.run(dom, check=True, capture_output=True, timeout=120)
    (found,) = re.findall(r"<pre>(.*?)</pre>", done.stdout.decode())
    measured: dict[str, Any] = json.loads(html.unescape(found))
    return measured


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome")
def test_in_a_browser_nothing_overflows_and_nothing_is_requested(
    made: Path, tmp_path: Path
) -> None:
    write_hostile(tmp_path / "hostile")
    records = read_records([SHIPPED, made, tmp_path / "hostile"])
    assert len(rows_of(SHIPPED, made, tmp_path / "hostile")) == 5
    page = report.write_report(records, LONG, tmp_path / "out").read_text()
    for width in (1280, 390):
        found = browse(page, width, tmp_path / str(width))
        assert found["over"] == []
        assert found["requests"] == []
        assert found["height"] > 2000
        with Image.open(tmp_path / str(width) / "look.png") as picture:
            seen = picture.convert("RGB").crop((0, 0, width, 2400))
            colors = seen.getcolors(1 << 24)
        assert len(colors) > 100  # text and curves, not an empty page
    # The same measures do see what is wrong.
    bad = '<p style="width:999px">wide</p><img src="http://127.0.0.1:9/a.png">'
    page = re.sub("<meta http-equiv[^>]*>", "", page).replace("<main>", f"<main>{bad}")
    found = browse(page, 390, tmp_path / "bad")
    assert "the page" in found["over"] and "P: wide" in found["over"]
    assert found["requests"] == ["http://127.0.0.1:9/a.png"]
