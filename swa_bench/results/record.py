"""Records: the schema, the places and the reader of cell-*.json, one for each reported budget.

A record may come from anybody. It is read as data, within bounds, and one that is not sound is left
out: damaged, of a newer version, or not in the folder of its run. Nothing here imports torch.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    model_validator,
)

from swa_bench.config.identity import DataIdentity, recipe_hash
from swa_bench.config.renames import RENAMED, to_present
from swa_bench.config.schema import (
    FolderName,
    NonNegative,
    NonNegativeInt,
    TrainConfig,
)
from swa_bench.errors import SwaBenchError
from swa_bench.files import find
from swa_bench.labels import recipe_text
from swa_bench.results.foreign import (
    MisplacedError,
    check_format,
    first_fault,
    if_sound,
    parse_json,
    read_file,
)

FORMAT = 2
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Percent = Annotated[NonNegative, Field(le=100)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _check_groups(config: dict[str, Any]) -> dict[str, Any]:
    """What `Record.option` reads is a group of options, and what names a predictor is text."""
    for name in ("dataset", "method", "model", "metrics"):
        if not isinstance(config.get(name, {}), dict):
            raise ValueError(f"{name} is no group of options")
    if not isinstance(config.get("method", {}).get("result", ""), str):
        raise ValueError("method.result is no text")
    return config


class Part(BaseModel):
    """A part of a record: any fields that are not named here are kept too."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Result(Part):
    """Errors and losses of a run's last epoch, never of its best, and digests of what gave them.

    Attributes:
        n_averaged: how many weights were collected.
        last_weights: error and loss of the trained weights; for SWA they are not a baseline,
            since their rate never decays to 1 %.
        weights_sha256: None for an ensemble, which has no weights of its own.
        metrics: the user's own figures, by name.
    """

    test_error_pct: Percent
    test_loss: Number | None = None
    test_ece_pct: Percent | None = None
    train_error_pct: Percent | None = None
    train_loss: Number | None = None
    n_averaged: NonNegativeInt | None = None
    last_weights: dict[str, Number | None] | None = None
    weights_sha256: str | None = None
    predictions_sha256: str | None = None
    metrics: dict[FolderName, Number] = {}


class Timing(Part):
    """Seconds of all epochs of a run, and images per second while training."""

    seconds: NonNegative | None = None
    images_per_s: NonNegative | None = None


