"""All that was measured, as two DataFrames: one row per record, and one row per epoch of a run."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from swa_bench.config.grid import models_in_order, paper_models
from swa_bench.config.renames import LATER, flatten
from swa_bench.config.schema import shaping
from swa_bench.labels import ENSEMBLES, LABELS, by_options, in_order, recipe_text
from swa_bench.results.epochs import EPOCH_COLUMNS, read_epochs
from swa_bench.results.record import Record
from swa_bench.text import printable

log = logging.getLogger(__name__)

ROW = ["dataset", "model", "recipe_diff"]  # what names a row of the tables
COLUMN = ["method", "budget"]
CELL = [*ROW, "method", "ensemble", "budget", "recipe_hash"]
METRIC = "metrics."  # how the columns of the user's own metrics begin
# Options whose values may follow from the length of a run.
OF_LENGTH = ("method.decay_epochs", "method.collect_from", "method.cycle_epochs", "schedule.")
LINE = [*ROW, "method", "recipe_hash"]  # what names a curve of a figure


@dataclass(frozen=True)
class Row:
    """What was measured of one data set, model and recipe.

    Attributes:
        cells, epochs: the rows of `cells_frame` and `epochs_frame`.
    """

    dataset: str
    model: str
    recipe_diff: str
    devices: str
    cells: pd.DataFrame = field(default_factory=pd.DataFrame)
    epochs: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def title(self) -> str:
        """Such as VGG16 on CIFAR-10."""
        return f"{LABELS.get(self.model, self.model)} on {LABELS.get(self.dataset, self.dataset)}"

    @property
    def recipe(self) -> str:
        """The options in which the recipe differs from the shipped one, or whose that is."""
        published = paper_models("cifar10")  # the networks whose recipes the authors published
        ours = "the published recipe" if self.model in published else "this project's recipe"
        return self.recipe_diff or ours


def cells_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per record, nan where it lacks a figure: error and ECE in %, mean NLL per image.

    A seed that is recorded twice counts once: the later path wins, and a warning names both if
    their results differ. Seeds that tested the same untrained weights are one measurement, the
    first. Records of other images than the rest are of another recipe, which `data_sha256` in their
    recipe_diff says. So are records that other code of the user's trained (`model.source_sha256`),
    and records of one method whose options differ, as when its file was edited: recipe_diff says
    these options too.

    Returns:
        CELL, seed, the figures, and `predictor`, whose test error is the result; `trained`, whether
        it is of a run of its own that has epochs; its folder, length, cost, device and versions.
        Then the user's metrics, each a column that begins with METRIC and holds its definition.
    """
    columns = [*CELL, *"seed error nll ece predictor trained folder epochs seconds".split()]
    columns += ["images_per_s", "device", "device_kind", "versions"]
    records = list(records)
    _warn_of_differing(records)
    metrics = list(map(_metrics, records))
    own = sorted({name for found in metrics for name in found})
    read = [_cell(record) | found for record, found in zip(records, metrics, strict=True)]
    frame = pd.DataFrame(read, columns=[*columns, "data_sha256", "untrained", *own])
    recipes = _with_code(records, _told_apart(records))
    frame["recipe_diff"] = pd.Series(recipes, dtype=str)
    frame["recipe_diff"] = _with_data(frame)
    again = frame["untrained"].notna() & frame.duplicated([*CELL, "untrained"])
    frame = frame.loc[~again, [*columns, *own]]
    kinds: dict[str, Any] = dict.fromkeys(["ensemble", "trained"], bool)
    numbers = "budget error nll ece epochs seconds images_per_s".split()
    kinds |= dict.fromkeys([*numbers, *own], float)
    frame = frame.astype(kinds)
    return frame.drop_duplicates([*CELL, "seed"], keep="last", ignore_index=True)


