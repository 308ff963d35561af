"""What was probably meant by a name that is no option's, and what a wrong value should be."""

import difflib
import re
from collections.abc import Iterable

from pydantic_core import ErrorDetails

from swa_bench.config.renames import RENAMED_VALUES

ABBREVIATIONS = {"lr": "learning_rate", "wd": "weight_decay", "bs": "batch_size"}
CLOSE = 0.65  # of SequenceMatcher.ratio: "data" still means dataset
# What pydantic says, and what is said instead, one after the other.
OUR_WORDS = [("Input should be", "must be"), ("List should", "must"), (" after validation", "")]
OUR_WORDS += [("a valid boolean", "true or false"), ("a valid integer", "an integer")]
OUR_WORDS += [("a valid", "a"), ("False", "false"), ("True", "true")]


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


def right_value(error: ErrorDetails, name: str) -> str:
    """What would be right, in our words where pydantic's are not a user's."""
    if error["type"] == "unexpected_keyword_argument":
        return "there is no such option"
    if name == "dataset.memory" and error["input"] == "host":
        return "was removed: disk reads the files while the device trains"
    if error["type"] == "literal_error" and error["input"] in RENAMED_VALUES.get(name, {}):
        return f"is called {RENAMED_VALUES[name][error['input']]} now"
    if error["type"] == "string_pattern_mismatch":
        return "names a folder: letters, digits, _ . - only"
    if error["type"] == "missing":
        return "has no value: give it one"
    if error["type"] == "greater_than_equal":
        return f"must be {error['ctx']['ge']:g} or more"
    said = error["msg"].removeprefix("Value error, ")
    for theirs, ours in OUR_WORDS:
        said = said.replace(theirs, ours)
    return said
