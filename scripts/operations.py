"""What the operations of a training step compute and move, counted."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from swa_bench.config.schema import TrainConfig
from swa_bench.models import build_model
from swa_bench.training import timing


def forward_flops(config: TrainConfig) -> int:
    """Floating-point operations of one image's forward pass, counted on a net without weights."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_model(config.model.name, config.dataset.classes)(torch.empty(1, 3, 32, 32))
    return int(counter.get_total_flops())


class ByteCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes that the operations under it move: every input read once, every output written once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation; views and new memory move nothing."""
        result = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.name():
            arguments = zip(func._schema.arguments, args, strict=False)
            changed = [value for argument, value in arguments if argument.is_write]
            made = [] if changed else result
            tensors = [
                x for x in tree_leaves((args, kwargs, changed, made)) if isinstance(x, Tensor)
            ]
            self.moved += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def step_bytes(config: TrainConfig) -> int:
    """Bytes that one step moves if every operation is a pass over memory of its own."""
    eager = replace(config, cuda_graphs=False, compile=False)
    one = timing.step_on_noise(eager, steps=1)
    one.begin_epoch(one.inputs.data.draw(0, 0, "train"), [1e-6], seed=0, epoch=0)
    with ByteCounter() as counter:
        one.step(config.batch_size)
    moved: int = counter.moved
    return moved
