"""Run steps, batches and validations without side effects on the training: snapshots of module state, restored."""

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
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader
from torchmetrics import Metric

from lrflow.data import ordered
from lrflow.training.state import FRAMEWORK_ATTRIBUTES, NOT_STATE, Namespace, is_library, random_state, set_random_state
from lrflow.training.validation_loop import AfterModuleHooks

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


@contextmanager
def isolated(module: pl.LightningModule, changing: Iterable[Tensor] = ()) -> Iterator[None]:
    """Restore the module and the global random number generators after the body; drop what the module logs in it.

    Args:
        module: the module that the body runs or changes.
        changing: tensors that keep their changes.
    """
    generators, before = random_state(), Snapshot([module], changing)
    vars(module).update({name: lambda *_, **__: None for name in ("log", "log_dict")})
    try:
        yield
    finally:
        before.restore()
        set_random_state(generators)


def isolated_batches(trainer: pl.Trainer, seed: int) -> Iterator[Any]:
    """Return an iterator over training batches that leaves the training's own iterator alone.

    A loader with an order of its own is iterated from its start.

    Args:
        trainer: the trainer of the fit; its training loaders provide the data.
        seed: seed of the order.
    """
    combined = trainer.fit_loop._combined_loader
    assert combined is not None

    def copied(loader: DataLoader[Any]) -> DataLoader[Any]:
        result = copy.copy(ordered(loader, seed))
        vars(result).update(persistent_workers=False, _iterator=None)
        return result

    loaders = CombinedLoader(tree_map_only(DataLoader, copied, combined.iterables), combined._mode)
    return (batch for batch, _, _ in iter(loaders))


