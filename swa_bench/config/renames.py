"""Options that were renamed: the old name gives an error that says the new one.

Records keep the option names that they were written with, and names on disk are made of those of
version 0.1, so both are translated here too.
"""

from collections.abc import Mapping
from typing import Any

RENAMED = {
    "then": "also_train",
    "share_with": "checkpoints.keep_for",
    "record_budgets": "report_budgets",
    "optimizer.batch_size": "batch_size",
    "dataset.augmentation.flip": "augmentation.flip",
    "dataset.augmentation.padding": "augmentation.padding",
    "dataset.augmentation.padding_mode": "augmentation.padding_mode",
    "method.combine": "method.result",
    "method.first_copy": "method.collect_from",
    "method.runs_of": "method.ensemble_of",
    "schedule.first_copy": "schedule.collect_from",
}
FIRST_NAMES = {new: old for old, new in RENAMED.items()}
# Of options whose values were renamed too.
RENAMED_VALUES = {
    "method.combine": {"none": "last", "weights": "swa", "predictions": "ensemble"},
    "checkpoints.keep": {"copies": "collected"},
}
# Options that were added after 0.1, with the values under which a run is what it was before.
LATER: dict[str, tuple[Any, ...]] = {
    "dataset._target_": (
        "swa_bench.data.cifar.load_cifar10",
        "swa_bench.data.cifar.load_cifar100",
        "swa_bench.data.cifar.load_cifar10_mini",
        "swa_bench.data.folder.load_folder",
    ),
    "augmentation._target_": ("swa_bench.data.augmentation.CropAndFlip",),
    "optimizer._target_": ("torch.optim.SGD",),
    "method.predictors": ({},),
}

# The shaping options of version 0.1; all that `schedule` holds was the user's.
FIRST_OPTIONS = {
    "model": (
        "name _target_ arguments budget_epochs learning_rate weight_decay swa_start "
        "swa_learning_rate normalisation"
    ).split(),
    "dataset": (
        "name classes train_images test_images recipe content resize image_size augmentation"
    ).split(),
    "method": (
        "name combine decay_epochs final_ratio first_copy swa_learning_rate cycle_epochs runs_of"
    ).split(),
    "optimizer": ["momentum", "weight_decay", "batch_size"],
    **dict.fromkeys(("schedule", "init", "precision", "channels_last", "compile"), ()),
    "deterministic": (),
}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted names; an empty dict stays a value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def lookup(values: Any, name: str) -> Any:
    """The value of nested ones that has a dotted name; None if there is none."""
    for part in name.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, last = name.split(".")
        group = nested
        for part in groups:
            group = group.setdefault(part, {})
        group[last] = value
    return nested


def old_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of nested options, by their dotted names, that are called otherwise now."""
    flat = flatten(values)
    own_schedule = _is_own_schedule(flat)
    return {name: flat[name] for name in flat if _present_name(name, own_schedule) != name}


def to_present(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a record of version 0.1 holds, nested, under their present names."""
    flat = flatten(values)
    own_schedule = _is_own_schedule(flat)
    present = {name: of[0] for name, of in LATER.items()}
    present |= {
        _present_name(name, own_schedule): _translated(RENAMED_VALUES.get(name, {}), value)
        for name, value in flat.items()
    }
    folder = present.get("dataset.source") == "folder"
    loader = "folder.load_folder" if folder else f"cifar.load_{present.get('dataset.name')}"
    present["dataset._target_"] = f"swa_bench.data.{loader}"
    present["dataset.source"] = "local" if folder else present.get("dataset.source")
    return nest(present)


def _is_own_schedule(flat: Mapping[str, Any]) -> bool:
    return not str(flat.get("schedule._target_")).startswith("swa_bench.")


def _present_name(name: str, own_schedule: bool) -> str:
    """The present name of an option; the options of a user's own schedule are the user's."""
    return name if own_schedule and name.startswith("schedule.") else RENAMED.get(name, name)


def to_first(values: Mapping[str, Any]) -> dict[str, Any]:
    """Shaping options, nested, as version 0.1 named them; later ones only where they matter."""
    found = {}
    for name, value in flatten(values).items():
        if value not in LATER.get(name, ()):
            old = FIRST_NAMES.get(name, name)
            back = {new: first for first, new in RENAMED_VALUES.get(old, {}).items()}
            found[old] = _translated(back, value)
    return nest(found)


def _translated(words: Mapping[str, str], value: Any) -> Any:
    return words.get(value, value) if words else value


def later_options(first: Mapping[str, Any]) -> dict[str, Any]:
    """What `to_first` kept of the options that version 0.1 did not have; {} for a run of its kind.

    What a schedule does is in its rates; its options are left out.
    """
    found = {}
    for group, options in first.items():
        if group not in FIRST_OPTIONS:
            found[group] = options
        elif FIRST_OPTIONS[group]:
            later = {name: v for name, v in options.items() if name not in FIRST_OPTIONS[group]}
            found |= {f"later {group}": later} if later else {}
    return found
