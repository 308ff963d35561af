"""Student's interval around a mean."""

import math

CONFIDENCE = 0.95


def half_width(std: float, n: int) -> float:
    """Half of the interval, of a sample standard deviation and n values; nan for one value."""
    if n < 2:
        return math.nan
    from scipy import special  # scipy.stats takes half a second to import

    return float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * std / math.sqrt(n)