def transfer_batch(trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> Any:
    """Return a batch as the training step receives it: in the trainer's precision, on its device."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators; call it within `isolated`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class Snapshot:
    """The state of modules and of everything they hold, which `restore` restores.

    It covers parameters, buffers and plain tensors (identity, values, `requires_grad` and `grad`), all other attributes
    including added and deleted ones, dicts, lists, sets, deques, NumPy arrays, random number generators and objects of
    user classes, however they are nested. Containers, tensors and objects are restored in place, so every reference to
    them sees the restored state.

    It does not cover the internal state of library objects, and objects that a module only refers to, such as its
    trainer or a dataset. State shared by all modules of a class (attributes of the class, globals of its Python
    module) is covered if the `namespaces` of the class are passed too; then including closures, defaults and
    attributes of functions.

    Args:
        values: modules with their submodules, namespaces, or any other values.
        exclude: tensors and objects that are not restored.
    """

    def __init__(self, values: Iterable[Any], exclude: Iterable[Any] = ()) -> None:
        self._undo: list[Callable[[], None]] = []
        self._visited = {id(one): one for one in exclude}  # the references keep the ids from being reused
        pending = list(values)
        while pending:
            value = pending.pop()
            if not isinstance(value, _PLAIN) and id(value) not in self._visited:
                self._visited[id(value)] = value
                pending += self._record(value)

    def restore(self) -> None:
        """Restore everything."""
        with torch.inference_mode(False), torch.no_grad():
            for undo in self._undo:
                undo()

    def _record(self, value: Any) -> Iterable[Any]:
        """Record one value, and return the values that it holds."""
        if isinstance(value, Tensor):
            return self._record_tensor(value)
        if isinstance(value, nn.Module):
            return value.children() if _is_wrapper(value) else [vars(value)]
        if isinstance(value, Namespace):
            return self._record_namespace(value)
        if isinstance(value, MutableMapping) and (items := _items(value)) is not None:
            self._undo.append(lambda: _restore_items(value, items))
            return [*items.values(), *_attributes(value)]
        if isinstance(value, list | deque | set | bytearray):
            return self._record_elements(value)
        if isinstance(value, tuple | frozenset):
            return value
        if isinstance(value, np.ndarray):
            array = value.copy()
            if value.flags.writeable:
                self._undo.append(lambda: np.copyto(value, array))
            return array.flat if array.dtype == object else []
        if (generator := _generator(value)) is not None:
            get_state, set_state = generator
            state = get_state()
            self._undo.append(lambda: set_state(state))
            return []
        return [*self._record_slots(value), *_attributes(value)]

    def _record_namespace(self, namespace: Namespace) -> Iterable[Any]:
        values = namespace.values()
        self._undo.append(lambda: namespace.restore(values))
        functions = [getattr(value, "__func__", value) for value in values.values()]
        for function in functions:
            if isinstance(function, FunctionType):
                yield from self._record_function(function)
        yield from values.values()

    def _record_function(self, function: FunctionType) -> Iterable[Any]:
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

    def _record_slots(self, value: Any) -> Iterable[Any]:
        """Record what an object of a user class holds in `__slots__` instead of a dict."""
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

    def _record_elements(self, value: Any) -> Iterable[Any]:
        before = value.copy()

        def undo() -> None:
            if isinstance(value, list | bytearray):
                value[:] = before
            else:
                value.clear()
                value.update(before) if isinstance(value, set) else value.extend(before)

        self._undo.append(undo)
        return [] if isinstance(before, bytearray) else before

    def _record_tensor(self, tensor: Tensor) -> Iterable[Any]:
        if is_lazy(tensor):
            return []
        with torch.inference_mode(False), torch.no_grad():
            values = tensor.detach().clone()
        requires_grad, grad = tensor.requires_grad, tensor.grad if tensor.is_leaf else None

        def undo() -> None:
            if tensor.is_inference():
                with torch.inference_mode():
                    tensor.copy_(values)
                return
            if tensor.is_leaf:
                tensor.requires_grad_(requires_grad)
                tensor.grad = grad
            if tensor.shape == values.shape:
                # Through `.data`, without a new version: a graph that still needs the tensor can use its values.
                tensor.data.copy_(values)
            else:
                tensor.data = values

        self._undo.append(undo)
        return [] if grad is None else [grad]


class UndisturbedByValidation(AfterModuleHooks, Callback):
    """Restores the training's state after each validation, so that its frequency does not change the training.

    It has to be the first callback. After each validation of a fit, including all hooks of callbacks and module, it
    restores the global random number generators, every attribute of the module's submodules, and those of the module's
    own attributes that its `forward` set or whose tensors it changed. It keeps what the module's validation hooks and
    steps store on the module itself, and torchmetrics metrics: they are the result of the validation. Parameters are
    not touched.
    """

    def __init__(self) -> None:
        self._random: dict[str, Any] | None = None
        self._inner: Snapshot | None = None
        self._own: dict[str, tuple[Any, Snapshot]] = {}
        self._changed: set[str] = set()
        self._hooks: list[Any] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the state."""
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
        entered: list[dict[str, Any]] = []

        def enter(module: nn.Module, inputs: Any) -> None:
            # Lightning may replace `forward` to run a whole validation step through it.
            own = getattr(module.forward, "__func__", None) is type(module).forward
            entered.append(_versions(module) if own else {})

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            before, after = entered.pop() if entered else {}, _versions(module)
            if before:
                names = before.keys() | after.keys()
                self._changed |= {name for name in names if before.get(name) != after.get(name)}

        self._hooks = [pl_module.register_forward_pre_hook(enter), pl_module.register_forward_hook(leave)]

    def after_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the state."""
        if self._inner is None or self._random is None:
            return
        for hook in self._hooks:
            hook.remove()
        for name in self._changed:
            holder = pl_module._buffers if name in pl_module._buffers else vars(pl_module)
            if name in self._own:
                holder[name], before = self._own[name]
                before.restore()
            else:
                holder.pop(name, None)
        self._inner.restore()
        set_random_state(self._random)
        self._random, self._inner, self._own, self._hooks = None, None, {}, []


def _own(module: nn.Module) -> dict[str, Any]:
    """Return the buffers and other attributes of a module itself, without those of torch and Lightning."""
    return {
        **{name: value for name, value in vars(module).items() if name not in FRAMEWORK_ATTRIBUTES},
        **module._buffers,
    }


def _versions(module: nn.Module) -> dict[str, Any]:
    """Return a value per attribute that changes when the attribute is set or its tensor is modified."""
    versions = {}
    for name, value in _own(module).items():
        plain = isinstance(value, _PLAIN)
        tracked = isinstance(value, Tensor) and not value.is_inference()
        versions[name] = value if plain else (id(value), value._version if tracked else None)
    return versions


def _is_wrapper(module: nn.Module) -> bool:
    """Whether a module is a wrapper of torch around another, whose bookkeeping must not be restored."""
    return type(module).__module__.startswith(("torch.distributed", "torch._dynamo"))


def _is_metric(module: nn.Module) -> bool:
    return isinstance(module, Metric) or type(module).__module__.startswith("torchmetrics")


def _restore_items(mapping: MutableMapping[Any, Any], items: dict[Any, Any]) -> None:
    """Restore a mapping, but only if it differs: compiled code would check all guards on it again."""
    same = len(mapping) == len(items) and all(
        (key is other or key == other) and value is kept
        for (key, value), (other, kept) in zip(mapping.items(), items.items(), strict=True)
    )
    if not same:
        mapping.clear()
        mapping.update(items)


def _items(mapping: MutableMapping[Any, Any]) -> dict[Any, Any] | None:
    """Return the items of a mapping; None if it fails to compute them, in which case its attributes are recorded."""
    try:
        return dict(mapping)
    except Exception:
        return None


def _attributes(value: Any) -> list[Any]:
    """Return the dict of the attributes of an object of a user class, in a list; empty for other objects."""
    return [vars(value)] if hasattr(value, "__dict__") and not _is_foreign(value) else []


def _slots(value: Any) -> dict[str, MemberDescriptorType]:
    """Return the descriptors of an object's `__slots__`, by name."""
    namespaces = [vars(base).items() for base in type(value).__mro__ if "__slots__" in vars(base)]
    return {name: slot for items in namespaces for name, slot in items if isinstance(slot, MemberDescriptorType)}


def _is_foreign(value: Any) -> bool:
    """Whether an object belongs to a library, or is not part of the object that refers to it."""
    kind = type(value)
    return (is_library(kind.__module__) and kind is not SimpleNamespace) or isinstance(value, (*NOT_STATE, type))


def _generator(value: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]] | None:
    """Return the getter and setter of a generator's state; None if the value is no random number generator."""
    if isinstance(value, np.random.Generator):
        value = value.bit_generator
    if isinstance(value, np.random.BitGenerator):
        return lambda: value.state, lambda state: setattr(value, "state", state)
    if isinstance(value, torch.Generator | np.random.RandomState):
        return value.get_state, value.set_state
    if isinstance(value, random.Random):
        return value.getstate, value.setstate
    return None
