"""Loss and error of a network around its weights: along rays and lines, and on a plane.

Batch-norm statistics belong to the weights, so they are recomputed at every point, from one fixed
pass over augmented training images (paper, section 3.4; the FGE authors' eval_curve.py).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from swa_bench.analysis.restore import Restored
from swa_bench.data.random import random_numbers
from swa_bench.results.widths import MEASURED as MEASURES
from swa_bench.training import hardware
from swa_bench.training.batch_norm import RunningStatistics
from swa_bench.training.evaluation import with_room
from swa_bench.training.network import copy_of

Around = AbstractContextManager[Any]


def flat(model: nn.Module) -> Tensor:
    """The parameters as one vector (P,)."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


class Probe:
    """Measures a network at any weights.

    The fixed pass goes through the network as one batch with its batch norms in training mode (but
    nothing else, so without dropout). So a batch's statistics are those of the pass, and one pass
    gives both the statistics and the training loss under them. It differs from a second pass with
    these statistics by the variance's n / (n - 1) only. The pass is of some training `images`.
    """

    def __init__(self, restored: Restored, images: int) -> None:
        config, self.data = restored.config, restored.data
        self.model = copy_of(restored.model, config)
        self.parameters = [parameter.data for parameter in self.model.parameters()]
        self.layers = RunningStatistics(self.model).layers
        self.model.eval()
        self.autocast = hardware.autocast(config)
        draws = self.data.draw(config.seed, restored.record.epochs or 0, "recompute")
        # The same at every point, for a network that draws even in evaluation mode.
        self.stream = (config.seed, restored.record.epochs or 0, "predict", self.data.device)
        self.test = with_room(self._tried, self.data, config)
        images = min(images, len(self.data.train_labels))
        # Where there are statistics, they are those of all images at once: it is no free choice.
        size = images if self.layers else len(self.test[0][1])
        self.train = list(self.data.train_batches(draws.at(slice(images)), size))

    @torch.no_grad()
    def _tried(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """The test images in batches, of which the network has been given one."""
        batches = list(self.data.test_batches(size))
        with random_numbers(*self.stream):
            self._score(batches[:1])
        return batches

    @torch.no_grad()
    def at(self, weights: Tensor) -> Tensor:
        """MEASURES (5,) at weights (P,), float64 on the device; without waiting for it."""
        parts = torch.split(weights, [parameter.numel() for parameter in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.copy_(part.view(parameter.shape))
        statistics = RunningStatistics(self.model)
        self.model.eval()
        for layer in self.layers.values():
            layer.train()
        with statistics.recomputed(), random_numbers(*self.stream):
            train = self._score(self.train, statistics.batch)
        self.model.eval()
        with random_numbers(*self.stream):
            test = self._score(self.test)
        return torch.cat([train, test, weights.double().square().sum()[None]])

    def _score(
        self, batches: list[tuple[Tensor, Tensor]], around: Callable[[int], Around] = nullcontext
    ) -> Tensor:
        """Mean loss and error in % (2,); `around` each batch, given its number of images."""
        sums = []
        for pixels, labels in batches:
            with around(len(labels)), self.autocast:
                logits = self.model(pixels.clone())  # it may change them in place
            loss = F.cross_entropy(logits.double(), labels, reduction="sum")
            wrong = 100.0 * (logits.argmax(1) != labels).sum()
            sums.append(torch.stack([loss, wrong.double()]))
        return torch.stack(sums).sum(0) / sum(len(labels) for _, labels in batches)


def direction(parameters: int, seed: int, index: int) -> Tensor:
    """A vector (P,) of length 1, drawn uniformly from the sphere: the same on every device."""
    entropy = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(entropy >> np.uint64(1)))
    drawn = torch.randn(parameters, generator=generator)
    unit: Tensor = drawn / drawn.double().norm().float()
    return unit


def plane_axes(points: list[Tensor]) -> tuple[Tensor, Tensor, np.ndarray]:
    """Two orthonormal vectors (P,) that span the plane of three points; ValueError on a line.

    Returns:
        The axes, from the first point as the origin, and the points' places (3, 2) along them.
    """
    origin, second, third = (point.double() for point in points)
    along, other = second - origin, third - origin
    length = along.norm()
    along = along / length if length > 0 else along
    x = other @ along
    across = other - x * along
    y = across.norm()
    if not length > 0 or not y > 1e-6 * length:
        raise ValueError("the three points lie on a line")
    places = np.array([[0.0, 0.0], [length.item(), 0.0], [x.item(), y.item()]])
    return along.float(), (across / y).float(), places


def rays(
    probe: Probe, center: Tensor, distances: np.ndarray, count: int, seed: int, what: str
) -> dict[str, list[Any]]:
    """MEASURES along each of `count` rays, as lists (count, distances); the first distance is 0."""

    def points() -> Iterator[Tensor]:
        for index in range(count):
            drawn = direction(len(center), seed, index).to(center.device)
            for distance in distances[1:]:
                yield center + float(distance) * drawn

    start = probe.at(center)[None, None].expand(count, 1, -1)
    along = _measured(probe, points(), (count, len(distances) - 1), what)
    return _named(torch.cat([start, along], dim=1))


def line(probe: Probe, first: Tensor, last: Tensor, ts: np.ndarray) -> dict[str, Any]:
    """MEASURES at first + t (last - first) for each t, and the distance between the two."""
    points = (torch.lerp(first, last, float(t)) for t in ts)  # exact at both ends
    distance = (last - first).double().norm().item()
    measured = _measured(probe, points, (len(ts),), "line")
    return {"t": ts.tolist(), "distance": distance} | _named(measured)


def plane(
    probe: Probe,
    origin: Tensor,
    axes: tuple[Tensor, Tensor, np.ndarray],
    margin: float,
    count: int,
) -> dict[str, Any]:
    """MEASURES on a grid of the plane through three points, as lists (y, x), and their places.

    Args:
        origin, axes: the first of the points, and what `plane_axes` gives of all three.
        margin: around the points, in parts of their larger extent.
        count: points of the grid on each side.
    """
    x_axis, y_axis, places = axes
    low, high = places.min(0), places.max(0)
    around = margin * (high - low).max()
    xs, ys = (np.linspace(low[i] - around, high[i] + around, count) for i in (0, 1))
    grid = (origin + float(x) * x_axis + float(y) * y_axis for y in ys for x in xs)
    found = {"x": xs.tolist(), "y": ys.tolist(), "places": places.tolist()}
    return found | _named(_measured(probe, grid, (count, count), "plane"))


def _measured(probe: Probe, points: Iterable[Tensor], shape: tuple[int, ...], what: str) -> Tensor:
    """MEASURES (*shape, 5) of points, in the order of the grid, on the device."""
    shown = track(points, what, math.prod(shape), console=Console(stderr=True))
    return torch.stack([probe.at(point) for point in shown]).reshape(*shape, -1)


def _named(measured: Tensor) -> dict[str, list[Any]]:
    """{measure: nested lists}, for a record: what is not finite, as far away it may be, is None."""
    table = measured.cpu().numpy()
    objects = table.astype(object)
    objects[~np.isfinite(table)] = None
    return {name: objects[..., place].tolist() for place, name in enumerate(MEASURES)}
