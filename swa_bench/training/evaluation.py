"""What is measured of predictions beside loss and error: their calibration."""

from torch import Tensor

ECE_BINS = 15


def calibration_error_pct(predictions: Tensor, labels: Tensor) -> float:
    """Expected calibration error in %, with 15 bins of equal width (arXiv 1706.04599).

    Args:
        predictions: log-probabilities (N, classes).
        labels: int64 (N,).
    """
    # Takes seconds to import: only when a cell is recorded.
    from torchmetrics.functional.classification import multiclass_calibration_error

    # On the CPU, where its sums have one order.
    probabilities, classes = predictions.cpu().double().exp(), predictions.shape[1]
    found = multiclass_calibration_error(probabilities, labels.cpu(), classes, ECE_BINS, norm="l1")
    return 100.0 * float(found)
