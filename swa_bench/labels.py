"""What data sets, models and methods are called, and their order in tables and figures."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Column = tuple[str, float]  # a method and a budget

DEMONSTRATIONS = ("cifar10_mini",)  # data sets of no use but to show how the project works
BUDGET_EPOCHS = {"imagenet": 10}  # where the paper names its columns by epochs, not by budgets
ENSEMBLES = ("independent", "snapshot", "fge")  # k budgets of them are k runs of one budget each
ARITHMETIC = ("precision", "channels_last", "compile")  # how a recipe is computed, not what it is
LABELS = {
    "vgg16": "VGG16",
    "vgg16_bn": "VGG16-BN",
    "vgg19": "VGG19",
    "vgg19_bn": "VGG19-BN",
    "preresnet20": "PreResNet20",
    "preresnet110": "PreResNet110",
    "preresnet164": "PreResNet164",
    "wrn28_10": "WRN-28-10",
    "shakeshake26_2x64d": "Shake-Shake-26 2x64d",
    "pyramidnet272_a200": "PyramidNet-272",
    "wrn28_10_standard": "WRN-28-10, standard",
    "resnet50": "ResNet-50",
    "resnet152": "ResNet-152",
    "densenet161": "DenseNet-161",
    "pretrained": "Before",
    "sgd": "SGD",
    "swa": "SWA",
    "swa_cyclic": "SWA cyclic",
    "sgd_fixed_rate": "Fixed-rate SGD",
    "swa_fixed_rate": "Fixed-rate SWA",
    "ema": "EMA",
    "fge": "FGE",
    "swa_fge": "SWA of FGE",
    "snapshot": "Snapshot",
    "sgd_bn": "SGD, BN recomputed",
    "independent": "Independent",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet": "ImageNet",
    "cifar10_mini": "CIFAR-10 mini",
}


def column_label(method: str, budget: float, budget_epochs: int | None = None) -> str:
    """A column's name: SWA 1.25 or, given the epochs of a budget, SWA, 5 epochs.

    That of a method that trains nothing, such as Before, has no budget.
    """
    name = LABELS.get(method, method)
    if not budget:
        return name
    length = f" {budget:g}" if budget_epochs is None else f", {budget * budget_epochs:g} epochs"
    return name + length


def in_order(found: Iterable[str], known: Sequence[str] = tuple(LABELS)) -> list[str]:
    """Names without repeats: the known ones in their order, then the others alphabetically."""
    names = set(found)
    return [name for name in known if name in names] + sorted(names - set(known))


def recipe_text(recipe_diff: Mapping[str, Any]) -> str:
    """How a recipe differs from the published one, as options of swa-train."""
    return " ".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in sorted(recipe_diff.items())
    )


def recipe_options(recipe: str) -> list[str]:
    """The options of a recipe's text; a value may hold spaces."""
    return re.split(r" (?=[\w.]+=)", recipe) if recipe else []


def plain_recipe(recipe: str) -> str:
    """A recipe's text without the options that say how it is computed."""
    options = recipe_options(recipe)
    return " ".join(one for one in options if one.partition("=")[0] not in ARITHMETIC)


def by_options(recipe_diff: str) -> tuple[int, str]:
    """Sorts recipes: those that differ from the published one in fewer options come first."""
    return recipe_diff.count("="), recipe_diff


def columns_in_order(
    found: Iterable[Column], methods: Sequence[str] = tuple(LABELS)
) -> list[Column]:
    """Columns without repeats, by method, of which some have a known order, and budget."""
    columns = set(found)
    order = in_order((method for method, _ in columns), methods)
    return sorted(columns, key=lambda column: (order.index(column[0]), column[1]))


def signed(value: float) -> str:
    """A difference with its sign, as +0.12 or −0.12."""
    return f"{value:+.2f}".replace("-", "−")


def counted(n: int, noun: str) -> str:
    """Such as 1 record and 1,000 records."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def duration(seconds: float) -> str:
    """Seconds as 42 s, 3 min 20 s, 5 h 10 min or 3 d 4 h."""
    whole = round(seconds)
    for unit, name, part, part_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // part} {part_name}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
