"""The parameters of a model: their names, modules and kinds, and the order in which a forward pass uses them."""

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

_NO_DEPENDENCE = ("new_", "empty", "zeros", "ones", "full", "rand")  # operations that ignore the values of their inputs


_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # _NormBase: torch's batch and instance norms
_NORM_NAME = re.compile(r"Norm([123]d)?$")
_BIAS_NAME = re.compile(r"bias|.+_bias|bias_.+")  # bias_ih_l0 of an LSTM, in_proj_bias of attention


@dataclass(frozen=True, eq=False)
class Place:
    """One of the places of a parameter in a model.

    Args:
        name: the dotted name.
        holder: the module that holds it.
        attribute: its name in that module.
    """

    name: str
    holder: nn.Module
    attribute: str


@dataclass(frozen=True, eq=False)
class Entry:
    """A parameter of a model, with all its places if it is shared.

    Args:
        parameter: the tensor.
        places: its places, in the order of the model; a tied parameter has several.
    """

    parameter: nn.Parameter
    places: tuple[Place, ...]

    @property
    def name(self) -> str:
        """Its name in `named_parameters()`."""
        return self.places[0].name

    @property
    def trainable(self) -> bool:
        """Whether it requires a gradient."""
        return self.parameter.requires_grad

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The kinds that it belongs to, as `Rule.select` names them."""
        kinds = set()
        for place in self.places:
            if _BIAS_NAME.fullmatch(place.attribute):
                kinds.add("bias")
            if is_norm(place.holder):
                kinds.add("norm")
            if isinstance(place.holder, nn.Embedding | nn.EmbeddingBag):
                kinds.add("embedding")
        if self.parameter.ndim < 2:
            kinds.add("vector")
        elif not kinds:
            kinds.add("matrix")
        return frozenset(kinds)


@dataclass(frozen=True, eq=False)
class Parameters:
    """The parameters of a model, collected once and passed to every reader.

    Args:
        model: any module.
        entries: each parameter once, in the order of `named_parameters()`.
        uses: the order in which the model uses them; None: no forward pass was traced.
    """

    model: nn.Module
    entries: tuple[Entry, ...]
    uses: Uses | None = None

    @classmethod
    def of(cls, model: nn.Module | Parameters) -> Parameters:
        """Return the parameters of a model; `Parameters` are returned unchanged."""
        return model if isinstance(model, Parameters) else cls(model, tuple(inventory(model)))


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation: torch's norms, and classes named as one (`LlamaRMSNorm`, `LayerNorm2d`)."""
    return isinstance(module, _NORMS) or any(_NORM_NAME.search(cls.__name__) for cls in type(module).__mro__)


def inventory(model: nn.Module) -> list[Entry]:
    """Return every parameter of a model once, in the order of `named_parameters()`."""
    places: dict[nn.Parameter, list[Place]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places.setdefault(parameter, []).append(_place(model, path, module, attribute))
    return [Entry(parameter, tuple(where)) for parameter, where in places.items()]


def _place(model: nn.Module, path: str, module: nn.Module, attribute: str) -> Place:
    name = f"{path}.{attribute}" if path else attribute
    if isinstance(module, ParametrizationList):  # `layer.parametrizations.weight` belongs to the layer
        *layer, _, attribute = path.split(".")
        module = model.get_submodule(".".join(layer))
    return Place(name.replace("_orig_mod.", ""), module, attribute)  # torch.compile adds this prefix


class Uses:
    """The order in which a model used its parameters, and which of them feed which.

    Sets of parameters are bit masks.

    Args:
        first: the position of each parameter in the order of first use; parameters that were not used are missing.
        feeds: for each parameter, the parameters that its first input had been computed with.
        bits: the bit of each parameter.
    """

    def __init__(
        self, first: Mapping[nn.Parameter, int], feeds: Mapping[nn.Parameter, int], bits: Mapping[nn.Parameter, int]
    ) -> None:
        self._first, self._feeds, self._bits = first, feeds, bits

    @property
    def are_connected(self) -> bool:
        """Whether any parameter feeds another, or only one was used."""
        return len(self._first) == 1 or any(self._feeds.values())

    def first(self, parameters: Iterable[nn.Parameter]) -> int | None:
        """Return the position of the first use of any of these; None if none of them was used."""
        return min((self._first[parameter] for parameter in parameters if parameter in self._first), default=None)

    def feed(self, some: Iterable[nn.Parameter], others: Iterable[nn.Parameter]) -> bool:
        """Whether results computed with some of these parameters are inputs of the others."""
        given = sum({self._bits[parameter] for parameter in some if parameter in self._bits})
        return any(self._feeds.get(parameter, 0) & given for parameter in others)


class UseTracer(TorchDispatchMode):
    """Traces every torch operation inside its context, on any device, for the parameters that it uses.

    A tensor computed from parameters alone (a weight that is cast, normalised or transposed) stands for these
    parameters. A parameter is used where it, or such a tensor, meets data. Every other tensor is data.

    Args:
        model: the model whose parameters are traced.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._parameters = list(model.parameters())
        # For each storage: the bit mask of the parameters that its content was computed with, and whether it is
        # data. Views share a storage. The storages are kept alive, so that no other tensor gets their address.
        self._known: dict[int, tuple[int, bool]] = {}
        self._held: list[Any] = []
        self._fixed: set[int] = set()
        for buffer in model.buffers():
            self._record(buffer, 0, False)
        for index, parameter in enumerate(self._parameters):
            self._record(parameter, 1 << index, False)
            self._fixed.add(_key(parameter))
        self._first: dict[int, int] = {}
        self._feeds: dict[int, int] = {}

    @property
    def uses(self) -> Uses:
        """The recorded uses."""
        parameters = self._parameters
        return Uses(
            {parameters[bit.bit_length() - 1]: count for bit, count in self._first.items()},
            {parameters[bit.bit_length() - 1]: fed for bit, fed in self._feeds.items()},
            {parameter: 1 << index for index, parameter in enumerate(parameters)},
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute an operation and record the parameters that it used."""
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
                self._record(leaf, weights | data, is_data)
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

    def _record(self, tensor: Tensor, bits: int, is_data: bool) -> None:
        key = _key(tensor)
        if key not in self._known:
            self._held.append(_storage(tensor))
        self._known[key] = bits, is_data


def _storage(tensor: Tensor) -> Any:
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # sparse and some other tensors have no storage
        return tensor


def _key(tensor: Tensor) -> int:
    storage = _storage(tensor)
    return id(storage) if isinstance(storage, Tensor) else int(storage._cdata)