class Record(Part):
    """One finished run at one budget.

    Attributes:
        recipe_hash: of all that affects the run but its seed and length (config/identity.py).
        schedule_sha256: of all learning rates and collections.
        recipe_diff: how the recipe differs from the published one, as {option: value}.
        segments: where the epochs were computed: from which epoch, device, versions, sources.
        source_sha256: of the user's own code, {option: digest} (config/own_code.py).
        warnings: what the run could not do quite rightly, a sentence each.
        runs: for an ensemble of whole runs, the digest of the predictions of each.
        path: of the file, where it was read from one.
    """

    format: int
    dataset: FolderName
    model: FolderName
    method: FolderName
    budget: NonNegative
    epochs: NonNegativeInt | None = None
    seed: NonNegativeInt
    recipe_hash: FolderName
    schedule_sha256: str
    result: Result
    recipe_diff: dict[str, Any]
    device: str
    data_sha256: str | None = None
    source_sha256: dict[str, Digest] = {}
    initial_weights_sha256: str | None = None
    versions: dict[str, Any] = {}
    segments: list[dict[str, Any]] = []
    class_names: list[str] | None = None
    warnings: list[str] = []
    runs: dict[str, str] | None = None
    timing: Timing = Timing()
    config: Annotated[dict[str, Any], AfterValidator(_check_groups)] = {}
    path: Path = Field(default=Path(), exclude=True)

    @model_validator(mode="after")
    def _check_head(self) -> "Record":
        """What names the cell stands in its configuration too."""
        for group in ("dataset", "model", "method"):
            name = self.option(group, "name")
            if name is not None and name != getattr(self, group):
                raise ValueError(f"{group} is not that of its config, {name!s:.40}")
        if (self.budget == 0) != (self.epochs == 0):
            raise ValueError("only one of budget and epochs is 0")
        for option in ("budget", "epochs", "seed"):
            value = self.config.get(option)
            if value is not None and value != getattr(self, option):
                raise ValueError(f"{option} is not that of its config, {value!s:.40}")
        return self

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.path.parent

    def is_of(self, data: DataIdentity | None) -> bool:
        """Whether it is of these images, with these classes; what it does not say may be."""
        if data is None or self.data_sha256 is None:
            return True
        names = data.class_names if self.class_names is None else tuple(self.class_names)
        return (self.data_sha256, names) == (data.sha256, data.class_names)

    def lacks(self, metrics: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether it does not hold one of these metrics, or holds one of another definition."""
        held = self.config.get("metrics", {})
        return any(
            name not in self.result.metrics or held.get(name) != definition
            for name, definition in metrics.items()
        )

    @property
    def cell(self) -> tuple[str, str, str, float]:
        """Data set, model, method and budget: the cell of a table that it is of."""
        return self.dataset, self.model, self.method, float(self.budget)

    @property
    def recipe(self) -> str:
        """The options in which its recipe differs from the published one; "" if it does not."""
        return recipe_text(self.recipe_diff)

    @property
    def place(self) -> Path:
        """Where it lies below the folder of all results."""
        run = _run_name(self.method, self.seed, self.recipe_hash)
        return Path(self.dataset, self.model, run, f"cell-{self.budget:g}.json")

    def option(self, group: str, name: str) -> Any:
        """The value of an option such as method.result, or None if the record does not say."""
        return self.config.get(group, {}).get(name)


def run_folder(config: TrainConfig) -> Path:
    """The folder of a run: the same for every command that does the same run."""
    name = _run_name(config.method.name, config.seed, recipe_hash(config))
    return _row_folder(config) / name


def _run_name(method: str, seed: int, recipe: str) -> str:
    return f"{method}-seed{seed}-{recipe}"


def checkpoint_folder(config: TrainConfig) -> Path:
    """The folder of the states that the runs of one model and data set share."""
    return _row_folder(config) / "checkpoints"


def record_path(config: TrainConfig) -> Path:
    """The record of the run that ends with config.budget."""
    return run_folder(config) / f"cell-{config.budget:g}.json"


def _row_folder(config: TrainConfig) -> Path:
    return Path(config.results_dir) / config.dataset.name / config.model.name


def parse_record(values: Any, path: Path = Path()) -> Record:
    """Check what `parse_json` gives, of format 1 too; ValueError if it is no sound record."""
    check_format(values, FORMAT)
    try:
        translated = _from_format_1(values) if values["format"] == 1 else values
        return Record.model_validate({**translated, "path": path})
    except ValidationError as error:
        raise ValueError(first_fault(error)) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("its options are not those of version 0.1") from error


def _from_format_1(values: dict[str, Any]) -> dict[str, Any]:
    """A record of version 0.1, under the present names."""
    renamed = {
        "identity": "recipe_hash",
        "path_sha256": "schedule_sha256",
        "variant": "recipe_diff",
        "origins": "segments",
    }
    found = {renamed.get(name, name): value for name, value in values.items()}
    diff = found["recipe_diff"]
    found["recipe_diff"] = {RENAMED.get(name, name): value for name, value in diff.items()}
    if "config" in found:
        found["config"] = to_present(found["config"])
    return found | {"format": FORMAT}


def load_record(path: Path) -> Record:
    """The record of a file.

    Raises:
        NewerFormatError: it is of a newer version of the program.
        MisplacedError: it is of another run than its folder says.
        ValueError: it is damaged.
        OSError: it is not there, or the system cannot read it.
    """
    record = parse_record(parse_json(read_file(path)), path)
    # A copy, such as a backup beside the run, is not a second run.
    places = [place.parts[-4:] for place in (path.absolute(), path.resolve())]
    if record.place.parts not in places:
        raise MisplacedError(f"it is of {record.place}")
    return record


def read_record(path: Path) -> Record | None:
    """A record, or None if there is none or it is not sound, which the log says."""
    return if_sound(load_record, path)


def sound_record(path: Path) -> Record:
    """A record; SwaBenchError if there is none, or it is not sound."""
    if (record := read_record(path)) is None:
        raise SwaBenchError(f"{path}: no sound record is there; name a cell-*.json")
    return record


def read_records(folders: Iterable[Path]) -> list[Record]:
    """All sound records below the folders, in the order of their paths."""
    paths = (path for folder in folders for path in find(folder, "cell-*.json"))
    return [record for path in paths if (record := read_record(path)) is not None]
