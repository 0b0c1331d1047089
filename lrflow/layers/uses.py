"""In which order a model uses its parameters, and which of them feed which: seen in one run of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
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
