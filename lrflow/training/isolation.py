"""What looks at a run leaves nothing behind: all that a module holds is put back as it was.

Training batches for steps beside the training, which does not notice.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from types import CellType, FunctionType, MemberDescriptorType, SimpleNamespace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Metric

from lrflow.data import ordered
from lrflow.training.loops import AfterModuleHooks
from lrflow.training.state import Namespace, is_library, random_state, set_random_state

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_OUTSIDE = (pl.LightningDataModule, Callback, Logger, Optimizer, Dataset, DataLoader)
"""What a module may refer to without its being a part of it."""


class Snapshot:
    """The state of modules and of all that they hold, to be put back.

    It covers parameters, buffers and plain tensors (which object it is, its values, `requires_grad` and `grad`), every
    other attribute (of which counters are a kind), attributes that are added or deleted, dicts, lists, sets, deques,
    NumPy arrays, random number generators and objects of a user's own, however they are nested. Each container,
    tensor and object is changed back in place, so that whoever refers to it sees it as it was.

    What another library keeps in an object of its own, and what a module only refers to, such as its trainer or a data
    set, is no part of it. What all modules of a class share, its attributes and the globals beside it, is where the
    `namespaces` of the class are given too; then with what functions there keep in closures, defaults and attributes.

    Args:
        values: modules with their submodules, namespaces, or any other values.
        leave: tensors and objects that are left as they are then.
    """

    def __init__(self, values: Iterable[Any], leave: Iterable[Any] = ()) -> None:
        self._undo: list[Callable[[], None]] = []
        self._seen = {id(one): one for one in leave}  # which also keeps the objects alive, and their numbers theirs
        left = list(values)
        while left:
            value = left.pop()
            if not isinstance(value, _PLAIN) and id(value) not in self._seen:
                self._seen[id(value)] = value
                left += self._note(value)

    def restore(self) -> None:
        """Put everything back."""
        with torch.inference_mode(False), torch.no_grad():
            for undo in self._undo:
                undo()

    def _note(self, value: Any) -> Iterable[Any]:
        """Remember one value; gives what it holds."""
        if isinstance(value, Tensor):
            return self._note_tensor(value)
        if isinstance(value, nn.Module):
            return value.children() if _is_wrapper(value) else [vars(value)]
        if isinstance(value, Namespace):
            return self._note_namespace(value)
        if isinstance(value, MutableMapping) and (items := _items(value)) is not None:
            self._undo.append(lambda: _put_back(value, items))
            return [*items.values(), *_attributes(value)]
        if isinstance(value, list | deque | set | bytearray):
            return self._note_elements(value)
        if isinstance(value, tuple | frozenset):
            return value
        if isinstance(value, np.ndarray):
            array = value.copy()
            if value.flags.writeable:
                self._undo.append(lambda: np.copyto(value, array))
            return array.flat if array.dtype == object else []
        if (generator := _generator(value)) is not None:
            get, put = generator
            state = get()
            self._undo.append(lambda: put(state))
            return []
        return [*self._note_slots(value), *_attributes(value)]

    def _note_namespace(self, place: Namespace) -> Iterable[Any]:
        held = place.held()
        self._undo.append(lambda: place.put_back(held))
        functions = [getattr(value, "__func__", value) for value in held.values()]
        for function in functions:
            if isinstance(function, FunctionType):
                yield from self._note_function(function)
        yield from held.values()

    def _note_function(self, function: FunctionType) -> Iterable[Any]:
        cells = [cell for cell in function.__closure__ or () if cell != CellType()]
        contents, defaults, named = (
            [cell.cell_contents for cell in cells],
            function.__defaults__,
            function.__kwdefaults__,
        )

        def undo() -> None:
            for cell, content in zip(cells, contents, strict=True):
                cell.cell_contents = content
            function.__defaults__, function.__kwdefaults__ = defaults, named

        self._undo.append(undo)
        return [*contents, defaults, named, vars(function)]

    def _note_slots(self, value: Any) -> Iterable[Any]:
        """What an object of a user's own keeps in `__slots__`, and not in a dict."""
        slots = {} if _is_foreign(value) else _slots(value)
        before = {name: slot.__get__(value) for name, slot in slots.items() if hasattr(value, name)}

        def undo() -> None:
            for name, slot in slots.items():
                if name in before:
                    slot.__set__(value, before[name])
                elif hasattr(value, name):
                    slot.__delete__(value)

        if slots:
            self._undo.append(undo)
        return before.values()

    def _note_elements(self, value: Any) -> Iterable[Any]:
        before = value.copy()

        def undo() -> None:
            if isinstance(value, list | bytearray):
                value[:] = before
            else:
                value.clear()
                value.update(before) if isinstance(value, set) else value.extend(before)

        self._undo.append(undo)
        return [] if isinstance(before, bytearray) else before

    def _note_tensor(self, tensor: Tensor) -> Iterable[Any]:
        if is_lazy(tensor):
            return []
        with torch.inference_mode(False), torch.no_grad():
            values = tensor.detach().clone()
        trains, grad = tensor.requires_grad, tensor.grad if tensor.is_leaf else None

        def undo() -> None:
            if tensor.is_inference():
                with torch.inference_mode():
                    tensor.copy_(values)
                return
            if tensor.is_leaf:
                tensor.requires_grad_(trains)
                tensor.grad = grad
            if tensor.shape == values.shape:
                # Not by `copy_` alone: a graph that still needs the tensor finds the values that it saved.
                tensor.data.copy_(values)
            else:
                tensor.data = values

        self._undo.append(undo)
        return [] if grad is None else [grad]


