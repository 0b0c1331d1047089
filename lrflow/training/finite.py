"""Which tensors of a checkpoint are not finite: weights, buffers, averages of them, and the state of the optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

_CHECKED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def not_finite(tensors: Iterable[tuple[str, Any]]) -> list[str]:
    """Return the names of tensors with a value that is NaN or infinite; each device is read once.

    Args:
        tensors: names and values; only tensors of floating-point numbers are looked at.
    """
    alike: dict[tuple[torch.device, torch.dtype], list[tuple[str, Tensor]]] = {}
    for name, value in tensors:
        if (
            type(value) in (Tensor, Parameter)  # no part of a tensor that several devices hold
            and value.dtype in _CHECKED
            and value.layout is torch.strided
            and value.numel()
            and not value.is_meta
        ):
            alike.setdefault((value.device, value.dtype), []).append((name, value.detach()))
    found: list[str] = []
    for named in alike.values():
        found += [
            name for (name, _), fine in zip(named, are_finite([one for _, one in named]), strict=True) if not fine
        ]
    return found


def are_finite(tensors: Sequence[Tensor]) -> list[bool]:
    """Return for each tensor whether all its values are finite; their device is read once.

    A finite norm tells it in an eighth of the time that the largest value takes. A norm that is not finite may have
    overflowed, so then the largest value decides.

    Args:
        tensors: floating-point numbers, detached, on one device.
    """
    fine: list[bool] = []
    for order in (2.0, float("inf")):
        fine = torch.stack(torch._foreach_norm([*tensors], order)).isfinite().tolist()
        if all(fine):
            break
    return fine


def not_finite_in(
    checkpoint: Mapping[str, Any], groups: Sequence[Sequence[str]], tolerated: Iterable[str] = ()
) -> list[str]:
    """Return the names of the tensors of a checkpoint that are not finite.

    Args:
        checkpoint: as it is saved.
        groups: the parameter names of each of the optimizer's groups.
        tolerated: names in `state_dict` that are not looked at: those that are not finite from the start, such as a
            mask of minus infinity.
    """
    found = not_finite(_tensors(checkpoint, [name for names in groups for name in names]))
    return sorted({*found} - {*tolerated})


def _tensors(checkpoint: Mapping[str, Any], names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    yield from checkpoint["state_dict"].items()
    own = checkpoint.get("lrflow", {})
    yield from own.get("training", {}).items()
    for average in own.get("average", {}).get("averages", ()):
        yield from average.items()
    for state in checkpoint.get("optimizer_states", ()):
        for index, own in state.get("state", {}).items():
            name = names[index] if isinstance(index, int) and index < len(names) else str(index)
            yield from ((f"{key} of {name}", value) for key, value in _leaves(own))
    for key, part in checkpoint.items():
        if key != "state_dict" and isinstance(part, Mapping):  # averages of the weights, for example
            yield from ((f"{name} of {key}", value) for name, value in part.items() if _names_weights(name, checkpoint))
    for key, part in checkpoint.get("callbacks", {}).items():
        # A single number may be infinite for good reason, as the best value before there is one.
        yield from ((f"{name} of {key}", value) for name, value in _leaves(part) if _is_array(value))


def _names_weights(name: object, checkpoint: Mapping[str, Any]) -> bool:
    return isinstance(name, str) and name.removeprefix("module.") in checkpoint["state_dict"]


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Return the values in nested containers, each with the keys that lead to it, joined by dots."""
    if isinstance(value, Mapping):
        parts: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        yield name, value
        return
    for key, part in parts:
        yield from _leaves(part, f"{name}.{key}" if name else str(key))
