"""The training pass of the paper's networks in fewer small kernels, to the same bits.

In deep, narrow networks a tenth of a step on a GPU goes into kernels that do hardly anything:
autocast casts every weight by one of its own, and its gradient by another, and every batch norm
counts its batches by one. Here one kernel does it for all layers.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

# What blocks of one class may differ in: 90 shapes in PyramidNet, two sizes of batches.
KINDS_OF_BLOCKS = 200


def is_ours(model: nn.Module) -> bool:
    """Whether it is a network of `swa_bench.models`, whose layers and calls are known."""
    return type(model).__module__.startswith("swa_bench.models.")


class TrainingPass:
    """Calls a network of `swa_bench.models` in training mode.

    Other networks may use a weight in a way that autocast leaves in float32, call a layer twice or
    not at all, or read its counter, so these are called, and compiled, as they are.

    Args:
        model: whose layers are all in training mode when it is called.
        compiled: whether by torch.compile, anew for each size of batch. Blocks of one kind share
            what is compiled, so that a network of 164 layers takes no longer than one of 20.
    """

    def __init__(self, model: nn.Module, compiled: bool = False) -> None:
        self.model: Any = model
        self.weights: dict[str, Tensor] = {}
        self.counters: dict[str, Tensor] = {}
        self.compiled: dict[nn.Module, Any] = {}
        if not is_ours(model):
            self.model = torch.compile(model, dynamic=False) if compiled else model
            return
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                self.weights |= dict(layer.named_parameters(name, recurse=False))
            elif isinstance(layer, nn.BatchNorm2d) and layer.num_batches_tracked is not None:
                self.counters[f"{name}.num_batches_tracked"] = layer.num_batches_tracked
        if compiled:
            torch._dynamo.config.cache_size_limit = KINDS_OF_BLOCKS
            for block in _blocks(model) or [model]:
                self.compiled[block] = torch.compile(block.forward, dynamic=False)

    def __call__(self, images: Tensor) -> Tensor:
        """Map images (B, 3, S, S) to logits (B, classes), in the precision of autocast."""
        # Without a counter, a layer does not count.
        others: dict[str, Any] = dict.fromkeys(self.counters)
        kind = images.device.type
        if self.weights and torch.is_autocast_enabled(kind):
            casts = _Cast.apply(torch.get_autocast_dtype(kind), *self.weights.values())
            others |= zip(self.weights, casts, strict=True)
        try:
            for block, forward in self.compiled.items():
                block.forward = forward
            logits: Tensor
            if others:
                logits = functional_call(self.model, others, (images,), tie_weights=False)
            else:  # also where a scripted network could not be called so
                logits = self.model(images)
        finally:
            for block in self.compiled:
                del block.forward  # so that tests of the network do not compile it once more
        if self.counters:
            torch._foreach_add_(list(self.counters.values()), 1)
        return logits


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The modules of the kinds that the network is made of again and again."""
    own = [layer for layer in model.modules() if not type(layer).__module__.startswith("torch.")]
    kinds = Counter(map(type, own))
    return [block for block in own if kinds[type(block)] > 1]


class _Cast(torch.autograd.Function):
    """Casts tensors as `Tensor.to` does, and their gradients back, all at once."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        return _cast(weights, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_cast(gradients, torch.float32)


def _cast(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    casts = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(casts, list(tensors))
    return tuple(casts)