@contextmanager
def isolated(module: pl.LightningModule, changing: Iterable[Tensor] = ()) -> Iterator[None]:
    """Whatever runs within leaves no trace in the module or in the global random number generators.

    What the module logs within is not logged.

    Args:
        module: whose steps are made, or that is changed.
        changing: tensors that are meant to change.
    """
    generators, before = random_state(), Snapshot([module], changing)
    vars(module).update({name: lambda *_, **__: None for name in ("log", "log_dict")})
    try:
        yield
    finally:
        before.restore()
        set_random_state(generators)


class UndisturbedByValidation(AfterModuleHooks, Callback):
    """Validating more or less often does not change the training. It has to stand before all other callbacks.

    After each validation of a fit, all hooks of the callbacks and of the module included, these are as before it: the
    global random number generators; every attribute of the module's submodules; and of the module's own attributes
    those that its `forward` set, or whose tensors its `forward` changed. What the module's validation hooks and steps
    keep on the module itself stays, and so do the metrics of torchmetrics: they are the result of the validation.
    Parameters are left alone.
    """

    def __init__(self) -> None:
        self._random: dict[str, Any] | None = None
        self._inner: Snapshot | None = None
        self._own: dict[str, tuple[Any, Snapshot]] = {}
        self._changed: set[str] = set()
        self._hooks: list[Any] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember everything."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._random = random_state()
        metrics = {inner for one in pl_module.modules() if _is_metric(one) for inner in one.modules()}
        inner = [one for one in pl_module.modules() if one is not pl_module and one not in metrics]
        outside = [vars(pl_module), *pl_module.modules(), *pl_module.parameters()]
        self._inner = Snapshot([vars(one) for one in inner if not _is_wrapper(one)], outside)
        self._own = {
            name: (value, Snapshot([value] if isinstance(value, Tensor) else []))
            for name, value in _own(pl_module).items()
        }
        self._changed = set()
        seen: list[dict[str, Any]] = []

        def enter(module: nn.Module, inputs: Any) -> None:
            # Lightning may run a whole validation step through `forward`, which it replaces for that.
            own = getattr(module.forward, "__func__", None) is type(module).forward
            seen.append(_versions(module) if own else {})

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            before, after = seen.pop() if seen else {}, _versions(module)
            if before:
                names = before.keys() | after.keys()
                self._changed |= {name for name in names if before.get(name) != after.get(name)}

        self._hooks = [pl_module.register_forward_pre_hook(enter), pl_module.register_forward_hook(leave)]

    def after_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put it back."""
        if self._inner is None or self._random is None:
            return
        for hook in self._hooks:
            hook.remove()
        for name in self._changed:
            places = pl_module._buffers if name in pl_module._buffers else vars(pl_module)
            if name in self._own:
                places[name], before = self._own[name]
                before.restore()
            else:
                places.pop(name, None)
        self._inner.restore()
        set_random_state(self._random)
        self._random, self._inner, self._own, self._hooks = None, None, {}, []


def _own(module: nn.Module) -> dict[str, Any]:
    """The buffers and other attributes of a module itself, without what torch keeps there."""
    return {**{name: value for name, value in vars(module).items() if name not in _TORCHS}, **module._buffers}


_TORCHS = vars(nn.Module()).keys() | {"_trainer", "_fabric", "_current_fx_name"}


def _versions(module: nn.Module) -> dict[str, Any]:
    """By the name of each attribute, what differs once it has been set anew, or once its tensor has been changed."""
    found = {}
    for name, value in _own(module).items():
        plain = isinstance(value, _PLAIN)
        tracked = isinstance(value, Tensor) and not value.is_inference()
        found[name] = value if plain else (id(value), value._version if tracked else None)
    return found


def _is_wrapper(module: nn.Module) -> bool:
    """Whether a module is only torch's way to run another, with bookkeeping that must not be turned back."""
    return type(module).__module__.startswith(("torch.distributed", "torch._dynamo"))


