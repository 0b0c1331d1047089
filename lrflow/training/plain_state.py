"""What a user's code keeps besides parameters and buffers: where it lies, and whether it has changed.

It lies in attributes of modules, and in what all modules of a class share: attributes of the class, and globals of the
Python module that defines it.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

_LIBRARIES = {"torch", "torchmetrics", "pytorch_lightning", "lightning", "lightning_fabric", "lrflow", "numpy"}
# What nn.Module keeps for itself; the mode of a module is kept beside, and its program is of trainer.compile.
_OWN = {*vars(nn.Module()), "_compiled_call_impl"}
_DEFINITIONS = (type, ModuleType, BuiltinFunctionType, GetSetDescriptorType, MemberDescriptorType, property)


def of_library(name: str) -> bool:
    """Whether a Python module is no user's own, by its dotted name: the standard library's, torch's, lrflow's, ..."""
    package = name.partition(".")[0]
    return package in _LIBRARIES or package in sys.stdlib_module_names


@dataclass(frozen=True, eq=False)
class Namespace:
    """A class or a Python module of a user's own, as a place where state is kept."""

    owner: type | ModuleType

    @property
    def name(self) -> str:
        """Its dotted name."""
        owner = self.owner
        return f"{owner.__module__}.{owner.__qualname__}" if isinstance(owner, type) else owner.__name__

    def held(self) -> dict[str, Any]:
        """What it holds now, by name; without the classes and modules in it."""
        return {name: value for name, value in vars(self.owner).items() if not _is_definition(name, value)}

    def put_back(self, before: dict[str, Any]) -> None:
        """Let it hold what it held, the same objects."""
        for name in self.held().keys() - before.keys():
            delattr(self.owner, name)
        for name, value in before.items():
            if vars(self.owner).get(name, _NOTHING) is not value:
                setattr(self.owner, name, value)


_NOTHING = object()


def _is_definition(name: str, value: Any) -> bool:
    if name.startswith("__") or name == "_abc_impl" or isinstance(value, _DEFINITIONS):
        return True
    return isinstance(value, FunctionType) and of_library(value.__module__ or "")


def namespaces(roots: Iterable[Any]) -> list[Namespace]:
    """Where user code keeps what its objects share.

    Args:
        roots: classes, functions and Python modules; those of libraries are left out.

    Returns:
        The classes with their bases, the Python modules that define all of these, and, of the same package, what
        those import from one another.
    """
    found: dict[int, Namespace] = {}
    left = list(roots)
    while left:
        one = left.pop()
        name = one.__name__ if isinstance(one, ModuleType) else getattr(one, "__module__", None)
        if id(one) in found or not isinstance(name, str) or of_library(name):
            continue
        if not isinstance(one, ModuleType):
            left.append(sys.modules.get(name))
        if isinstance(one, type):
            left += one.__mro__
        if isinstance(one, type | ModuleType):
            found[id(one)] = Namespace(one)
        if isinstance(one, ModuleType):
            left += [value for value in list(vars(one).values()) if _package(value) == _package(one) is not None]
    return list(found.values())


def _package(value: Any) -> str | None:
    """The package of a Python module, or of the one that defines a class or function."""
    if isinstance(value, type | FunctionType):
        value = sys.modules.get(value.__module__ or "")
    return value.__package__ if isinstance(value, ModuleType) else None


def names(network: nn.Module) -> dict[int, str]:
    """The names of what a checkpoint holds, and of the modules that hold it, by the ids of the objects."""
    parts = (network.named_modules(), network.named_parameters(), network.named_buffers())
    return {id(one): name for part in parts for name, one in part}


def attributes(network: nn.Module) -> dict[str, str]:
    """What a network holds besides parameters and buffers: a digest of each attribute, and its modules' modes.

    Raises:
        ValueError: one cannot be compared; the message is its name.
    """
    known = names(network)
    found = {}
    for path, module in network.named_modules():
        prefix = f"{path}." if path else ""
        found[f"{prefix}training"] = str(module.training)
        for name, value in vars(module).items():
            if name not in _OWN:
                found[prefix + name] = digest(value, known, prefix + name)
    return found


def shared(network: nn.Module) -> dict[str, str]:
    """What the classes of a network's modules keep for all of them: a digest of each attribute and global.

    Of what cannot be compared, such as a lock, it tells whether it is the same object.
    """
    found = {}
    for place in namespaces({type(module) for module in network.modules()}):
        for name, value in place.held().items():
            full = f"{place.name}.{name}"
            try:
                found[full] = digest(value, {}, full)
            except ValueError:
                found[full] = f"{type(value)} {id(value)}"
    return found


def digest(value: Any, known: dict[int, str], name: str) -> str:
    """Equal for equal values.

    Args:
        value: anything that can be pickled, and functions and generators.
        known: names of objects that are told apart by these alone, by their ids.
        name: of the value.

    Raises:
        ValueError: it cannot be compared; the message is the name.
    """
    if isinstance(value, int | float | str | None):
        return repr(value)
    written = io.BytesIO()
    try:
        _Pickler(written, known).dump(value)
    except Exception as error:
        raise ValueError(name) from error
    return hashlib.sha256(written.getvalue()).hexdigest()


class _Pickler(pickle.Pickler):
    """Writes values so that equal ones give equal bytes, also where torch would write an address."""

    def __init__(self, file: io.BytesIO, known: dict[int, str]) -> None:
        super().__init__(file, protocol=5)
        self._known = known

    def persistent_id(self, value: Any) -> Any:
        if id(value) in self._known:
            return "module", self._known[id(value)]
        if isinstance(value, torch.Generator):
            return "generator", self._bytes(value.get_state())
        if isinstance(value, Tensor):
            return "tensor", str(value.dtype), tuple(value.shape), value.requires_grad, self._bytes(value)
        if isinstance(value, staticmethod | classmethod):
            return "method", value.__func__
        if isinstance(value, FunctionType):
            cells = tuple(cell.cell_contents for cell in value.__closure__ or ())
            return "function", value.__module__, value.__qualname__, cells, value.__defaults__, vars(value)
        if isinstance(value, type | ModuleType | BuiltinFunctionType):
            return "object", repr(value)
        return None

    @staticmethod
    def _bytes(value: Tensor) -> bytes:
        return value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
