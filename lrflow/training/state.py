"""State besides parameters and buffers: random number generators, and Python state of a user's modules and classes.

Python state is kept in attributes of modules, attributes of their classes, and globals of the Python modules that
define these. `UnsavedStateCheck` warns of such state that changes during training but is in no checkpoint.
"""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Metric

log = logging.getLogger("lrflow")
_LIBRARIES = {"torch", "torchmetrics", "pytorch_lightning", "lightning", "lightning_fabric", "lrflow", "numpy"}
_WITH_CACHES = {"transformers", "peft", "timm"}  # thousands of globals, none of which a training depends on
_MODULE_ATTRIBUTES = {*vars(nn.Module()), "_compiled_call_impl"}
_DEFINITIONS = (type, ModuleType, BuiltinFunctionType, GetSetDescriptorType, MemberDescriptorType, property)
PLANNED = "planned"
"""The attribute of a module by which it reads the scalars of the plan."""

FRAMEWORK_ATTRIBUTES = {
    *vars(pl.LightningModule()), "_trainer", "_fabric", "_current_fx_name", "_compiled_call_impl", PLANNED
}  # fmt: skip
"""Attributes that torch, Lightning and lrflow set on every module."""
NOT_STATE = (pl.Trainer, pl.LightningDataModule, Callback, Logger, Optimizer, Dataset, DataLoader)
"""Classes of objects that a module may refer to but that are not part of its state."""
_WATCHED_BATCHES = 2
_NOTHING = object()


def random_state() -> dict[str, Any]:
    """Return the states of Python's, NumPy's, torch's and all CUDA devices' generators as plain data and tensors."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (str(kind), torch.from_numpy(np.array(keys, dtype=np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def random_states(trainer: pl.Trainer) -> list[dict[str, Any]]:
    """Return the random states of every rank, in order, on every rank."""
    states: list[Any] = [random_state()]
    if trainer.world_size > 1:
        states = [None] * trainer.world_size
        torch.distributed.all_gather_object(states, random_state())
    return states


def set_random_state(state: dict[str, Any]) -> None:
    """Restore every generator to a state from `random_state`."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])


