"""Checks of a resumed run against its checkpoint: same optimizer and data, no group frozen again, same LRs so far."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import nn

from lrflow.data.fingerprint import changes_of_data, fingerprint
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.optimizers.traits import Traits
from lrflow.plan import Plan, PlanGroup
from lrflow.training.state import preserve_random_state
from lrflow.wording import counted, joined, number, shape_text

log = logging.getLogger("lrflow")

FindTraits = Callable[[str], Traits]
"""Maps the dotted name of an optimizer to its traits; raises ConfigError if there is no such class."""


def check_same_optimizer(before: Mapping[str, Any], now: Mapping[str, Any], find: FindTraits) -> list[Problem]:
    """Return the settings of an optimizer that need state which the checkpoint does not hold.

    The parameters of a new route start without state, so it is no problem.

    Args:
        before: `optimizer` in the configuration of the checkpoint's run.
        now: `optimizer` in the configuration of the resumed run.
        find: returns the traits of an optimizer.
    """
    problems = list(_optimizer_problems(before, now, "optimizer", find))
    former = before.get("routes") or {}
    for route, own in (now.get("routes") or {}).items():
        if route in former:
            problems += _optimizer_problems(former[route], own, f"optimizer.routes.{route}", find)
    return problems


def _optimizer_problems(
    before: Mapping[str, Any], now: Mapping[str, Any], key: str, find: FindTraits
) -> Iterator[Problem]:
    hint = "resume with the run's own, or start a new run"
    old_target, new_target = str(before.get("_target_")), str(now.get("_target_"))
    traits = find(new_target)
    former = _traits_or_none(old_target, find)
    if old_target != new_target and (traits.state is None or former is None or former.state != traits.state):
        yield Problem(f"{key}._target_", f"the checkpoint is of another optimizer: {old_target}", new_target, hint)
        return
    for name in traits.state_switches:
        if now.get(name) and not before.get(name):
            message = f"the checkpoint's run had {before.get(name, False)}, and so has no state of it"
            yield Problem(f"{key}.{name}", message, now[name], hint)
    defaults = (former or traits).defaults
    for name in traits.state_sizes:
        new, old = now.get(name, traits.defaults.get(name)), before.get(name, defaults.get(name))
        if None not in (new, old) and new != old:
            yield Problem(f"{key}.{name}", f"the checkpoint's run had {old}", new, hint)


def _traits_or_none(target: str, find: FindTraits) -> Traits | None:
    try:
        return find(target)
    except ConfigError:  # the class of the earlier run no longer exists
        return None


def check_same_shapes(path: Path, shapes: Mapping[str, list[int]], module: nn.Module) -> None:
    """Check that a checkpoint fits a model.

    Args:
        path: the checkpoint.
        shapes: the shape of each of its tensors, by name.
        module: the model.

    Raises:
        LrflowError: lists the tensors that differ.
    """

    def text(shape: list[int] | None) -> str:
        return "absent" if shape is None else shape_text(shape)

    current = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    differ = [
        f"{name}: {text(shapes.get(name))} in the checkpoint, {text(current.get(name))} in the model"
        for name in {**current, **shapes}
        if shapes.get(name) != current.get(name)
    ]
    if differ:
        listed = "\n    ".join([*differ[:5], *(["..."] if len(differ) > 5 else [])])
        raise LrflowError(f"{path}: another model than the one to be trained\n    {listed}")


def check_not_frozen_again(before: Plan, now: Plan, step: int) -> list[Problem]:
    """Return a problem if groups that have trained would be frozen until a later step.

    Args:
        before: the plan that the run followed.
        now: the plan of the resumed run.
        step: number of optimizer steps done.
    """
    again = [
        f"{name} (since step {before.first_steps[name]}, until step {start})"
        for name, start in now.first_steps.items()
        if start > step and before.first_steps.get(name, step) < step
    ]
    if not again:
        return []
    message = f"these groups have trained, and would be frozen again: {joined(again, 7)}"
    return [Problem("layers", message, ..., f"unfreeze them at step {step} or before")]


def check_same_groups(before: Plan, now: Plan) -> list[Problem]:
    """Return a problem if the same config makes other groups now, as another version of lrflow or of a model may.

    Args:
        before: the plan that the run followed.
        now: the plan of the resumed run, under the same rules, optimizer and model.
    """
    former, own = ({group.name: group for group in plan.groups} for plan in (before, now))
    alike = {name for name, group in own.items() if name in former and _trains_alike(group, former[name])}
    if alike == own.keys() == former.keys():
        return []
    texts = [joined([_described(one) for name, one in groups.items() if name not in alike], 4) or "no other group"
             for groups in (former, own)]  # fmt: skip
    message = f"the parameters were in other groups so far, by an earlier version: {texts[0]}; now {texts[1]}"
    hint = "resume with the version that started the run, or start a new one from its weights: model.init_from"
    return [Problem("layers", message, ..., hint)]


def _trains_alike(one: PlanGroup, other: PlanGroup) -> bool:
    same = ("tensors", "parameters", "frozen", "route", "weight_decay", "settings")
    return all(getattr(one, name) == getattr(other, name) for name in same) and bool(np.isclose(one.scale, other.scale))


def _described(group: PlanGroup) -> str:
    decay = "" if group.weight_decay is None else f", weight decay {number(group.weight_decay)}"
    return f"{group.name} ({counted(group.tensors, 'tensor')}, LR {number(group.scale)}x{decay})"


def check_same_past(before: Plan, now: Plan, step: int) -> list[Problem]:
    """Return a problem if two plans differ in LRs or other scheduled settings before a step.

    Args:
        before: the plan that the run followed.
        now: the plan of a new run of another length.
        step: number of optimizer steps done.
    """
    steps = np.arange(step)
    if before.names != now.names or before.also != now.also:
        return [Problem("resume.horizon", "the run had other groups, so it is not the beginning of this one", "branch")]
    if [one.name for one in before.scalars] != [one.name for one in now.scalars] or (
        before.scalar_values(steps) != now.scalar_values(steps)
    ).any():
        message = f"up to step {step} the run had other scalars than a run of {counted(now.horizon.steps, 'step')} has"
        return [Problem("resume.horizon", message, "branch", "resume with rescale, or with the run's own scalars")]
    differ = (before.lr(steps) != now.lr(steps)).any(0)
    for name in before.also:
        differ |= ~np.isclose(before.setting(name, steps), now.setting(name, steps), 0.0, 0.0, equal_nan=True).all(0)
    if not differ.any():
        return []
    names = joined([name for name, other in zip(now.names, differ, strict=True) if other], 7)
    message = (
        f"up to step {step} the run had another LR than a run of {counted(now.horizon.steps, 'step')} has: {names}"
    )
    return [Problem("resume.horizon", message, "branch", "resume from an earlier checkpoint, or with rescale")]


def compared_fingerprint(data: pl.LightningDataModule, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fingerprint of the data, and report how it differs from that of the run that is resumed.

    Args:
        data: the data of the run, set up.
        before: the fingerprint in the checkpoint; None: there is none to compare with.
    """
    with preserve_random_state():  # to make the loaders may draw numbers
        found = fingerprint(data)
    if before is not None and (changes := changes_of_data(before, found)):
        log.warning("the data is not what the run was trained on: %s", "; ".join(changes))
    return found
