"""Checks of a config that takes its LR from another run, against the facts of that run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lrflow.config.checks.layers import check_multiples
from lrflow.config.config import Config
from lrflow.config.schemas.objects import Optimizer
from lrflow.config.schemas.task import OF_A_RUN
from lrflow.config.tuned_run import TunedRun, base_of
from lrflow.errors import Problem


def check_tuned(config: Config, tuned: TunedRun) -> Iterator[Problem]:
    """Yield a problem for each setting with which the LR of another run cannot be taken over.

    Args:
        config: of the run that takes it.
        tuned: the run from which it is taken.
    """
    key, value = tuned.key, tuned.given
    if config.task.name not in ("train", "plan", *OF_A_RUN):
        hint = "give a number, or leave it out"
        yield Problem(key, f"task={config.task.name} does not take the LR of another run", value, hint)
    elif config.resume.source is not None:
        yield Problem(key, "a resumed run already has an LR", value, "leave it out")
    elif config.find.check and config.task.name == "train":
        yield Problem("find.check", "compares an LR that is a number", True, "leave it out, or give the LR")
    if config.scaling.rule in ("linear", "sqrt"):
        message = f"the LR of {tuned.path} is taken as it was trained with, and not scaled once more"
        yield Problem("scaling", message, config.scaling.rule, "scaling=none, or a number for optimizer.lr")
    yield from _other_optimizers(config, tuned)
    yield from check_multiples(config.layers.rules, "that is taken from another run")
    yield from _other_base(config, tuned)


def _other_optimizers(config: Config, tuned: TunedRun) -> Iterator[Problem]:
    """Yield a problem for each optimizer of the run that the tuned run did not have."""
    theirs: dict[str, Mapping[str, Any]] = {"optimizer": tuned.optimizer}
    theirs |= {f"optimizer.routes.{name}": route for name, route in tuned.routes.items()}
    for key, own in config.optimizer.members.items():
        before = theirs.get(key)
        if config.optimizer.of_module:
            yield Problem(key, "the LRs are the module's own", "module", "choose an optimizer, such as optimizer=adamw")
        elif before is None:
            message = f"{tuned.path} had no optimizer of this route, so there is no LR to take for it"
            yield Problem(key, message, own.target, "give optimizer.lr as a number")
        elif before.get("_target_") != own.target:
            message = f"{tuned.path} was trained with {before.get('_target_')}, whose LR says nothing about this one"
            yield Problem(f"{key}._target_", message, own.target, "take a run of the same optimizer, or give a number")


def _other_base(config: Config, tuned: TunedRun) -> Iterator[Problem]:
    """Yield a problem if the LR of the run holds for another base of muP than this config has."""
    layers, model = config.layers.plain(), config.model.plain()
    base, theirs = base_of(layers), tuned.base or {}
    now, then = {**model, **(base or {})}, {**tuned.model, **theirs}
    for name in {**theirs, **(base or {})}:
        if now.get(name) == then.get(name):
            continue
        message = f"the LR of {tuned.path} holds for model.{name}={_text(then.get(name))}"
        if base is None:
            yield Problem("layers", f"{message}, by its layers=mup", ..., "layers=mup")
        else:
            yield Problem(f"layers.base.{name}", message, base.get(name), f"layers.base.{name}={_text(then.get(name))}")


def changed_settings(own: Optimizer, before: Mapping[str, Any]) -> list[str]:
    """Return the numeric settings, besides the LR, in which an optimizer differs from that of the tuned run."""
    now = own.plain()
    names = [name for name in dict.fromkeys([*before, *now]) if name not in ("_target_", "lr", "routes", "every")]
    return [
        f"{name}={_text(now.get(name))} (there {_text(before.get(name))})"
        for name in names
        if _text(now.get(name)) != _text(before.get(name))
    ]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    return "unset" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
