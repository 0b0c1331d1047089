"""Feedback that would have nothing to look at, or would take worse for better, told before the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrflow.config.config import Config
from lrflow.config.metrics import contrary_modes
from lrflow.config.schema import Feedback
from lrflow.errors import Problem
from lrflow.feedback.limits import BOUNDS, LIMITS
from lrflow.limits import outside
from lrflow.metric import is_validation
from lrflow.schedules import Duration, Horizon


def check_limits(content: Mapping[str, Any]) -> list[Problem]:
    """Settings that a feedback of lrflow's cannot have.

    Args:
        content: the whole config.
    """
    node = content.get("feedback")
    if not isinstance(node, Mapping):
        return []
    room, _, kind = str(node.get("_target_")).rpartition(".")
    if room != "lrflow.feedback" or kind not in LIMITS:
        return []
    return outside({**BOUNDS, **LIMITS[kind]}, node, "feedback")


def check_feedback(config: Config) -> list[Problem]:
    """Settings beside which a feedback on a metric of validation never acts, or not as they say."""
    feedback = config.feedback
    if not isinstance(feedback, Feedback) or not is_validation(str(feedback.monitor)):
        return []
    problems = []
    if config.trainer.limit_val_batches == 0:
        message = "nothing is validated: trainer.limit_val_batches is 0"
        problems.append(Problem("feedback.monitor", message, feedback.monitor, "feedback.monitor=train/loss"))
    if feedback.every is not None:
        message = f"{feedback.monitor} is looked at after each validation"
        hint = "leave feedback.every out, and say how often with trainer.val_every"
        problems.append(Problem("feedback.every", message, str(feedback.every), hint))
    return problems


def doubts(config: Config, horizon: Horizon) -> list[str]:
    """What can be meant, but hardly is: a mode against its metric's name, a look that is never taken."""
    feedback = config.feedback
    found = contrary_modes(config.directions)
    if isinstance(feedback, Feedback):
        every = _every(feedback)
        if every is not None and every.steps(horizon) > horizon.steps:
            found.append(f"feedback.every is {every}, and the run has {horizon.steps} steps: it would never look")
    return found


def _every(feedback: Feedback) -> Duration | None:
    """How often it looks as far as the config tells; None: after each validation, or as the kind has it."""
    if is_validation(str(feedback.monitor)):
        return None
    return feedback.every or (Duration(1, "epochs") if feedback.monitor else None)
