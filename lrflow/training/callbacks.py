"""Build the callbacks of the group `callbacks`, and find those whose state a checkpoint does not hold."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import textwrap
from collections.abc import Callable, Iterator

import pytorch_lightning as pl
from pytorch_lightning.callbacks import DeviceStatsMonitor, Timer

from lrflow.config import Config, instantiate
from lrflow.config.checks.callbacks import refused
from lrflow.config.targets import takes
from lrflow.errors import ConfigError, Problem
from lrflow.training.monitor import Monitor
from lrflow.wording import joined

_NOT_TRAINING = frozenset({
    "__init__", "__new__", "setup", "teardown", "on_fit_start", "on_fit_end", "on_train_start", "on_train_end",
    "on_exception", "on_sanity_check_start", "on_sanity_check_end", "state_dict", "load_state_dict",
    "on_save_checkpoint", "on_load_checkpoint",
})  # fmt: skip
"""Methods that run before or after the training: what they assign is made again when the run is resumed."""

_SAVING = ("state_dict", "on_save_checkpoint")

_CHANGING = frozenset(
    {"add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "remove", "update"}
)
"""Methods of lists, sets and dicts that change them."""


class ConfiguredCallback(pl.Callback):
    """Base class of callbacks whose messages name their node in the config.

    Attributes:
        config_key: key of the node; set when the callback is built from a config.
    """

    config_key = "callbacks.NAME"


def build_callbacks(config: Config, trainer: pl.Trainer, report: Callable[[str], None]) -> list[pl.Callback]:
    """Build the callbacks of a run that the group `callbacks` names.

    Args:
        config: of the run.
        trainer: of the run.
        report: is called with one line about the callbacks that a resumed run does not continue exactly, if any.

    Returns:
        The callbacks, in the order of the config.

    Raises:
        ConfigError: a node builds no callback, or one that does not work here; lists all problems.
    """
    built: dict[str, pl.Callback] = {}
    problems: list[Problem] = []
    for name, node in config.callbacks.nodes().items():
        key = f"callbacks.{name}"
        extra = {}
        if isinstance(node.get("monitor"), str) and node.get("mode") is None and takes(node["_target_"], "mode"):
            extra["mode"] = config.directions(node["monitor"]).mode
        try:
            callback = instantiate(node, key, **extra)
        except ConfigError as error:
            problems += error.problems
            continue
        if problem := _misplaced(callback, key, node["_target_"], trainer):
            problems.append(problem)
        else:
            built[name] = callback
            if isinstance(callback, ConfiguredCallback):
                callback.config_key = key
    problems += _same_state(built)
    if problems:
        raise ConfigError(problems)
    if unsaved := {name: what for name, callback in built.items() if (what := unsaved_state(callback))}:
        listed = "; ".join(f"{name}: {what}" for name, what in unsaved.items())
        report(f"callbacks: a resumed run does not continue exactly with {listed}")
    return list(built.values())


def _misplaced(callback: object, key: str, target: str, trainer: pl.Trainer) -> Problem | None:
    """Return the problem of an object that cannot be a callback of this run."""
    if not isinstance(callback, pl.Callback):
        kind = type(callback).__name__
        return Problem(f"{key}._target_", f"builds {kind}, which is no Lightning callback", target)
    if isinstance(callback, Monitor):
        name = key.removeprefix("callbacks.")
        return Problem(f"{key}._target_", "is a lrflow.health.Monitor", target, f"use health.{name}._target_={target}")
    kinds = (f"{one.__module__}.{one.__name__}" for one in type(callback).__mro__ if one is not pl.Callback)
    if problem := refused(kinds, key):
        return problem
    on_cpu = trainer.strategy.root_device.type == "cpu"
    if isinstance(callback, DeviceStatsMonitor) and not trainer.loggers:
        return Problem(key, "needs a logger for what it measures", ..., "use logger=csv")
    if isinstance(callback, DeviceStatsMonitor) and on_cpu and importlib.util.find_spec("psutil") is None:
        return Problem(key, "needs the package psutil on a CPU, which is not installed", ..., "pip install psutil")
    return None


def _same_state(built: dict[str, pl.Callback]) -> Iterator[Problem]:
    """Yield a problem for each callback whose state in the checkpoint would replace that of another one."""
    first: dict[str, str] = {}
    for name, callback in built.items():
        saves = type(callback).state_dict is not pl.Callback.state_dict
        if saves and first.setdefault(callback.state_key, name) != name:
            message = f"its state in checkpoints has the same name as that of callbacks.{first[callback.state_key]}"
            hint = "give its class a state_key that differs, as Lightning's documentation shows"
            yield Problem(f"callbacks.{name}", message, callback.state_key, hint)


def unsaved_state(callback: pl.Callback) -> str | None:
    """Return which state of a callback changes during training and is in no checkpoint, in words; None: none is known.

    The source text of its classes shows which attributes they assign in hooks of the training. A class with a
    `state_dict` or `on_save_checkpoint` is assumed to save what it needs.
    """
    if isinstance(callback, Timer):
        return None if callback.time_remaining() is None else "its limit, a time on the clock"
    own = [one for one in type(callback).__mro__[:-1] if not _is_base(one)]
    if any(name in vars(one) for one in own for name in _SAVING):
        return None
    names = sorted({name for one in own for name in _assigned(one)})
    return f"its state {joined(names, 5)}, which is in no checkpoint" if names else None


def _is_base(one: type) -> bool:
    """Whether a class is one of those that only define the interface."""
    return one is pl.Callback or one.__module__ in ("abc", "builtins")


def _assigned(one: type) -> Iterator[str]:
    """Yield the attributes that the hooks of a class assign or change, as far as its source text shows."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
    except (OSError, TypeError, SyntaxError):
        return
    methods = [node for body in tree.body if isinstance(body, ast.ClassDef) for node in body.body]
    for method in methods:
        if isinstance(method, ast.FunctionDef) and method.name not in _NOT_TRAINING and method.args.args:
            yield from _changed(method, method.args.args[0].arg)


def _changed(method: ast.FunctionDef, this: str) -> Iterator[str]:
    """Yield the attributes of `this` that a method assigns, or changes by a method of a list, set or dict."""
    for node in ast.walk(method):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = [*node.targets]
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGING:
            targets = [node.func.value]
        for target in targets:
            for part in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
                while isinstance(part, ast.Subscript):
                    part = part.value
                if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == this:
                    yield part.attr
