"""What is said below the tables of test errors: each note, and the cells that it is about."""

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass

from swa_bench.labels import DEMONSTRATIONS, ENSEMBLES
from swa_bench.results.statistics import SIGNIFICANCE, published

CIFAR = ("cifar10", "cifar100")
Cell = tuple[str, str, str, float]  # data set, model, method and budget


@dataclass(frozen=True)
class Note:
    """A note, said below a table that has a cell of those that it is about.

    Attributes:
        kind: of the table: ensembles or, for single networks, ""; None for both.
        datasets, models, methods: of the cell; () for any.
        published: whether a figure is published of the cell.
        draft: whether that figure is a draft.
    """

    text: str
    _: KW_ONLY
    kind: str | None = None
    datasets: Sequence[str] = ()
    models: Sequence[str] = ()
    methods: Sequence[str] = ()
    published: bool = True
    draft: bool = False

    def is_about(self, cell: Cell) -> bool:
        """Whether it is about a cell of a table of its kind."""
        figure = published().get(cell)
        fits = zip((self.datasets, self.models, self.methods), cell[:3], strict=True)
        return (
            all(not names or name in names for names, name in fits)
            and (figure is not None or not self.published)
            and (not self.draft or (figure is not None and figure.draft))
        )


NOTES = (
    Note(
        "Independent, Snapshot and FGE: the mean softmax output of all members. k budgets are k "
        "runs of one budget each, and n counts disjoint groups of k seeds. SWA of FGE: one "
        "network, the average of the weights of FGE's members.",
        kind="ensembles",
        published=False,
    ),
    Note(
        "Published: the authors' repository (the paper's figures where it has them), n=3. Welch: "
        f"two-sided t-test with unequal variances of ours against the published mean, standard "
        f"deviation and n; 'agrees' means p >= {SIGNIFICANCE:g}; otherwise 'lower' and 'higher' "
        "say where our error lies.",
        datasets=CIFAR,
    ),
    Note(
        "Top-1 error. Published: the paper, as public pages quote it; Welch: two-sided t-test with "
        "unequal variances, where n is known. The batch, the length of a cycle and its rates were "
        "not published: they are this project's choice, and a difference may come from them. "
        "Before: the pretrained network; seeds with the same weights are one measurement.",
        datasets=["imagenet"],
        published=False,
    ),
    Note(
        "PreResNet110 is compared with the authors' PreResNet110 row, which is not in the paper, "
        "and PreResNet164 with the paper's ResNet-164 row: the authors' first code called the net "
        "of 18 bottleneck blocks a stage PreResNet110, though its depth is 164; they renamed it "
        "and added the row of the true depth 110 on 2018-07-05.",
        kind="",
        models=["preresnet110"],
    ),
    Note(
        "1.25 budgets of 150 epochs are 187 here (187.5 rounded down); the authors evaluated every "
        "5th epoch, so theirs is 185 or 190.",
        kind="",
        models=["preresnet110"],
    ),
    Note(
        "Shake-Shake and PyramidNet: the paper has no code for these rows, so their recipes "
        "(rates, weight decay, when weights are collected) are this project's choice, and a "
        "difference may come from them. Of the published figures only the means are known here.",
        models=["shakeshake26_2x64d", "pyramidnet272_a200"],
        published=False,
    ),
    Note(
        "Published Independent and FGE: the FGE authors' repository, which does not say n, so "
        "there is no test; its CIFAR-100 accuracies have one decimal.",
        kind="ensembles",
    ),
    Note(
        "The budget of the published Independent and FGE is 200 epochs for every net; ours of "
        "PreResNet164 is 150, so their lengths differ.",
        kind="ensembles",
        models=["preresnet164"],
        methods=ENSEMBLES,
    ),
    Note(
        "(draft): in an HTML comment of that repository's README, not shown to its readers.",
        draft=True,
    ),
    Note(
        "Small nets and subsets show how the project works; the paper has no such row.",
        datasets=DEMONSTRATIONS,
        published=False,
    ),
)


def notes_of(kind: str, cells: Iterable[Cell]) -> list[str]:
    """The notes on a table with some cells."""
    cells = list(cells)
    of_kind = [note for note in NOTES if note.kind in (None, kind)]
    return [note.text for note in of_kind if any(map(note.is_about, cells))]
