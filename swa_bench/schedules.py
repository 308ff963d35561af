"""The learning rate as a pure function of the epoch and the step in it.

A schedule is any function (epoch, step, steps_per_epoch, *, own values) -> rate, with epoch and
step counted from 0. A YAML file in conf/schedule/ (or beside the user's own code) names it as
`_target_` and gives its own values.
"""

import math


def authors(
    epoch: int,
    step: int,
    steps_per_epoch: int,
    *,
    learning_rate: float,
    decay_epochs: int,
    final_ratio: float,
) -> float:
    """Constant for half of `decay_epochs`, linear decay until 90 %, then constant (S: train.py).

    Args:
        epoch: counted from 0; the rate does not change within an epoch.
        learning_rate: the first rate.
        decay_epochs: T; the run's length for SGD, swa_start for SWA.
        final_ratio: r; the last rate over the first.
    """
    progress = epoch / decay_epochs
    if progress <= 0.5:
        factor = 1.0
    elif progress <= 0.9:
        factor = 1.0 - (1.0 - final_ratio) * (progress - 0.5) / 0.4
    else:
        factor = final_ratio
    return learning_rate * factor


def constant(epoch: int, step: int, steps_per_epoch: int, *, learning_rate: float) -> float:
    """One rate throughout."""
    return learning_rate


def cyclic(
    epoch: int,
    step: int,
    steps_per_epoch: int,
    *,
    collect_from: int,
    cycle_epochs: int,
    cycle_first: float,
    cycle_last: float,
    **before: float,
) -> float:
    """Equation 1 of the paper from epoch collect_from - cycle_epochs on; before it, `authors`.

    With c iterations a cycle and i counted from 1 at the first cycle's first iteration:
    t = ((i - 1) mod c + 1) / c and rate = (1 - t) * cycle_first + t * cycle_last. So a cycle ends,
    at its lowest rate, with epoch collect_from (1-based) and every cycle_epochs epochs after it.

    Args:
        before: the values of `authors`.
    """
    first_epoch = collect_from - cycle_epochs
    if epoch < first_epoch:
        return authors(epoch, step, steps_per_epoch, **before)  # type: ignore[arg-type]
    iterations = cycle_epochs * steps_per_epoch
    iteration = (epoch - first_epoch) * steps_per_epoch + step
    t = (iteration % iterations + 1) / iterations
    return (1.0 - t) * cycle_first + t * cycle_last


def fge(
    epoch: int,
    step: int,
    steps_per_epoch: int,
    *,
    collect_from: int,
    cycle_epochs: int,
    cycle_high: float,
    cycle_low: float,
    **before: float,
) -> float:
    """A triangle a cycle, from epoch collect_from - cycle_epochs / 2 on; before it, `authors`.

    With t the part of the cycle that lies before a step, from 0, the rate is linear from cycle_high
    (t = 0) to cycle_low (t = 1/2) and back (FGE authors' utils.cyclic_learning_rate). So the middle
    of the first cycle is the end of epoch collect_from (1-based), the next is cycle_epochs later.

    Args:
        before: the values of `authors`.
    """
    first_epoch = collect_from - cycle_epochs // 2
    if epoch < first_epoch:
        return authors(epoch, step, steps_per_epoch, **before)  # type: ignore[arg-type]
    t = ((epoch - first_epoch) % cycle_epochs + step / steps_per_epoch) / cycle_epochs
    down = 1.0 - abs(1.0 - 2.0 * t)
    return (1.0 - down) * cycle_high + down * cycle_low


def snapshot(
    epoch: int, step: int, steps_per_epoch: int, *, learning_rate: float, cycle_epochs: int
) -> float:
    """Half a cosine a cycle, from learning_rate down to nearly 0 (arXiv 1704.00109, equation 2).

    With c iterations a cycle and i counted from 1: learning_rate / 2 * (cos(pi * ((i - 1) mod c)
    / c) + 1). A cycle ends with every cycle_epochs-th epoch.
    """
    t = (epoch % cycle_epochs + step / steps_per_epoch) / cycle_epochs
    return learning_rate / 2.0 * (math.cos(math.pi * t) + 1.0)
