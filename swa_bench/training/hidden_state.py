"""What a network or predictor keeps where no checkpoint finds it: a restart loses it."""

import random
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from swa_bench.training.states import State

TORCHS_OWN = frozenset(vars(nn.Module()))


def hidden_state(state: State, resumed: State, fresh: dict[str, object]) -> list[str]:
    """Warnings of what differs between a run and the same run after a restart.

    Args:
        fresh: `attributes` of the network before its first step.
        state: after two steps.
        resumed: after the second, which it took after the restart; with the same random numbers.
    """
    ours = attributes(state.model)
    changed = differing(fresh, ours)
    lost = [name for name in differing(ours, attributes(resumed.model)) if name in changed]
    warnings = [_sentence(lost, "in the state dict", "a buffer")] if lost else []
    on_cpu = next(state.model.parameters()).device.type == "cpu"  # a GPU may add in any order
    if on_cpu and not warnings and _all(state) != _all(resumed):
        warnings.append(
            "A step after a restart gives other weights than without it: the network or the "
            "optimiser keeps something that is not in its state dict, or draws from a generator of "
            "its own. The same command may give other figures."
        )
    if names := unregistered(state.model):
        warnings.append(
            f"{_listed(names)}: layers or parameters in a plain list or dict, which are neither "
            "trained nor stored. Use torch.nn.ModuleList or ParameterList."
        )
    coarse = [p for p in state.model.parameters() if p.dtype in (torch.float16, torch.bfloat16)]
    if coarse:
        warnings.append(
            f"{sum(one.numel() for one in coarse):,} parameters are of 16 bits: averages of them "
            "are rounded to that after every collection. Keep weights in float32."
        )
    return warnings


def buffers(model: nn.Module) -> dict[str, object]:
    """{name: comparable value} of all buffers."""
    return {name: frozen(buffer) for name, buffer in model.named_buffers()}


def changed_in_evaluation(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """The warning, if any, of `buffers` that differ before and after a test."""
    names = differing(before, after)
    return names and [
        f"{_listed(names)}: changed in evaluation mode, so that results depend on "
        "evaluation.every. Change in training mode only."
    ]


def other_first_weights(first: str, second: str) -> list[str]:
    """A warning if a network that is built again has other weights, given their digests."""
    if first == second:
        return []
    return [
        "The network has other first weights each time it is built: it draws from a generator of "
        "its own. The same command gives other figures."
    ]


def differing_predictions(first: Tensor, second: Tensor) -> list[str]:
    """A warning if a network predicts something else with the same images and random numbers."""
    if first.device.type != "cpu" or first.isnan().any() or torch.equal(first, second):
        return []
    return [
        "The network gives other logits for the same images in evaluation mode: it draws from a "
        "generator of its own. The same command may give other figures."
    ]


def hidden_in_predictors(state: State, resumed: State) -> list[str]:
    """Warnings of what differs between their predictors, after both have collected again."""
    warnings = []
    for name, predictor in state.predictors.items():
        ours, other = (
            {key: frozen(one) for key, one in vars(which).items() if key not in ("n", "kept")}
            for which in (predictor, resumed.predictors[name])
        )
        if own := differing(ours, other):
            names = [f"method.predictors.{name}.{one}" for one in own]
            warnings.append(_sentence(names, "stored", "a part of `kept`"))
    return warnings


def _sentence(names: list[str], where: str, better: str) -> str:
    changes = "changes in a step but is" if len(names) == 1 else "change in a step but are"
    return (
        f"{_listed(names)} {changes} not {where}: a resumed run may differ. "
        f"Make {'it' if len(names) == 1 else 'each'} {better}."
    )


def _listed(names: list[str]) -> str:
    more = [f"{len(names) - 3} more"] if len(names) > 3 else []
    return ", ".join([*names[:3], *more])


def _all(state: State) -> object:
    return frozen((state.model.state_dict(), state.optimizer.state_dict()))


def attributes(model: nn.Module) -> dict[str, object]:
    """{name: comparable value} of plain attributes and of buffers with persistent=False."""
    found = {}
    stored = model.state_dict().keys()
    for path, layer in model.named_modules():
        values = {name: value for name, value in vars(layer).items() if name not in TORCHS_OWN}
        values |= layer.named_buffers(recurse=False)
        for name, value in values.items():
            full = f"{path}.{name}".lstrip(".")
            if full not in stored:
                found[full] = frozen(value)
    return found


def frozen(value: object) -> object:
    """A copy of numbers, text, tensors, arrays, generators and containers of them, to be compared.

    All else gives None, and so does a tensor that is computed from parameters.
    """
    if isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        return repr(value)
    if isinstance(value, Tensor):
        if value.grad_fn is not None or isinstance(value, nn.Parameter):
            return None
        values = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return tuple(value.shape), str(value.dtype), values.numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.shape, str(value.dtype), value.tobytes()
    if isinstance(value, dict):
        return tuple((repr(key), frozen(one)) for key, one in value.items())
    if isinstance(value, list | tuple | deque):
        return tuple(map(frozen, value))
    if isinstance(value, set | frozenset):
        return tuple(sorted(map(repr, value)))
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, torch.Generator):
        return frozen(value.get_state())
    return None


def differing(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """The names under which two differ."""
    return [name for name in first | second if first.get(name) != second.get(name)]


def unregistered(model: nn.Module) -> list[str]:
    """The names of plain containers of layers or parameters that the network does not know of."""
    known = {id(one) for one in (*model.modules(), *model.parameters())}
    return [
        f"{path}.{name}".lstrip(".")
        for path, layer in model.named_modules()
        for name, value in vars(layer).items()
        if name not in TORCHS_OWN
        and isinstance(value, list | tuple | dict)
        and any(
            isinstance(one, nn.Module | nn.Parameter) and id(one) not in known
            for one in (value.values() if isinstance(value, dict) else value)
        )
    ]