def _warn_of_differing(records: Iterable[Record]) -> None:
    """Name records of one run and budget that differ in their result."""
    last: dict[Any, Record] = {}
    for record in records:
        before = last.setdefault((record.place, record.schedule_sha256), record)
        if before.result != record.result:
            paths = printable(f"{before.path} and {record.path}")
            log.warning("%s are of one run and differ: the second is used.", paths)
        last[record.place, record.schedule_sha256] = record


def _cell(record: Record) -> dict[str, Any]:
    predictor = record.option("method", "result") or "swa"
    ensemble = record.method in ENSEMBLES or predictor == "ensemble"
    named = "dataset model method budget seed epochs folder device versions data_sha256".split()
    return {name: getattr(record, name) for name in named} | {
        "ensemble": ensemble,
        "recipe_hash": f"{record.recipe_hash}/{record.schedule_sha256[:6]}",
        "error": record.result.test_error_pct,
        "nll": record.result.test_loss,
        "ece": record.result.test_ece_pct,
        "predictor": "ensemble" if ensemble else predictor,
        "trained": record.runs is None and record.epochs != 0,
        "untrained": record.result.weights_sha256 if record.epochs == 0 else None,
        "seconds": record.timing.seconds,
        "images_per_s": record.timing.images_per_s,
        "device_kind": str(record.config.get("device")),
    }


def _metrics(record: Record) -> dict[str, float]:
    """The user's own metrics, named so that those of another definition have another name."""
    defined = record.config.get("metrics", {})
    found = {}
    for name, value in record.result.metrics.items():
        definition = defined.get(name)
        text = recipe_text(definition) if isinstance(definition, dict) else ""
        found[f"{METRIC}{name} {text}"] = value
    return found


def _told_apart(records: Sequence[Record]) -> list[str]:
    """The recipe of each record, with the options in which others of its row and method differ.

    What was typed in one run may stand in a file of the user's by the next: records of one hash and
    the same options are of one recipe, that of the fewest differences.
    """
    options = list(map(_options, records))
    keys = [
        (record.dataset, record.model, record.method, record.recipe_hash, repr(sorted(of.items())))
        for record, of in zip(records, options, strict=True)
    ]
    fewest: dict[Any, dict[str, Any]] = {}
    for key, record in zip(keys, records, strict=True):
        both = (fewest.get(key, record.recipe_diff), record.recipe_diff)
        fewest[key] = min(both, key=lambda diff: (len(diff), recipe_text(diff)))
    diffs = [
        fewest[key] if "model" in record.config else record.recipe_diff
        for key, record in zip(keys, records, strict=True)
    ]
    lines = defaultdict(list)
    for place, (record, diff) in enumerate(zip(records, diffs, strict=True)):
        lines[record.dataset, record.model, recipe_text(diff), record.method].append(place)
    found = [""] * len(records)
    for line in lines.values():
        names = _differing([records[place] for place in line], [options[place] for place in line])
        for place in line:
            more = {name: value for name, value in options[place].items() if name in names}
            found[place] = recipe_text({**more, **diffs[place]})
    return found


def _differing(records: Sequence[Record], options: Sequence[dict[str, Any]]) -> set[str]:
    """The options with several values among runs that should be of one recipe.

    Those that follow from a run's length may differ from one budget to another.
    """
    if len({record.recipe_hash for record in records}) == 1:
        return set()
    names = set().union(*options)
    values = defaultdict(set)
    for record, of in zip(records, options, strict=True):
        for name in names:
            budget = record.budget if name.startswith(OF_LENGTH) else None
            values[name, budget].add(repr(of.get(name)))
    return {name for (name, _), several in values.items() if len(several) > 1}


def _options(record: Record) -> dict[str, Any]:
    """What shaped a run, by dotted names, but for later options that leave a run as it was."""
    options = flatten(shaping(record.config))
    return {name: value for name, value in options.items() if value not in LATER.get(name, ())}


