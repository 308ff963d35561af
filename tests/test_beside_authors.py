"""The comparison with the authors' program: its statistics, and what it reads of their output."""

import math
from pathlib import Path

import authors_program as program
import beside_authors as beside
import pytest
from scipy import stats


def test_equivalence_by_hand() -> None:
    """Variances 1 and 1 of 3 seeds each: error sqrt(2/3), 4 degrees; t at 95 % is 2.1318."""
    ours, theirs = [1.0, 2.0, 3.0], [1.5, 2.5, 3.5]
    difference, (low, high), p_value, p_equivalent = beside.equivalence(ours, theirs, 3.0)
    error = math.sqrt(2 / 3)
    assert difference == pytest.approx(-0.5)
    assert (low, high) == pytest.approx((-0.5 - 2.1318 * error, -0.5 + 2.1318 * error), abs=1e-3)
    assert p_value == pytest.approx(2 * stats.t.sf(0.5 / error, 4))
    assert p_equivalent == pytest.approx(stats.t.sf((3.0 - 0.5) / error, 4))
    assert beside.equivalence(ours, theirs, 1.0)[3] > 0.05  # the interval is wider than the bound


def test_a_clone_is_mended_in_a_copy(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    lines = "x = input.cuda(async=True)\nloss_sum += loss.data[0] * 2\n"
    (clone / "utils.py").write_text(lines)
    (clone / "train.py").write_text("num_classes = max(train_set.train_labels) + 1\n")
    copy = program.mended(clone, tmp_path / "out")
    compile((copy / "utils.py").read_text(), "utils.py", "exec")
    assert "loss.item() * 2" in (copy / "utils.py").read_text()
    assert "train_set.targets" in (copy / "train.py").read_text()
    assert (clone / "utils.py").read_text() == lines


@pytest.mark.parametrize(("last", "expected"), [(22, {1.0: 51.0, 1.25: 50.0, 1.5: 49.0}), (21, {})])
def test_budgets_of_a_log(tmp_path: Path, last: int, expected: dict[float, float]) -> None:
    """Quickstart's SWA has 15, 18 and 22 epochs; the last column but one is the accuracy of SWA."""
    accuracy = {15: 49.0, 18: 50.0, 22: 51.0}
    rows = [
        f"  {epoch}    0.05    1.2    54.1    1.4    48.0    1.3   {accuracy.get(epoch, 1)}    5.1"
        for epoch in range(1, last + 1)
    ]
    log = tmp_path / "swa-seed0.log"
    log.write_text("\n".join(["Using model PreResNet20", "----  -----", *rows]))
    assert program.errors_of(log, "swa") == expected
