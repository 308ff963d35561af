"""Batch-norm statistics for other weights than those that they were collected with.

A statistic is recomputed by one pass in training mode, every image that a layer sees weighing the
same (S: utils.bn_update). `torch.optim.swa_utils.update_bn` would weigh every batch the same, the
smaller last one too.
"""

import contextlib
import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

NAMED_AT_MOST = 3  # layers in a sentence
# torch's layers inside a scripted network, where only their names are left. Those of instance norm
# do not count their calls.
SCRIPTED = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")

FROZEN = "in evaluation mode"
NEVER_CALLED = "never called in training mode"
FOREIGN = "a rule of its own"
PAST_HOOKS = "called in a way that cannot be followed"
NO_MOMENTUM = "scripted with momentum 0"


class RunningStatistics:
    """The layers of a network whose running statistics a pass can recompute.

    These are torch's own layers that have statistics and are in training mode after
    `model.train()`. The network is left in training mode.

    Attributes:
        layers: by name.
        kept: why other modules keep the statistics that they have, by the module's name; complete
            after the pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model.train()
        self.layers: dict[str, Any] = {}
        self.kept: dict[str, str] = {}
        for name, module in model.named_modules():
            if not _has_statistics(module):
                continue
            if not _is_known(module):
                self.kept[name] = FOREIGN
            elif _is_scripted(module) and module.momentum == 0:
                self.kept[name] = NO_MOMENTUM
            elif module.training:
                self.layers[name] = module
            else:
                self.kept[name] = FROZEN
        self.seen = dict.fromkeys(self.layers, 0)  # images of each layer
        scripted = {name: layer for name, layer in self.layers.items() if _is_scripted(layer)}
        self.scripted = {name: _ScriptedLayer(layer) for name, layer in scripted.items()}
        self.tracked = _tracked(self.layers)
        self.others = {
            name: buffer.clone()
            for name, buffer in model.named_buffers()
            if buffer.is_floating_point() and _owner(name) not in self.layers  # no mere counters
        }

    @contextlib.contextmanager
    def recomputed(self) -> Iterator[None]:
        """Recompute the statistics by the batches that go through the network inside."""
        eager = {name: self.layers[name] for name in self.layers if name not in self.scripted}
        momenta = {name: layer.momentum for name, layer in eager.items()}
        with contextlib.ExitStack() as hooks:
            # Compiled parts of a network would not call the hooks.
            hooks.enter_context(torch.compiler.set_stance("force_eager"))
            for name, layer in eager.items():
                weigh = functools.partial(self._weigh, name)
                handle = layer.register_forward_pre_hook(weigh, with_kwargs=True)
                hooks.callback(handle.remove)
            try:
                yield
            finally:
                for name, layer in eager.items():
                    layer.momentum = momenta[name]
        for name, scripted in self.scripted.items():
            self.seen[name] = scripted.finish()
        self.kept |= {name: NEVER_CALLED for name, seen in self.seen.items() if not seen}
        counting = {name: one for name, one in eager.items() if isinstance(one, _BatchNorm)}
        self.kept |= {
            name: PAST_HOOKS
            for name, tracked in _tracked(counting).items()
            if tracked != self.tracked[name]
        }
        for name in self.changed_elsewhere():
            self.kept.setdefault(_owner(name), FOREIGN)

    def _weigh(self, name: str, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a layer's call: give its batch the weight of its images among those so far."""
        if not layer.training:  # a network may change that in its forward pass
            return
        images = len(args[0] if args else kwargs["input"])
        if not self.seen[name]:
            layer.reset_running_stats()
            self.tracked[name] = 0
        self.tracked[name] += 1
        self.seen[name] += images
        layer.momentum = images / self.seen[name]

    @contextlib.contextmanager
    def batch(self, images: int) -> Iterator[None]:
        """Around a batch's way through the network."""
        for scripted in self.scripted.values():
            scripted.begin()
        yield
        for scripted in self.scripted.values():
            scripted.end(images)

    def changed_elsewhere(self) -> list[str]:
        """The buffers that have changed and belong to none of the layers."""
        now = dict(self.model.named_buffers())
        return [name for name, before in self.others.items() if not torch.equal(before, now[name])]


