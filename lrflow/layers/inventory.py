"""What a model holds: each parameter once, with all its names, the modules that hold it, and what it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrize import ParametrizationList

from lrflow.layers.uses import Uses

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # _NormBase: batch and instance norms of torch
_NORM_NAME = re.compile(r"Norm([123]d)?$")
_BIAS_NAME = re.compile(r"bias|.+_bias|bias_.+")  # bias_ih_l0 of an LSTM, in_proj_bias of attention


@dataclass(frozen=True, eq=False)
class Place:
    """One of the places where a parameter stands.

    Args:
        name: the dotted name.
        holder: the module that uses it.
        attribute: its name in that module.
    """

    name: str
    holder: nn.Module
    attribute: str


@dataclass(frozen=True, eq=False)
class Entry:
    """One parameter of a model, however often it is shared.

    Args:
        parameter: the tensor.
        places: where it stands, in the order of the model; a tied parameter stands in several places.
    """

    parameter: nn.Parameter
    places: tuple[Place, ...]

    @property
    def name(self) -> str:
        """The name under which `named_parameters()` lists it."""
        return self.places[0].name

    @property
    def trainable(self) -> bool:
        """Whether the model lets it train."""
        return self.parameter.requires_grad

    @cached_property
    def kinds(self) -> frozenset[str]:
        """Which of the names `select` takes hold for it; see `Rule`."""
        kinds = set()
        for place in self.places:
            if _BIAS_NAME.fullmatch(place.attribute):
                kinds.add("bias")
            if is_norm(place.holder):
                kinds.add("norm")
            if isinstance(place.holder, nn.Embedding | nn.EmbeddingBag):
                kinds.add("embedding")
        if not kinds and self.parameter.ndim >= 2:
            kinds.add("matrix")
        return frozenset(kinds)


@dataclass(frozen=True, eq=False)
class Parameters:
    """What a model holds, taken once for all who ask.

    Args:
        model: any module.
        entries: each parameter once, in the order of `named_parameters()`.
        uses: in which order the model uses them; None: nobody has seen it run.
    """

    model: nn.Module
    entries: tuple[Entry, ...]
    uses: Uses | None = None

    @classmethod
    def of(cls, model: nn.Module | Parameters) -> Parameters:
        """Those of a model; what is none but them already is given back."""
        return model if isinstance(model, Parameters) else cls(model, tuple(inventory(model)))


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises: torch's norms, and any class named as one (`LlamaRMSNorm`, `LayerNorm2d`)."""
    return isinstance(module, _NORMS) or any(_NORM_NAME.search(cls.__name__) for cls in type(module).__mro__)


def inventory(model: nn.Module) -> list[Entry]:
    """Every parameter of a model once, in the order of `named_parameters()`."""
    places: dict[nn.Parameter, list[Place]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places.setdefault(parameter, []).append(_place(model, path, module, attribute))
    return [Entry(parameter, tuple(where)) for parameter, where in places.items()]


def _place(model: nn.Module, path: str, module: nn.Module, attribute: str) -> Place:
    name = f"{path}.{attribute}" if path else attribute
    if isinstance(module, ParametrizationList):  # of `layer.parametrizations.weight`: the layer is what holds it
        *layer, _, attribute = path.split(".")
        module = model.get_submodule(".".join(layer))
    return Place(name.replace("_orig_mod.", ""), module, attribute)  # torch.compile wraps under that name
