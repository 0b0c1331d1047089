"""Lazy imports, which keep the start light, and the alias that makes `import lightning` give `pytorch_lightning`.

The package `lightning` holds a second copy of Lightning: `lightning.pytorch` is the code of `pytorch_lightning`, and
`lightning.fabric` that of `lightning_fabric`, under other names. `isinstance` fails across the two copies, so the
Trainer of one cannot train a module of the other. lrflow uses `pytorch_lightning`; most projects write `import
lightning as L`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["callable_package", "lazily", "missing_requirement", "np"]

REQUIRED = {
    "PIL": "pillow", "filelock": "filelock", "fsspec": "fsspec", "hydra": "hydra-core", "matplotlib": "matplotlib",
    "numpy": "numpy", "omegaconf": "omegaconf", "pydantic": "pydantic", "pytorch_lightning": "pytorch-lightning",
    "rich": "rich", "scipy": "scipy", "sklearn": "scikit-learn", "torch": "torch", "torchmetrics": "torchmetrics",
    "vl_convert": "vl-convert-python", "wandb": "wandb", "yaml": "pyyaml",
}  # fmt: skip
"""The packages that lrflow cannot do without, by import name: name on the package index."""


def missing_requirement(error: BaseException) -> str | None:
    """Return a sentence for a failed import of a package that lrflow requires; None: it is another error."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    package = REQUIRED.get(name)
    if package is None:
        return None
    return f"the package {package}, which lrflow requires, is not installed: pip install {package}"


def lazily(
    package: str, homes: Mapping[str, str], former: Mapping[str, str] = MappingProxyType({})
) -> Callable[[str], Any]:
    """Return a `__getattr__` for a package (PEP 562) that imports a module when one of its names is first used.

    Args:
        package: `__name__` of the package.
        homes: module of the package that defines a name, by name.
        former: the current names of what was renamed, by the former names, which are still found.
    """

    def find(name: str) -> Any:
        name = former.get(name, name)
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return find


def callable_package(package: str, home: str) -> None:
    """Make a package callable like a function: `lrflow.plan(...)` and `lrflow.plan.Plan` both work.

    Args:
        package: `__name__` of the package, such as `lrflow.plan`.
        home: module that defines the function; it is imported by the first call.
    """
    name = package.rpartition(".")[2]

    class Package(ModuleType):
        def __call__(self, *args: Any, **options: Any) -> Any:
            return getattr(import_module(home), name)(*args, **options)

    sys.modules[package].__class__ = Package


class _LazyModule:
    """Stands for a module, which is imported when its first attribute is read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # copy and pickle read these before `_name` is set
            raise AttributeError(attribute)
        value = getattr(import_module(self._name), attribute)
        setattr(self, attribute, value)  # the next access does not call this method
        return value


if TYPE_CHECKING:
    import numpy as np
else:
    np = _LazyModule("numpy")


_ORIGINALS = {"lightning.pytorch": "pytorch_lightning", "lightning.fabric": "lightning_fabric"}


def alias_lightning() -> None:
    """Make `lightning`, `lightning.pytorch` and `lightning.fabric` import the packages that lrflow uses.

    The package `lightning` need not be installed. If this process has imported the real one already, nothing changes,
    since its classes are in use.
    """
    if "lightning" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def original_name(name: str) -> str:
    """Return `pytorch_lightning.callbacks` for `lightning.pytorch.callbacks`, and any other dotted name unchanged."""
    for alias, original in _ORIGINALS.items():
        if name == alias or name.startswith(f"{alias}."):
            return original + name[len(alias) :]
    return name


def is_of_lightning(kind: type, name: str) -> bool:
    """Return whether a class derives from the class of this name in the real package `lightning`."""
    return any(base.__name__ == name and base.__module__.startswith("lightning.") for base in kind.__mro__)


class _Finder(MetaPathFinder):
    """Finds `lightning` and its submodules before Python's own finders do."""

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
                return None  # Python raises ModuleNotFoundError with the name that was imported
            raise
        return ModuleSpec(fullname, _Same(module), is_package=hasattr(module, "__path__"))


class _Root(Loader):
    """Creates the package `lightning` with the names that the real one exports."""

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        import lightning_fabric
        import pytorch_lightning

        for package in (lightning_fabric, pytorch_lightning):
            vars(module).update({name: getattr(package, name) for name in package.__all__})
        vars(module).update(__version__=pytorch_lightning.__version__, __path__=[])


class _Same(Loader):
    """Returns a module that was imported under another name, and keeps its `__spec__`."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec: Any = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has replaced it
