"""What a plan knows of one group of parameters."""

from __future__ import annotations

from dataclasses import dataclass

from lrflow.plan.settings import PlanSetting
from lrflow.schedules import Curve


@dataclass(frozen=True)
class PlanGroup:
    """One named group of parameters and the LR it is to be trained with.

    Args:
        name: as in the layer rules.
        lr: peak LR, absolute.
        scale: peak LR over the peak LR of the group's optimizer.
        weight_decay: the group's own; None: the optimizer's.
        schedule: multiplier of the peak over the run.
        tensors: how many parameter tensors the group holds.
        parameters: how many numbers they hold.
        frozen: whether the group is left out of training.
        route: the optimizer that the group goes to; None: the main one.
        also: settings of the optimizer that move besides the LR.
        depth: how many layers lie below its layer; None: it is no layer's.
    """

    name: str
    lr: float
    scale: float
    weight_decay: float | None
    schedule: Curve
    tensors: int
    parameters: int
    frozen: bool = False
    route: str | None = None
    also: tuple[PlanSetting, ...] = ()
    depth: int | None = None
