"""Ticks of axes that can be read at any range."""

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

RATES_TO = 1e-4  # of the highest rate: what is lower, as at the end of a cosine, is not shown
SPARSE = 30  # an axis that spans more than this factor has ticks at powers of ten only


def rate_ticks(axes: Axes) -> None:
    """A logarithmic axis of learning rates; within a decade a linear one has better ticks."""
    low, high = axes.dataLim.intervaly
    if 0 < 10 * low <= high or RATES_TO * high > low >= 0:
        axes.set_yscale("log")
        low = max(low, RATES_TO * high)
        log_ticks(axes.yaxis, (1, 2, 5) if high < SPARSE * low else (1,))
        if low > axes.dataLim.y0:
            axes.set_ylim(bottom=low)
    elif high > 0:
        axes.set_ylim(min(low, 0), 1.1 * high)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def log_ticks(axis: Axis, at: tuple[int, ...] = (1, 2, 5)) -> None:
    """Plain numbers at 1, 2, 5, 10 and so on of a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=at))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