def same_random_state(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether both states are equal for every generator."""
    (kind, keys, *rest), (other_kind, other_keys, *others) = one["numpy"], other["numpy"]
    return (
        one["python"] == other["python"]
        and (kind, rest) == (other_kind, others)
        and torch.equal(keys, other_keys)
        and torch.equal(one["torch"], other["torch"])
        and all(map(torch.equal, one.get("cuda", []), other.get("cuda", [])))
    )


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Restore every generator after the body."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)


class UnsavedStateCheck:
    """Warns, once per run, of Python state that changes during training and is in no checkpoint.

    It compares the state at the first save with the states before and after the first batch. Equal to the state before
    it means that it is cleared regularly, such as a list of an epoch's losses; equal to the state after it means that
    it is computed once, such as a lookup table. Everything else is listed in one line. LightningModules with an
    `on_save_checkpoint` and modules with a `get_extra_state` are assumed to save what they need.
    """

    def __init__(self) -> None:
        self._batches: int | None = None  # None: there is nothing to compare, or the comparison is done
        self._before: dict[str, str] = {}
        self._after: dict[str, str] = {}

    def begin(self, module: pl.LightningModule) -> None:
        """Record the state before the first batch."""
        if not is_overridden("on_save_checkpoint", module):
            self._batches, self._before = 0, _state(module)

    @property
    def is_watching(self) -> bool:
        """Whether `after_batch` still records something."""
        return self._batches is not None and self._batches < _WATCHED_BATCHES

    def after_batch(self, module: pl.LightningModule) -> None:
        """Record the state after the first batch."""
        if self._batches is None or self._batches >= _WATCHED_BATCHES:
            return
        self._batches += 1
        if self._batches == 1:
            self._after = _state(module)

    def at_save(self, module: pl.LightningModule) -> None:
        """Compare, if there was a second batch, and warn of state that changed."""
        if self._batches is None or self._batches < _WATCHED_BATCHES:
            return
        self._batches, now = None, _state(module)
        changed = sorted(name for name in now if now[name] not in (self._before.get(name), self._after.get(name)))
        if changed:
            listed = ", ".join([*changed[:5], *(["..."] if len(changed) > 5 else [])])
            verbs = ("changes", "is") if len(changed) == 1 else ("change", "are")
            log.warning(
                "%s %s during training but %s in no checkpoint, so a resumed run starts without it; "
                "if the training depends on it, make it a buffer, or save it in get_extra_state",
                listed,
                *verbs,
            )


def _state(module: pl.LightningModule) -> dict[str, str]:
    """Return digests of the Python state of a user's modules that is in no checkpoint, if it can be compared."""
    digests = dict(shared_state_digests(module))
    names, sets = _names_by_id(module), getattr(vars(module).get(PLANNED), "sets", lambda *_: False)
    for path, one in module.named_modules():
        for name, value in _plain(one):
            if sets(one, name):  # the plan has its value at each step
                continue
            full = f"{path}.{name}" if path else name
            try:
                digests[full.replace("_orig_mod.", "")] = digest(value, names, full)
            except ValueError:
                continue
    return digests


def _plain(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of attributes of a user's module that may be state."""
    kind = type(module)
    if isinstance(module, Metric) or kind.get_extra_state is not nn.Module.get_extra_state:
        return
    if is_library(kind.__module__) and not kind.__module__.startswith("lrflow."):
        return
    for name, value in vars(module).items():
        graph = isinstance(value, Tensor) and value.grad_fn is not None  # belongs to this step alone
        # A replacement for a method, as set by callbacks that wrap it, or a function of lrflow.
        method = callable(value) and (hasattr(kind, name) or is_library(getattr(value, "__module__", None) or ""))
        outside = name in FRAMEWORK_ATTRIBUTES or isinstance(value, (*NOT_STATE, nn.Module))
        if not outside and not graph and not method:
            yield name, value


def attribute_digests(network: nn.Module) -> dict[str, str]:
    """Return a digest of each attribute of a network's modules besides parameters and buffers, and their modes.

    Raises:
        ValueError: an attribute cannot be compared; the message is its name.
    """
    names = _names_by_id(network)
    digests = {}
    for path, module in network.named_modules():
        prefix = f"{path}." if path else ""
        digests[f"{prefix}training"] = str(module.training)
        for name, value in vars(module).items():
            if name not in _MODULE_ATTRIBUTES and name != PLANNED:
                digests[prefix + name] = digest(value, names, prefix + name)
    return digests


def shared_state_digests(network: nn.Module) -> dict[str, str]:
    """Return a digest of each class attribute and global that the modules of a network share.

    Values that cannot be compared, such as locks, are represented by their identity.
    """
    digests = {}
    for namespace in namespaces({type(module) for module in network.modules()}):
        for name, value in namespace.values().items():
            full = f"{namespace.name}.{name}"
            try:
                digests[full] = digest(value, {}, full)
            except ValueError:
                digests[full] = f"{type(value)} {id(value)}"
    return digests


def digest(value: Any, names: dict[int, str], name: str) -> str:
    """Return a digest that is equal for equal values.

    Args:
        value: anything that can be pickled, and functions and generators.
        names: names of objects, by their ids, that represent these objects in the digest.
        name: name of the value.

    Raises:
        ValueError: the value cannot be compared; the message is the name.
    """
    if isinstance(value, int | float | str | None):
        return repr(value)
    written = io.BytesIO()
    try:
        _Pickler(written, names).dump(value)
    except Exception as error:
        raise ValueError(name) from error
    return hashlib.sha256(written.getvalue()).hexdigest()


class _Pickler(pickle.Pickler):
    """Pickles equal values to equal bytes, also those for which torch would pickle an address."""

    def __init__(self, file: io.BytesIO, names: dict[int, str]) -> None:
        super().__init__(file, protocol=5)
        self._names = names

    def persistent_id(self, value: Any) -> Any:
        if id(value) in self._names:
            return "module", self._names[id(value)]
        if isinstance(value, set | frozenset):  # equal ones may have different orders
            return "set", type(value).__name__, sorted(digest(one, self._names, "") for one in value)
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


def _names_by_id(network: nn.Module) -> dict[int, str]:
    """Return the names of modules, parameters and buffers by the ids of the objects."""
    parts = (network.named_modules(), network.named_parameters(), network.named_buffers())
    return {id(one): name for part in parts for name, one in part}


@dataclass(frozen=True, eq=False)
class Namespace:
    """A user's class or Python module, as a holder of state."""

    owner: type | ModuleType

    @property
    def name(self) -> str:
        """The dotted name."""
        owner = self.owner
        return f"{owner.__module__}.{owner.__qualname__}" if isinstance(owner, type) else owner.__name__

    def values(self) -> dict[str, Any]:
        """Return what it holds now, by name, without classes, modules and other definitions."""
        return {name: value for name, value in vars(self.owner).items() if not _is_definition(name, value)}

    def restore(self, before: dict[str, Any]) -> None:
        """Restore the objects that `values` returned."""
        for name in self.values().keys() - before.keys():
            delattr(self.owner, name)
        for name, value in before.items():
            if vars(self.owner).get(name, _NOTHING) is not value:
                setattr(self.owner, name, value)


def namespaces(roots: Iterable[Any]) -> list[Namespace]:
    """Return the user classes and Python modules that may hold state shared by these objects.

    Args:
        roots: classes, functions and Python modules; those of libraries are ignored.

    Returns:
        The classes with their bases, the Python modules that define them, and the modules, classes and functions that
        those import from their own package.
    """
    found: dict[int, Namespace] = {}
    pending = list(roots)
    while pending:
        one = pending.pop()
        name = one.__name__ if isinstance(one, ModuleType) else getattr(one, "__module__", None)
        if id(one) in found or not isinstance(name, str) or is_library(name) or name.partition(".")[0] in _WITH_CACHES:
            continue
        if not isinstance(one, ModuleType):
            pending.append(sys.modules.get(name))
        if isinstance(one, type):
            pending += one.__mro__
        if isinstance(one, type | ModuleType):
            found[id(one)] = Namespace(one)
        if isinstance(one, ModuleType):
            pending += [value for value in list(vars(one).values()) if _package(value) == _package(one) is not None]
    return list(found.values())


def _package(value: Any) -> str | None:
    """Return the package of a Python module, or of the module that defines a class or function."""
    if isinstance(value, type | FunctionType):
        value = sys.modules.get(value.__module__ or "")
    return value.__package__ if isinstance(value, ModuleType) else None


def _is_definition(name: str, value: Any) -> bool:
    if name.startswith("__") or name == "_abc_impl" or isinstance(value, _DEFINITIONS):
        return True
    return isinstance(value, FunctionType) and is_library(value.__module__ or "")


def is_library(name: str) -> bool:
    """Whether a Python module, by its dotted name, belongs to the standard library, torch, lrflow or the like."""
    package = name.partition(".")[0]
    return package in _LIBRARIES or package in sys.stdlib_module_names
