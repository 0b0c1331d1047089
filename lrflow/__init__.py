"""lrflow: declarative training for PyTorch with the learning rate at its heart."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrflow.imports import lazily

if TYPE_CHECKING:
    from lrflow.api import Found, compose, find, load, plan, sweep, train
    from lrflow.config import Config
    from lrflow.errors import ConfigError, LrflowError
    from lrflow.outcome import Outcome
    from lrflow.plan import Plan, PlanScheduler
    from lrflow.tasks.result import Result
    from lrflow.training.own_loop import ModulePlan, Planned

__version__ = "0.1.0"

__all__ = [
    "Config", "ConfigError", "Found", "LrflowError", "ModulePlan", "Outcome", "Plan", "PlanScheduler", "Planned",
    "Result", "compose", "find", "load", "plan", "sweep", "train",
]  # fmt: skip

# A wheel has `conf` and `recipes` inside this package; a source tree has them beside it.
_root = Path(__file__).resolve().parent.parent
if not (Path(__file__).resolve().parent / "conf").is_dir() and (_root / "conf").is_dir():
    __path__.append(str(_root))

_find = lazily(__name__, {
    "Config": "config", "ConfigError": "errors", "Found": "api", "LrflowError": "errors",
    "ModulePlan": "training.own_loop", "Outcome": "outcome", "Plan": "plan", "PlanScheduler": "plan",
    "Planned": "training.own_loop", "Result": "tasks.result", "compose": "api", "find": "api", "load": "api",
    "sweep": "api", "train": "api",
})  # fmt: skip


def __getattr__(name: str) -> Any:
    return import_module("lrflow.plan") if name == "plan" else _find(name)  # a package that is also a function


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
