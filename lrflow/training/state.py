"""What a user's code keeps besides parameters and buffers: where it lies, and whether it has changed.

It lies in attributes of modules, and in what all modules of a class share: attributes of the class, and globals of the
Python module that defines it.

The state of every global random number generator, as plain data.

Names plain state that changes as a model trains and is in no checkpoint, so that a resumed run loses it.
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

_LIBRARIES = {"torch", "torchmetrics", "pytorch_lightning", "lightning", "lightning_fabric", "lrflow", "numpy"}
# What nn.Module keeps for itself; the mode of a module is kept beside, and its program is of trainer.compile.
_OWN = {*vars(nn.Module()), "_compiled_call_impl"}
_DEFINITIONS = (type, ModuleType, BuiltinFunctionType, GetSetDescriptorType, MemberDescriptorType, property)


def is_library(name: str) -> bool:
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
    return isinstance(value, FunctionType) and is_library(value.__module__ or "")


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
        if id(one) in found or not isinstance(name, str) or is_library(name):
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


def attribute_digests(network: nn.Module) -> dict[str, str]:
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


def shared_state_digests(network: nn.Module) -> dict[str, str]:
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


def random_state() -> dict[str, Any]:
    """Python's, NumPy's, torch's and every CUDA device's generator, loadable with `weights_only=True`."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (str(kind), torch.from_numpy(np.array(keys, dtype=np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put every generator back to a state that `random_state` gave."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])


def same_random_state(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether every generator is at the same place in both states."""
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
    """Leave every generator as it was before."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)


log = logging.getLogger("lrflow")

_BOOKKEEPING = {*vars(pl.LightningModule()), "_trainer", "_fabric", "_current_fx_name", "_compiled_call_impl"}
_OUTSIDE = (pl.Trainer, pl.LightningDataModule, Callback, Logger, Optimizer, Dataset, DataLoader, nn.Module)
_WATCHED_BATCHES = 2


class UnsavedStateCheck:
    """Compares the state at the first save with that before and after the first batch, once per run.

    What is as it was before the first batch was emptied since, such as a list of an epoch's losses. What is as it was
    after it was made by it, such as a table that is computed when it is needed first. Whatever else differs is named
    in one line. A LightningModule with an `on_save_checkpoint` of its own, and modules with a `get_extra_state`, are
    taken to save what they need.
    """

    def __init__(self) -> None:
        self._batches: int | None = None  # None: there is nothing to compare with, or it was compared already
        self._before: dict[str, str] = {}
        self._after: dict[str, str] = {}

    def begin(self, module: pl.LightningModule) -> None:
        """Note the state before the first batch."""
        if not is_overridden("on_save_checkpoint", module):
            self._batches, self._before = 0, _state(module)

    def after_batch(self, module: pl.LightningModule) -> None:
        """Note the state after the first batch."""
        if self._batches is None or self._batches >= _WATCHED_BATCHES:
            return
        self._batches += 1
        if self._batches == 1:
            self._after = _state(module)

    def at_save(self, module: pl.LightningModule) -> None:
        """Compare, where there was a second batch, and warn of what has changed."""
        if self._batches is None or self._batches < _WATCHED_BATCHES:
            return
        self._batches, now = None, _state(module)
        changed = sorted(name for name in now if now[name] not in (self._before.get(name), self._after.get(name)))
        if changed:
            shown = ", ".join([*changed[:5], *(["..."] if len(changed) > 5 else [])])
            verbs = ("changes", "is") if len(changed) == 1 else ("change", "are")
            log.warning(
                "%s %s as the model trains and %s in no checkpoint: a resumed run starts anew with it; "
                "if the training depends on it, make it a buffer, or save it by get_extra_state",
                shown,
                *verbs,
            )


def _state(module: pl.LightningModule) -> dict[str, str]:
    """Digests of what a user's modules hold and no checkpoint does; without what cannot be compared."""
    found = dict(shared_state_digests(module))
    known = names(module)
    for path, one in module.named_modules():
        for name, value in _plain(one):
            full = f"{path}.{name}" if path else name
            try:
                found[full.replace("_orig_mod.", "")] = digest(value, known, full)
            except ValueError:
                continue
    return found


def _plain(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The attributes of a module of a user's own that may be state, by name."""
    kind = type(module)
    if isinstance(module, Metric) or kind.get_extra_state is not nn.Module.get_extra_state:
        return
    if is_library(kind.__module__) and not kind.__module__.startswith("lrflow."):
        return
    for name, value in vars(module).items():
        graph = isinstance(value, Tensor) and value.grad_fn is not None  # of this step alone
        # What takes the place of a method, as callbacks that wrap it put there; and functions of lrflow's.
        method = callable(value) and (hasattr(kind, name) or is_library(getattr(value, "__module__", None) or ""))
        if name not in _BOOKKEEPING and not graph and not method and not isinstance(value, _OUTSIDE):
            yield name, value