def _is_metric(module: nn.Module) -> bool:
    return isinstance(module, Metric) or type(module).__module__.startswith("torchmetrics")


def _put_back(mapping: MutableMapping[Any, Any], items: dict[Any, Any]) -> None:
    """Only where something differs: whoever guards a module's attributes would look at all of them again."""
    same = len(mapping) == len(items) and all(
        (key is other or key == other) and value is kept
        for (key, value), (other, kept) in zip(mapping.items(), items.items(), strict=True)
    )
    if not same:
        mapping.clear()
        mapping.update(items)


def _items(mapping: MutableMapping[Any, Any]) -> dict[Any, Any] | None:
    """What a mapping holds; None for one that computes its values, and cannot: its attributes hold what it has."""
    try:
        return dict(mapping)
    except Exception:
        return None


def _attributes(value: Any) -> list[Any]:
    """The attributes of an object of a user's own, as the dict that holds them."""
    return [vars(value)] if hasattr(value, "__dict__") and not _is_foreign(value) else []


def _slots(value: Any) -> dict[str, MemberDescriptorType]:
    """The places of what an object keeps in `__slots__`, by their names."""
    places = [vars(base).items() for base in type(value).__mro__ if "__slots__" in vars(base)]
    return {name: place for own in places for name, place in own if isinstance(place, MemberDescriptorType)}


def _is_foreign(value: Any) -> bool:
    """Whether an object is a library's, or no part of what refers to it."""
    kind = type(value)
    return (is_library(kind.__module__) and kind is not SimpleNamespace) or isinstance(value, (*_OUTSIDE, type))


def _generator(value: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]] | None:
    """How the state of a random number generator is had, and put back; None: it is none."""
    if isinstance(value, np.random.Generator):
        value = value.bit_generator
    if isinstance(value, np.random.BitGenerator):
        return lambda: value.state, lambda state: setattr(value, "state", state)
    if isinstance(value, torch.Generator | np.random.RandomState):
        return value.get_state, value.set_state
    if isinstance(value, random.Random):
        return value.getstate, value.setstate
    return None


def isolated_batches(trainer: pl.Trainer, seed: int) -> Iterator[Any]:
    """Training batches, from loaders beside those that the training goes through.

    Of a loader that brings an order of its own, they are the first that it gives when it is asked anew.

    Args:
        trainer: of the fit; its training loaders give the data.
        seed: of the order.
    """
    combined = trainer.fit_loop._combined_loader
    assert combined is not None

    def beside(loader: DataLoader[Any]) -> DataLoader[Any]:
        result = copy.copy(ordered(loader, seed))
        vars(result).update(persistent_workers=False, _iterator=None)
        return result

    loaders = CombinedLoader(tree_map_only(DataLoader, beside, combined.iterables), combined._mode)
    return (batch for batch, _, _ in iter(loaders))


def transfer_batch(trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> Any:
    """A batch as the training step is given it: of the trainer's precision, on its device."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, within `isolated`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
