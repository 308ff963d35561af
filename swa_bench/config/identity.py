"""The names of runs and states on disk, which are stable across versions of the program.

`recipe_hash` names a run: whether it is finished is looked up by it (results/record.py: missing).
`state_keys` names the state after each epoch: a run resumes from, and methods share, whatever
stored state has one of its keys (training/checkpoints.py: load_newest).

A digest over the options that shape the run, as version 0.1 named them. An option that was added
later takes part only where it differs from the value that leaves a run as it was, so that a new
option at its default changes no name. A change of the code that moves bits is listed in REVISIONS
and takes part in the digests of the runs that it concerns, and of no others.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from swa_bench.config.renames import later_options, to_first
from swa_bench.config.schema import TrainConfig, shaping, to_dict

STATE_FORMAT = 2
# (name, whether it concerns a run) of each change of the code that moved bits.
REVISIONS: tuple[tuple[str, Callable[[TrainConfig], bool]], ...] = (
    (
        "compiled by blocks",
        lambda c: c.compile and c.model._target_.startswith("swa_bench.models."),
    ),
)


@dataclass(frozen=True)
class DataIdentity:
    """What a data set is known by, wherever it is and whatever it is called.

    Attributes:
        sha256: over all images and labels that are used.
        class_names: of the labels 0, 1, 2, ...; empty if they have no names.
    """

    sha256: str
    class_names: tuple[str, ...] = ()


def digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, independent of their order."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def recipe_hash(config: TrainConfig) -> str:
    """Name of a run: 12 hex digits over all that shapes it but its seed and its length.

    Two configurations with one hash and one seed are the same run; one may go further.
    """
    return digest(to_first(shaping(to_dict(config))) | _revisions(config))[:12]


def _revisions(config: TrainConfig) -> dict[str, Any]:
    found = [name for name, concerns in REVISIONS if concerns(config)]
    return {"revisions": found} if found else {}


def state_keys(
    config: TrainConfig, epochs: Iterable[bytes], fingerprint: str, initial: str
) -> list[str]:
    """Keys of the states after 0, 1, 2, ... epochs: digests of all that shaped each of them.

    Runs that agree in recipe, data, seed, arithmetic, and in the rates and collections so far,
    whatever their methods are called and however long they will be, have the same key.

    Args:
        epochs: what each epoch does to a state, beside the recipe.
        fingerprint: SHA-256 of the data set.
        initial: SHA-256 of the weights before epoch 1, which tells networks of one name apart.
    """
    values = to_first(shaping(to_dict(config)))
    recipe, data = values["model"], values["dataset"]
    unchanged = ("optimizer", "precision", "channels_last", "compile", "deterministic")
    key = {
        "format": STATE_FORMAT,
        "model": [recipe["_target_"], recipe["arguments"], recipe["normalisation"], initial],
        "data": [fingerprint, data["image_size"], data.get("augmentation")],
        "seed": config.seed,
        "device": config.device,
        **{name: values[name] for name in unchanged},
        **later_options(values),
        **_revisions(config),
    }
    running = hashlib.sha256(digest(key).encode())
    keys = [running.hexdigest()[:16]]
    for epoch in epochs:
        running.update(epoch)
        keys.append(running.hexdigest()[:16])
    return keys