def _with_code(records: Sequence[Record], recipes: Sequence[str]) -> list[str]:
    """The recipes, with digests of the user's own code where one row of a table had several."""
    versions = defaultdict(set)
    for record, recipe in zip(records, recipes, strict=True):
        for option, sha256 in record.source_sha256.items():
            versions[record.dataset, record.model, recipe, option].add(sha256)
    found = []
    for record, recipe in zip(records, recipes, strict=True):
        own = {
            f"{option.removesuffix('._target_')}.source_sha256": sha256[:12]
            for option, sha256 in record.source_sha256.items()
            if len(versions[record.dataset, record.model, recipe, option]) > 1
        }
        found.append(f"{recipe} {recipe_text(own)}".strip())
    return found


def _with_data(frame: pd.DataFrame) -> "pd.Series[str]":
    """The recipes, with the data's digest where the same options of a data set had several."""
    options = frame["recipe_diff"].str.findall(r"(?<!\S)dataset\.\S+").str.join(" ")
    counts = frame["data_sha256"].groupby([frame["dataset"], options]).transform("nunique")
    named = frame["recipe_diff"] + " data_sha256=" + frame["data_sha256"].str[:12]
    return frame["recipe_diff"].mask((counts > 1) & named.notna(), named.str.strip())


def longest_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """The longest cell of each run, whose epochs.csv and timing hold those of its shorter ones.

    Ensembles of whole runs have no epochs of their own. The recipe hash is without the digits of
    the schedule, which differ from one length to another.
    """
    trained = cells[cells["trained"]]
    trained = trained.assign(recipe_hash=trained["recipe_hash"].str.rsplit("/", n=1).str[0])
    longest = trained.sort_values("budget", kind="stable")
    return longest.drop_duplicates([*LINE, "seed"], keep="last").sort_index()


def epochs_frame(cells: pd.DataFrame) -> pd.DataFrame:
    """The epochs.csv of each run, one row per epoch, with what names the run.

    Epochs after the end of the run's longest cell are left out.

    Returns:
        The columns of epochs.csv, and of the run's longest cell: `run`, its row in `cells`, LINE,
        seed, budget, predictor, ensemble and epochs.
    """
    runs = longest_cells(cells)
    # By the columns of their epochs.csv.
    read: dict[tuple[str, ...], list[np.ndarray]] = defaultdict(list)
    for run, folder in zip(runs.index, runs["folder"], strict=True):
        if found := read_epochs(folder / "epochs.csv"):
            lines = np.array([[run, *row.values()] for row in found], float)
            read["run", *found[0]].append(lines)
    read = read or {("run", *EPOCH_COLUMNS): [np.empty((0, len(EPOCH_COLUMNS) + 1))]}
    parts = [pd.DataFrame(np.concatenate(of), columns=names) for names, of in read.items()]
    epochs = pd.concat(parts, ignore_index=True).astype({"run": int})
    epochs = epochs.sort_values("run", kind="stable", ignore_index=True)
    named = [*LINE, "seed", "budget", "predictor", "ensemble", "epochs"]
    epochs = epochs.join(runs[named], on="run")
    return epochs[~(epochs["epoch"] > epochs["epochs"])]


def row_names(cells: pd.DataFrame) -> list[tuple[str, str, str]]:
    """The data set, model and recipe of each row, in the order of the tables."""
    datasets = in_order(cells["dataset"])
    models = models_in_order(cells["model"])
    found = cells[ROW].drop_duplicates().itertuples(index=False, name=None)
    return sorted(
        found, key=lambda row: (datasets.index(row[0]), models.index(row[1]), by_options(row[2]))
    )


def rows(cells: pd.DataFrame, epochs: pd.DataFrame) -> list[Row]:
    """What was measured of each data set, model and recipe, in the order of the tables."""
    parts, epochs_of = (dict(iter(frame.groupby(ROW))) for frame in (cells, epochs))
    found = []
    for name in row_names(cells):
        devices = "; ".join(sorted(set(parts[name]["device"])))
        found.append(Row(*name, devices, parts[name], epochs_of.get(name, epochs[:0])))
    return found
