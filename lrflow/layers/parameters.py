"""What a model holds: each parameter once, with all its names, the modules that hold it, and what it is.

In which order a model uses its parameters, and which of them feed which: seen in one run of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_NO_DEPENDENCE = ("new_", "empty", "zeros", "ones", "full", "rand")  # takes no more than shape and type of its input


class Uses:
    """What was seen of the parameters of a model.

    Args:
        first: when each was first used, by a count; those that were not used are missing.
        feeds: the parameters that what it was first applied to had been computed with, each a bit.
        bits: the bit of each parameter.
    """

    def __init__(
        self, first: Mapping[nn.Parameter, int], feeds: Mapping[nn.Parameter, int], bits: Mapping[nn.Parameter, int]
    ) -> None:
        self._first, self._feeds, self._bits = first, feeds, bits

    @property
    def are_connected(self) -> bool:
        """Whether any parameter feeds another, or there is no more than one."""
        return len(self._first) == 1 or any(self._feeds.values())

    def first(self, parameters: Iterable[nn.Parameter]) -> int | None:
        """When the first of these was first used; None: none of them was."""
        return min((self._first[parameter] for parameter in parameters if parameter in self._first), default=None)

    def feed(self, some: Iterable[nn.Parameter], others: Iterable[nn.Parameter]) -> bool:
        """Whether what was computed with some of these goes into the others."""
        given = sum({self._bits[parameter] for parameter in some if parameter in self._bits})
        return any(self._feeds.get(parameter, 0) & given for parameter in others)


class UsesTrace(TorchDispatchMode):
    """Follows every operation of torch that is computed within it, on any device.

    A tensor that is computed of parameters alone (a weight that is cast, normalised or transposed) counts as these
    parameters; a parameter is used where it, or such a tensor, meets data. Data is whatever comes from anywhere else.

    Args:
        model: whose parameters are followed.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._parameters = list(model.parameters())
        # Of each storage the parameters that its content was computed with, each a bit, and whether it is data. Views
        # share a storage. The storages are held, so that their addresses stay theirs.
        self._known: dict[int, tuple[int, bool]] = {}
        self._held: list[Any] = []
        self._fixed: set[int] = set()
        for buffer in model.buffers():
            self._note(buffer, 0, False)
        for index, parameter in enumerate(self._parameters):
            self._note(parameter, 1 << index, False)
            self._fixed.add(_key(parameter))
        self._first: dict[int, int] = {}
        self._feeds: dict[int, int] = {}

    @property
    def uses(self) -> Uses:
        """What was seen."""
        parameters = self._parameters
        return Uses(
            {parameters[bit.bit_length() - 1]: count for bit, count in self._first.items()},
            {parameters[bit.bit_length() - 1]: fed for bit, fed in self._feeds.items()},
            {parameter: 1 << index for index, parameter in enumerate(parameters)},
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute an operation, and note what it was computed with."""
        result = func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        name = func.__name__.partition(".")[0]
        if not inputs or name.startswith(_NO_DEPENDENCE) or name.endswith("_like"):
            return result
        weights = data = 0
        is_data = False
        for tensor in inputs:
            bits, of_data = self._known.get(_key(tensor), (0, True))
            if of_data:
                data, is_data = data | bits, True
            else:
                weights |= bits
        if is_data:
            self._use(weights, data)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _key(leaf) not in self._fixed:
                self._note(leaf, weights | data, is_data)
        return result

    def _use(self, weights: int, data: int) -> None:
        new = weights
        for bit in self._first:
            new &= ~bit
        while new:
            bit = new & -new
            new ^= bit
            self._first[bit] = len(self._first)
            self._feeds[bit] = data & ~weights

    def _note(self, tensor: Tensor, bits: int, is_data: bool) -> None:
        key = _key(tensor)
        if key not in self._known:
            self._held.append(_storage(tensor))
        self._known[key] = bits, is_data


def _storage(tensor: Tensor) -> Any:
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # sparse and other kinds of tensors have none
        return tensor


def _key(tensor: Tensor) -> int:
    storage = _storage(tensor)
    return id(storage) if isinstance(storage, Tensor) else int(storage._cdata)


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
