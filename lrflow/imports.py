"""Modules that are imported when something of them is first used, so that a command imports only what it needs.

Makes `import lightning` give the classes of `pytorch_lightning`, which lrflow trains with.

The package `lightning` holds a second copy of Lightning: `lightning.pytorch` is the code of `pytorch_lightning`, and
`lightning.fabric` that of `lightning_fabric`, under other names. `isinstance` fails across the two, so a module of the
one cannot be trained by the Trainer of the other. Most projects write `import lightning as L`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["lazily", "np"]


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package (PEP 562).

    Args:
        package: its `__name__`.
        homes: the module in it that has each of its names.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return find


class _LazyModule:
    """A module that is imported when its first attribute is read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # of a copy or a pickle, which ask an object that has no name yet
            raise AttributeError(attribute)
        value = getattr(import_module(self._name), attribute)
        setattr(self, attribute, value)  # found without this function from now on
        return value


if TYPE_CHECKING:
    import numpy as np
else:
    np = _LazyModule("numpy")


_ORIGINALS = {"lightning.pytorch": "pytorch_lightning", "lightning.fabric": "lightning_fabric"}


def alias_lightning() -> None:
    """Let `lightning`, `lightning.pytorch` and `lightning.fabric` be imported as the packages that lrflow uses.

    It works whether the package `lightning` is installed or not. Where the real one has been imported in this process
    already, nothing is changed: its classes are in use.
    """
    if "lightning" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def original_name(name: str) -> str:
    """`pytorch_lightning.callbacks` for `lightning.pytorch.callbacks`; any other dotted name as it is."""
    for alias, original in _ORIGINALS.items():
        if name == alias or name.startswith(f"{alias}."):
            return original + name[len(alias) :]
    return name


def is_of_lightning(kind: type, name: str) -> bool:
    """Whether a class derives from the class of this name in the real package `lightning`."""
    return any(base.__name__ == name and base.__module__.startswith("lightning.") for base in kind.__mro__)


class _Finder(MetaPathFinder):
    """Finds `lightning` and what lies below it, before Python's own finders do."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "lightning":
            return ModuleSpec(fullname, _Root(), is_package=True)
        original = original_name(fullname)
        if original == fullname:
            return None
        try:
            module = importlib.import_module(original)
        except ModuleNotFoundError as error:
            if error.name == original:
                return None  # Python says that there is no such module, by the name that was asked for
            raise
        return ModuleSpec(fullname, _Same(module), is_package=hasattr(module, "__path__"))


class _Root(Loader):
    """Makes the package `lightning`, with the names that the real one exports."""

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        import lightning_fabric
        import pytorch_lightning

        for package in (lightning_fabric, pytorch_lightning):
            vars(module).update({name: getattr(package, name) for name in package.__all__})
        vars(module).update(__version__=pytorch_lightning.__version__, __path__=[])


class _Same(Loader):
    """Gives a module that has been imported under another name, and leaves what it says of itself as it was."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec: Any = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has written its own
