"""`optimizer.lr=auto`: an LR that is found by a range test before the training starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrflow.config.find import RangeFind
from lrflow.config.schema import Rules
from lrflow.errors import Problem

if TYPE_CHECKING:
    from lrflow.config.config import Config

AUTO = "auto"
REFERENCE = 1e-3
"""What stands for the LR until it is found; a range test scales all groups together, whatever their LRs are."""


def replace_auto_lr(content: dict[str, Any]) -> bool:
    """Puts the reference in the place of `auto`; tells whether it was there.

    Args:
        content: the resolved config, changed in place.
    """
    optimizer = content.get("optimizer")
    if not isinstance(optimizer, dict) or optimizer.get("lr") != AUTO:
        return False
    optimizer["lr"] = REFERENCE
    return True


def check_auto(config: Config) -> list[Problem]:
    """What an LR that is yet to be found does not go together with."""
    problems = []
    if config.task.name not in ("train", "find", "evaluate"):
        message = f"task={config.task.name} cannot show an LR that is yet to be found"
        problems.append(Problem("optimizer.lr", message, AUTO, "task=find finds it"))
    elif config.resume.source is not None:
        problems.append(Problem("optimizer.lr", "a run that goes on has an LR already", AUTO, "leave it out"))
    elif not isinstance(config.find, RangeFind):
        problems.append(Problem("optimizer.lr", "is found by a range test", AUTO, "find=range"))
    elif config.optimizer.routes:
        message = "cannot be found for several optimizers at once"
        problems.append(Problem("optimizer.lr", message, AUTO, "task=find looks at all of them together"))
    if isinstance(config.layers, Rules):
        for index, rule in enumerate(config.layers.rules):
            if isinstance(rule.lr, int | float):
                message = "has no ratio to an LR that is yet to be found"
                problems.append(Problem(f"layers.rules[{index}].lr", message, rule.lr, "write a multiple, such as 10x"))
    return problems
