"""What is said below the tables of test errors, and of which cells."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from swa_bench.labels import DEMONSTRATIONS, ENSEMBLES
from swa_bench.results.references import Estimate, Key, Reference
from swa_bench.results.statistics import SIGNIFICANCE


class Cell(NamedTuple):
    """A cell of a table of test errors.

    Attributes:
        kind: of the table: ensembles or, for single networks, "".
        figure: that is published of it, if there is one and it is compared.
    """

    kind: str
    dataset: str
    model: str
    method: str
    figure: Estimate | None


WELCH = (
    "Welch: two-sided t-test with unequal variances of ours against the {}; 'agrees' means p >= "
    f"{SIGNIFICANCE:g}; otherwise 'lower' and 'higher' say where our error lies."
)
# Each with a test of whether it is about a cell.
NOTES: list[tuple[str, Callable[[Cell], object]]] = [
    (
        "Independent, Snapshot and FGE: the mean softmax output of all members. k budgets are k "
        "runs of one budget each, and n counts disjoint groups of k seeds. SWA of FGE: one "
        "network, the average of the weights of FGE's members.",
        lambda of: of.kind == "ensembles",
    ),
    (
        "Published: the authors' repository (the paper's figures where it has them), n=3. "
        + WELCH.format("published mean, standard deviation and n"),
        lambda of: of.figure and of.dataset in ("cifar10", "cifar100"),
    ),
    (
        "Top-1 error. Published: the paper, as public pages quote it; Welch: two-sided t-test with "
        "unequal variances, where n is known. The batch, the length of a cycle and its rates were "
        "not published: they are this project's choice, and a difference may come from them. "
        "Before: the pretrained network; seeds with the same weights are one measurement.",
        lambda of: of.dataset == "imagenet",
    ),
    (
        "PreResNet110 is compared with the authors' PreResNet110 row, which is not in the paper, "
        "and PreResNet164 with the paper's ResNet-164 row: the authors' first code called the net "
        "of 18 bottleneck blocks a stage PreResNet110, though its depth is 164; they renamed it "
        "and added the row of the true depth 110 on 2018-07-05.",
        lambda of: of.figure and not of.kind and of.model == "preresnet110",
    ),
    (
        "1.25 budgets of 150 epochs are 187 here (187.5 rounded down); the authors evaluated every "
        "5th epoch, so theirs is 185 or 190.",
        lambda of: of.figure and not of.kind and of.model == "preresnet110",
    ),
    (
        "Shake-Shake and PyramidNet: the paper has no code for these rows, so their recipes "
        "(rates, weight decay, when weights are collected) are this project's choice, and a "
        "difference may come from them. Of the published figures only the means are known here.",
        lambda of: of.model in ("shakeshake26_2x64d", "pyramidnet272_a200"),
    ),
    (
        "Published Independent and FGE: the FGE authors' repository, which does not say n, so "
        "there is no test; its CIFAR-100 accuracies have one decimal.",
        lambda of: of.figure and of.kind == "ensembles",
    ),
    (
        "The budget of the published Independent and FGE is 200 epochs for every net; ours of "
        "PreResNet164 is 150, so their lengths differ.",
        lambda of: of.figure and of.kind and of.model == "preresnet164" and of.method in ENSEMBLES,
    ),
    (
        "(draft): in an HTML comment of that repository's README, not shown to its readers.",
        lambda of: of.figure and of.figure.draft,
    ),
    (
        "Small nets and subsets show how the project works; the paper has no such row.",
        lambda of: of.dataset in DEMONSTRATIONS,
    ),
]


def notes_of(kind: str, cells: Iterable[Key], reference: Reference) -> list[str]:
    """The notes on a table, given its cells and what they are compared with."""
    cells = list(cells)
    usual = not reference.note
    found = [Cell(kind, *cell[:3], reference.figure(cell) if usual else None) for cell in cells]
    said = [text for text, is_about in NOTES if any(map(is_about, found))]
    return said if usual else [f"{reference.note} {WELCH.format('latter')}", *said]
