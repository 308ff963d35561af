"""How well the predicted probabilities fit, as a table. Nothing here imports torch."""

import pandas as pd

from swa_bench.labels import column_label, columns_in_order
from swa_bench.reporting.layout import Table, labelled_rows, titled
from swa_bench.results.statistics import CELL, Cell, mean_and_std

FIGURES = {"error": 2, "nll": 4, "ece": 2}  # with their decimals
NOTES = [
    "NLL: negative log-likelihood (natural logarithm) of the test labels, mean an image.",
    "ECE: expected calibration error of the test images, over 15 bins of the confidence.",
]


def calibration_table(dataset: str, frame: pd.DataFrame) -> Table:
    """Test error, NLL and ECE of each cell whose records hold all three.

    Args:
        frame: of `cells_frame`.
    """
    measured = frame[(frame["dataset"] == dataset) & frame["ece"].notna()]
    part = mean_and_std(measured, CELL, list(FIGURES))
    rows, letters = labelled_rows(part)
    lines = []
    for _, label, cells in rows:
        by_column = {(c["method"], c["budget"]): c for c in cells.to_dict("records")}
        for column in columns_in_order(by_column):
            cell = by_column[column]
            figures = [
                Cell(cell[f"{figure}_mean"], cell[f"{figure}_std"], None).text(decimals)
                for figure, decimals in FIGURES.items()
            ]
            lines.append([label, column_label(*column), *figures, str(cell["error_count"])])
            label = ""
    title = titled(dataset, ", calibration: mean ± sample standard deviation over n seeds")
    header = ["", "", "test error in %", "NLL", "ECE in %", "n"]
    return Table(f"{dataset}-calibration", title, header, lines, [*letters, *NOTES], part)