class _ScriptedLayer:
    """A batch norm inside a scripted network, whose momentum cannot be changed.

    Its statistics are set to 0 before each batch. After k calls with momentum m they are the
    batch's means times 1 - (1 - m)^k.
    """

    def __init__(self, layer: Any) -> None:
        self.layer, self.seen, self.calls = layer, 0, 0
        self.before = self._statistics()
        self.mean = [torch.zeros_like(value) for value in self.before]

    def _statistics(self) -> list[Tensor]:
        return [self.layer.running_mean.clone(), self.layer.running_var.clone()]

    def begin(self) -> None:
        """Before a batch."""
        for buffer in (self.layer.running_mean, self.layer.running_var):
            buffer.zero_()
        self.layer.num_batches_tracked.zero_()

    def end(self, images: int) -> None:
        """After a batch."""
        calls = int(self.layer.num_batches_tracked)
        if not calls:
            return
        self.calls, self.seen = self.calls + calls, self.seen + images
        # Without momentum, torch averages over the calls.
        known = 1.0 if self.layer.momentum is None else 1.0 - (1.0 - self.layer.momentum) ** calls
        for mean, value in zip(self.mean, self._statistics(), strict=True):
            mean.lerp_(value / known, images / self.seen)

    def finish(self) -> int:
        """Set the statistics, to those of before if it was never called; return the images."""
        found = self.mean if self.seen else self.before
        self.layer.running_mean.copy_(found[0])
        self.layer.running_var.copy_(found[1])
        self.layer.num_batches_tracked.fill_(self.calls)
        return self.seen


def _owner(buffer: str) -> str:
    return buffer.rpartition(".")[0]


def _has_statistics(module: nn.Module) -> bool:
    return any(name.startswith("running_") for name, _ in module.named_buffers(recurse=False))


def _is_scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _tracked(layers: dict[str, Any]) -> dict[str, int]:
    """How many batches each layer has counted, read from the device at once."""
    counts = [layer.num_batches_tracked for layer in layers.values()]
    return dict(zip(layers, torch.stack(counts).tolist() if counts else [], strict=True))


def _is_known(module: nn.Module) -> bool:
    if _is_scripted(module):  # traced ones have lost their momentum
        return getattr(module, "original_name", None) in SCRIPTED and hasattr(module, "momentum")
    # A forward of its own may do anything with the momentum.
    if "forward" in vars(module):
        return False
    return isinstance(module, _NormBase) and type(module).forward.__module__.startswith("torch.nn.")


@torch.no_grad()
def recompute_batch_norm(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], autocast: torch.autocast
) -> dict[str, str]:
    """Replace running statistics by their means over one pass.

    A network without any is given one batch, which shows whether it has others of its own kind.

    Returns:
        Why a module's statistics are not recomputed, by the module's name; {} if all are.
    """
    statistics = RunningStatistics(model)
    if not statistics.layers and not statistics.others:
        return {}
    with statistics.recomputed():
        for images, _ in batches:
            with statistics.batch(len(images)), autocast:
                model(images)
            if not statistics.layers and not statistics.changed_elsewhere():
                break
    return statistics.kept


def describe_kept(kept: Mapping[str, str]) -> list[str]:
    """A sentence for each reason why statistics are not recomputed."""
    by_reason = defaultdict(list)
    for name, reason in kept.items():
        by_reason[reason].append(name or "the network itself")
    sentences = []
    for reason, names in by_reason.items():
        more = len(names) - NAMED_AT_MOST
        shown = ", ".join(names[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
        sentences.append(f"Running statistics were not recomputed: {shown} ({reason}).")
    return sentences
