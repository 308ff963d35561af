"""What was probably meant by a name that is no option's."""

import difflib
import re
from collections.abc import Iterable

ABBREVIATIONS = {"lr": "learning_rate", "wd": "weight_decay", "bs": "batch_size"}
CLOSE = 0.65  # of SequenceMatcher.ratio: "data" still means dataset


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A question that can be appended to a message; "" if none of the names is close.

    The last part must be close, its words in any order; the group decides between several.
    """
    closeness = {one: (_ratio(_last(name), _last(one)), _ratio(name, one)) for one in names}
    best = max(closeness, key=lambda one: closeness[one], default="")
    return f"; did you mean {best}?" if best and closeness[best][0] >= CLOSE else ""


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, _words(one), _words(other)).ratio()


def _words(name: str) -> str:
    words = [ABBREVIATIONS.get(word, word) for word in re.split(r"[._/-]", name.lower())]
    return " ".join(sorted("_".join(words).split("_")))
