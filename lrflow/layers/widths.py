"""How a parameter grows with the width of its model: its role, and the ratios of its fan-in and fan-out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lrflow.layers.parameters import Entry, Place, is_norm
from lrflow.layers.residual_depth import pattern
from lrflow.wording import shape_text

_FORWARD = (nn.Linear, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase, _ConvNd)  # weights of [out, in, ...]
_BACKWARD = (_ConvTransposeNd, nn.Embedding, nn.EmbeddingBag)  # weights of [in, out, ...]
_MIN_NUMEL = 256  # elements from which the initial scale of a tensor is checked


@dataclass(frozen=True, eq=False)
class Width:
    """How a parameter grows with the width of the model.

    Args:
        entry: the parameter.
        base: the same parameter of the narrower model.
        role: `input` (only its fan-out is a width), `hidden` (both are), `output` (only its fan-in is), `vector` (a
            bias, the gain of a norm, a token: one dimension is a width), or `fixed` (no dimension is).
        fan_in: its fan-in over that of the narrower model; 1 if it is no width.
        fan_out: its fan-out over that of the narrower model; 1 if it is no width.
        wide_rows: whether its first dimension is a width.
        depth: blocks of the model over those of the narrower one; 1 outside the blocks that grow in number.
    """

    entry: Entry
    base: Tensor
    role: str
    fan_in: float = 1.0
    fan_out: float = 1.0
    wide_rows: bool = True
    depth: float = 1.0

    @property
    def excess(self) -> float | None:
        """Its initial scale over that which muP requires; None: it is that, or the tensor is too small to tell."""
        weights = self.role in ("input", "hidden") or (self.depth != 1 and self.entry.parameter.dim() > 1)
        if not weights or min(self.base.numel(), self.entry.parameter.numel()) < _MIN_NUMEL:
            return None
        now, before = _rms(self.entry.parameter), _rms(self.base)
        found = now / before * math.sqrt(self.fan_in) if now and before else 1.0
        return None if 0.8 < found < 1.25 else found

    def rescale(self) -> None:
        """Multiply the parameter so that it starts as muP requires, if it does not."""
        if self.entry.trainable and (excess := self.excess) is not None:
            with torch.no_grad():
                self.entry.parameter.div_(excess)


def describe_scales(widths: Iterable[Width], rescaled: bool) -> list[str]:
    """Return a line for each kind of parameter (`blocks.*.fc.weight`) that does not start as muP requires.

    Args:
        widths: of the parameters, before any is rescaled.
        rescaled: whether they will be.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for width in widths:
        if (excess := width.excess) is not None:
            rule = "fall as 1/sqrt(fan in)" if width.role == "hidden" else "be the same at every width"
            rule += ", whatever the depth" if width.depth != 1 else ""
            found.setdefault((pattern(width.entry.name), rule), []).append(excess)
    lines = []
    for (name, rule), values in found.items():
        low, high = (f"{1 / one if rescaled else one:.2g}" for one in (min(values), max(values)))
        factor = low if low == high else " to ".join(sorted((low, high), key=float))
        if rescaled:
            lines.append(f"{name}: multiplied by {factor}, so that it starts as muP requires")
        else:
            told = f"{name} starts {factor} times as large as muP requires: it must {rule}"
            lines.append(f"{told} (layers.rescale=true multiplies it)")
    return lines


class UnknownRoleError(Exception):
    """Raised if the role of a parameter is unknown; `hint` explains how to set it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def width_of(entry: Entry, base: Tensor, grown: Tensor, role: str | None = None) -> Width:
    """Return how a parameter grows with the width.

    Args:
        entry: the parameter, in the model to be trained.
        base: the same parameter in the narrower model.
        grown: the same parameter in a model that is wider than the narrower one in every width.
        role: `input`, `hidden` or `output`, as set by the user; None: derived from the class that holds the parameter.

    Raises:
        UnknownRoleError: the class does not determine the role, or the three models differ in more than width.
    """
    shape, before, after = (tuple(tensor.shape) for tensor in (entry.parameter, base, grown))
    if not len(shape) == len(before) == len(after):
        raise UnknownRoleError(f"has {len(before)} dimensions in the narrower model and {len(shape)} here")
    ratios = [now / then for now, then in zip(shape, before, strict=True)]
    wide = [index for index in range(len(shape)) if after[index] != before[index]]
    if any(ratio != 1 and index not in wide for index, ratio in enumerate(ratios)):
        raise UnknownRoleError(
            f"is {shape_text(shape)} here and {shape_text(before)} in the narrower model, and not all of that is "
            f"width: the wider one has {shape_text(after)}"
        )
    if not wide:
        return Width(entry, base, "fixed")
    if role is not None:
        return _with_role(entry, base, role, ratios)
    found = {_from_module(place, before, ratios, wide) for place in entry.places}
    if len(found) > 1:
        raise UnknownRoleError(
            "is shared by layers of different roles, so no single LR is right at every width",
            f"untie it, or divide the output by the width and add layers.roles={{{entry.name}: input}}",
        )
    return Width(entry, base, *found.pop(), wide_rows=0 in wide)


def _from_module(
    place: Place, before: Sequence[int], ratios: Sequence[float], wide: Sequence[int]
) -> tuple[str, float, float]:
    """Return role, fan-in ratio and fan-out ratio, from the class that holds the parameter and its widths."""
    if len(before) >= 2 and isinstance(place.holder, _FORWARD + _BACKWARD) and "weight" in place.attribute:
        out, into = (1, 0) if isinstance(place.holder, _BACKWARD) else (0, 1)
        if max(wide) > 1:
            raise UnknownRoleError("may change only widths, but the size of the kernel differs")
        if into in wide and isinstance(place.holder, nn.Embedding | nn.EmbeddingBag):
            raise UnknownRoleError("may change only widths, but the number of embeddings differs")
        role = "hidden" if len(wide) == 2 else "input" if out in wide else "output"
        return role, ratios[into], ratios[out]
    if (len(wide) == 1 and math.prod(before) == before[wide[0]]) or is_norm(place.holder):
        return "vector", 1.0, math.prod(ratios)
    if len(wide) == 2 and ratios[wide[0]] == ratios[wide[1]]:  # fan-in and fan-out grow alike
        return "hidden", ratios[wide[0]], ratios[wide[0]]
    raise UnknownRoleError(
        f"{shape_text(before)} in the narrower model: {type(place.holder).__name__} leaves open which side is fan-in",
        f"set its role: layers.roles={{{place.name}: input}}, hidden or output",
    )


def _with_role(entry: Entry, base: Tensor, role: str, ratios: Sequence[float]) -> Width:
    if role == "hidden":
        if len(ratios) < 2:
            raise UnknownRoleError("has one dimension, so it cannot be hidden", "input is the role of vectors")
        return Width(entry, base, role, ratios[1], ratios[0])
    ratio = math.prod(ratios)
    return Width(entry, base, role, *((ratio, 1.0) if role == "output" else (1.0, ratio)))


def _rms(tensor: Tensor) -> float:
    return float(tensor.detach().float().square().mean().sqrt())
