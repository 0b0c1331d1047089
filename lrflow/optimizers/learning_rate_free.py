"""Optimizers that estimate their LR: Prodigy and D-adaptation, for which `lr` is a factor of the estimate."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence

from torch.optim import Optimizer

from lrflow.errors import Problem
from lrflow.layers import Group


def estimates_lr(factory: Callable[..., Optimizer]) -> bool:
    """Whether an optimizer starts from a first estimate, `d0`, of how far the parameters have to go."""
    return "d0" in inspect.signature(factory).parameters


def check_one_lr(merged: Sequence[Sequence[Group]], factory: Callable[..., Optimizer]) -> Iterator[Problem]:
    """What such an optimizer cannot do: the estimate is one number, of steps that all parameters make at one LR.

    prodigyopt refuses groups with different LRs at its first step; pytorch_optimizer's classes take the first
    group's for all of them, without a word.

    Args:
        merged: as `lrflow.layers.merge` returns them.
        factory: the class or function that makes the optimizer.
    """
    if not estimates_lr(factory):
        return
    first = merged[0][0] if merged else None
    others = [members[0] for members in merged[1:]]
    if first and any((group.lr, group.schedule) != (first.lr, first.schedule) for group in others):
        names = ", ".join(group.name for group in (first, *others))
        name = getattr(factory, "__name__", "the optimizer")
        message = f"{name} estimates one LR for all parameters, and these groups differ in LR or schedule: {names}"
        yield Problem("layers", message, hint="layers=no_decay and layers=uniform give all of them one LR")
