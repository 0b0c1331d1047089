"""The scalars of a plan within a run: `self.planned(NAME)` of the module, and the attributes that scalars set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from omegaconf import OmegaConf
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from lrflow.config import Config
from lrflow.config.schemas.scalars import OF_AVERAGE
from lrflow.errors import ConfigError, Problem, did_you_mean, nearest
from lrflow.layers.groups import nearest_names
from lrflow.layers.rules import compile_pattern
from lrflow.limits import Limit, is_number, number, outside
from lrflow.plan import PlanScheduler
from lrflow.training.module import Supervised, planned_module
from lrflow.training.resume import Resumed
from lrflow.training.state import PLANNED

_MISSING = object()


class Planned:
    """`self.planned` of a module: returns the values that the plan has for the current step.

    Before the run it returns the values at which the scalars begin, and of a trained run those of its last step.

    Args:
        values: of the scalars by name.
        used: names of the scalars that something else than the module uses.
    """

    def __init__(self, values: Mapping[str, float], used: Sequence[str] = ()) -> None:
        self._values = dict(values)
        self._unread = dict.fromkeys(name for name in values if name not in used)
        self._attributes: list[tuple[str, Any, str]] = []

    def __call__(self, name: str, default: Any = _MISSING) -> Any:
        """Return the value of a scalar for the current optimizer step.

        Args:
            name: its name in the section `scalars` of the config.
            default: returned if the config has no such scalar.

        Raises:
            ConfigError: there is none, and no default is given.
        """
        self._unread.pop(name, None)
        if name in self._values:
            return self._values[name]
        if default is not _MISSING:
            return default
        hint = did_you_mean(name, self._values) or f"scalars.{name}={{from: 0.2, to: 0, shape: linear}}"
        raise ConfigError(
            [Problem(f"scalars.{name}", "the module asks for it, and the config has no such scalar", ..., hint)]
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Planned:
        return self  # a copy of the module is of the same run

    @property
    def unread(self) -> tuple[str, ...]:
        """The scalars that nothing has read so far."""
        return tuple(self._unread)

    def set_attributes(self, attributes: Sequence[tuple[str, Any, str]]) -> None:
        """Set attributes to their scalars, from now on at every step.

        Args:
            attributes: the name of the scalar, the object, and the name of its attribute.
        """
        self._attributes = [*attributes]
        self._write()

    def sets(self, owner: object, attribute: str) -> bool:
        """Return whether a scalar sets an attribute of an object."""
        return any(each is owner and name == attribute for _, each, name in self._attributes)

    def receive(self, values: Mapping[str, float]) -> None:
        """Take the values of another step."""
        self._values.update(values)
        self._write()

    def follow(self, scheduler: PlanScheduler) -> None:
        """Take the values of the plan that a scheduler executes."""
        if scheduler.plan.scalars:
            scheduler.pass_scalars_to(self.receive)

    def _write(self) -> None:
        for name, owner, attribute in self._attributes:
            setattr(owner, attribute, self._values[name])


def add_planned(config: Config, module: pl.LightningModule) -> None:
    """Give a module, and the plain network in it, `self.planned`."""
    scalars = config.moving_scalars
    planned = Planned(
        {name: scalar.start_value for name, scalar in scalars.items()},
        [name for name, scalar in scalars.items() if scalar.targets],
    )
    for each in {id(one): one for one in (module, planned_module(module))}.values():
        object.__setattr__(each, PLANNED, planned)


def planned_of(module: nn.Module) -> Planned | None:
    """Return what `add_planned` gave to a module; None: it was not built from a config."""
    found = vars(module).get(PLANNED)
    return found if isinstance(found, Planned) else None


def bind_scalars(config: Config, module: pl.LightningModule) -> None:
    """Let the scalars set the attributes that `sets` names.

    Raises:
        ConfigError: a pattern matches no number of the module, two scalars set the same attribute, or a scalar leaves
            the valid values of its attribute.
    """
    planned = planned_of(module)
    if planned is None or not any(scalar.targets for scalar in config.moving_scalars.values()):
        return
    known = dict(_attributes(module))
    bound: dict[tuple[int, str], str] = {}
    attributes, problems = [], []
    for name, scalar in config.moving_scalars.items():
        key = f"scalars.{name}.sets"
        for target in scalar.targets:
            if target == OF_AVERAGE:
                continue
            if not target.rpartition(".")[2].strip("*?"):
                hint = "end it with the name of an attribute, such as *.p or loss.label_smoothing"
                problems.append(Problem(key, "matches attributes of every name", target, hint))
                continue
            pattern = compile_pattern(target)
            if not (found := [path for path in known if pattern.fullmatch(path)]):
                everywhere = {f"*.{path.rpartition('.')[2]}": None for path in known}
                near = nearest(target, [*known, *everywhere, OF_AVERAGE], count=1)
                hint = f"did you mean {near[0]}?" if near else nearest_names(target, [*known])
                problems.append(Problem(key, "matches no attribute that is a number", target, hint))
            for path in found:
                owner, attribute = known[path]
                if (other := bound.setdefault((id(owner), attribute), name)) != name:
                    problems.append(Problem(key, f"{path} is set by scalars.{other} already", target))
                if limit := _limit(owner, attribute):
                    problems += outside({"from": limit, "to": limit}, scalar.ends, f"scalars.{name}")
                attributes.append((name, owner, attribute))
    if problems:
        raise ConfigError([*{str(problem): problem for problem in problems}.values()])
    for _, owner, attribute in attributes:
        if attribute == "label_smoothing" and isinstance(module, Supervised) and owner is module.loss.function:
            module.loss.keep_unsmoothed()
    planned.set_attributes(attributes)


def restore_scalars(config: Config, module: pl.LightningModule, saved: Resumed) -> None:
    """Give a module the values that the scalars had at a checkpoint, as a validation of the run at its step did.

    Args:
        config: of the run; a scalar that was changed for a task follows its own curve.
        module: built from this config.
        saved: the checkpoint.
    """
    if not (config.moving_scalars and (planned := planned_of(module))):
        return
    now: Any = OmegaConf.to_container(config.source, resolve=False)
    then = saved.config.get("scalars", {})
    before = {one.name: one for one in saved.plan.scalars if now["scalars"].get(one.name) == then.get(one.name)}
    scalars = [before.get(one.name, one) for one in config.planned_scalars]
    planned.receive({one.name: float(one(saved.step, saved.plan.horizon)) for one in scalars})


def _limit(owner: object, attribute: str) -> Limit | None:
    """Return the valid values of an attribute; None: any number."""
    if isinstance(owner, _DropoutNd) and attribute == "p":
        return number(0, 1)
    return number(0, 1) if attribute == "label_smoothing" else None


def _attributes(module: pl.LightningModule) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Yield each number among the attributes of a network's modules and of its loss: its name, owner and attribute."""
    parts: list[tuple[str, Any]] = [*planned_module(module).named_modules()]
    if isinstance(module, Supervised):
        parts.append(("loss", module.loss.function))
    for path, owner in parts:
        for attribute, value in getattr(owner, "__dict__", {}).items():
            if is_number(value) and not attribute.startswith("_"):
                yield f"{path}.{attribute}" if path else attribute, (owner, attribute)
