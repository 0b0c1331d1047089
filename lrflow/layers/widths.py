"""How the parameters of a model grow with its width: which of their dimensions do, and what part each plays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lrflow.layers.inventory import Entry, Place, is_norm

ROLES = ("input", "vector", "hidden", "output", "fixed")
_FORWARD = (nn.Linear, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase, _ConvNd)  # weights of [out, in, ...]
_BACKWARD = (_ConvTransposeNd, nn.Embedding, nn.EmbeddingBag)  # weights of [in, out, ...]
_ENOUGH = 256  # numbers of a tensor whose size at the start is worth a remark


@dataclass(frozen=True, eq=False)
class Width:
    """How one parameter grows with the width of the model.

    Args:
        entry: the parameter.
        base: the same parameter of the narrower model.
        role: `input` (only what comes out is wide), `hidden` (both sides are), `output` (only what comes in is),
            `vector` (a bias, the gain of a norm, a token: wide in one dimension), or `fixed` (not wide).
        fan_in: numbers that come in, over those of the narrower model; 1 where they are no width.
        fan_out: numbers that go out, likewise.
    """

    entry: Entry
    base: Tensor
    role: str
    fan_in: float = 1.0
    fan_out: float = 1.0

    @property
    def remark(self) -> str | None:
        """What is to be said of its size at the start, if that does not follow the width as muP has it."""
        if self.role not in ("input", "hidden") or min(self.base.numel(), self.entry.parameter.numel()) < _ENOUGH:
            return None
        now, before = _size(self.entry.parameter), _size(self.base)
        if not now or not before:
            return None
        excess = now / before * math.sqrt(self.fan_in)
        if 0.8 < excess < 1.25:
            return None
        law = "it has to fall as 1/sqrt(fan in)" if self.role == "hidden" else "it has to be the same at every width"
        return f"{self.entry.name} starts {excess:.2g} times as large as muP wants: {law}"


class UnclearError(Exception):
    """The role of a parameter cannot be told; `hint` says how the user can tell it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def width_of(entry: Entry, base: Tensor, grown: Tensor, role: str | None = None) -> Width:
    """How a parameter grows.

    Args:
        entry: the parameter, in the model to be trained.
        base: the same in the narrower model.
        grown: the same in one that is wider than the narrower one in every width.
        role: `input`, `hidden` or `output` where the user says so; None: the class that holds the parameter tells.

    Raises:
        UnclearError: it does not, or the three differ in something else than width.
    """
    shape, before, after = (tuple(tensor.shape) for tensor in (entry.parameter, base, grown))
    if not len(shape) == len(before) == len(after):
        raise UnclearError(f"has {len(before)} dimensions in the narrower model and {len(shape)} here")
    ratios = [now / then for now, then in zip(shape, before, strict=True)]
    wide = [index for index in range(len(shape)) if after[index] != before[index]]
    if any(ratio != 1 and index not in wide for index, ratio in enumerate(ratios)):
        raise UnclearError(
            f"is {_shown(shape)} here and {_shown(before)} in the narrower model, and not all of that is width: "
            f"the wider one has {_shown(after)}"
        )
    if not wide:
        return Width(entry, base, "fixed")
    if role is not None:
        return _told(entry, base, role, ratios)
    found = {_found(place, before, ratios, wide) for place in entry.places}
    if len(found) > 1:
        raise UnclearError(
            "is shared by layers of different roles, and no one LR is right for both at every width",
            f"untie it, or divide the output by the width and add layers.roles={{{entry.name}: input}}",
        )
    return Width(entry, base, *found.pop())


def _found(
    place: Place, before: Sequence[int], ratios: Sequence[float], wide: Sequence[int]
) -> tuple[str, float, float]:
    """Role and ratios, from the class that holds the parameter and the dimensions that are wide."""
    if len(before) >= 2 and isinstance(place.holder, _FORWARD + _BACKWARD) and "weight" in place.attribute:
        out, into = (1, 0) if isinstance(place.holder, _BACKWARD) else (0, 1)
        if max(wide) > 1:
            raise UnclearError("may change nothing but widths, and the size of the kernel differs")
        if into in wide and isinstance(place.holder, nn.Embedding | nn.EmbeddingBag):
            raise UnclearError("may change nothing but widths, and the number of embeddings differs")
        role = "hidden" if len(wide) == 2 else "input" if out in wide else "output"
        return role, ratios[into], ratios[out]
    if (len(wide) == 1 and math.prod(before) == before[wide[0]]) or is_norm(place.holder):
        return "vector", 1.0, math.prod(ratios)
    if len(wide) == 2 and ratios[wide[0]] == ratios[wide[1]]:  # which of them comes in makes no difference
        return "hidden", ratios[wide[0]], ratios[wide[0]]
    raise UnclearError(
        f"{_shown(before)} in the narrower model: {type(place.holder).__name__} does not tell which side is fan-in",
        f"say what it is: layers.roles={{{place.name}: input}}, hidden or output",
    )


def _told(entry: Entry, base: Tensor, role: str, ratios: Sequence[float]) -> Width:
    if role == "hidden":
        if len(ratios) < 2:
            raise UnclearError("has one dimension, so it cannot be hidden", "input is the role of vectors")
        return Width(entry, base, role, ratios[1], ratios[0])
    ratio = math.prod(ratios)
    return Width(entry, base, role, *((ratio, 1.0) if role == "output" else (1.0, ratio)))


def _size(tensor: Tensor) -> float:
    return float(tensor.detach().float().square().mean().sqrt())


def _shown(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
