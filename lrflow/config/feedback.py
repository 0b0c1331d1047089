"""Feedback that would have nothing to look at, or would take worse for better, told before the run."""

from __future__ import annotations

import re

from lrflow.config.config import Config
from lrflow.config.schema import Feedback
from lrflow.errors import Problem
from lrflow.schedules import Duration, Horizon

REWARDS = frozenset({"acc", "accuracy", "auc", "auroc", "f1", "r2", "return", "reward"})
"""Words in the name of a metric of which more is better."""


def check_feedback(config: Config) -> list[Problem]:
    """Settings beside which a feedback on a metric of validation never acts, or not as they say."""
    feedback = config.feedback
    if not isinstance(feedback, Feedback) or not str(feedback.monitor).startswith("val/"):
        return []
    problems = []
    if config.trainer.limit_val_batches == 0:
        message = "nothing is validated: trainer.limit_val_batches is 0"
        problems.append(Problem("feedback.monitor", message, feedback.monitor, "feedback.monitor=train/loss"))
    if feedback.every is not None:
        message = f"{feedback.monitor} is looked at after each validation"
        hint = "leave feedback.every out, and say how often with trainer.val_every"
        problems.append(Problem("feedback.every", message, feedback.every, hint))
    return problems


def doubts(config: Config, horizon: Horizon) -> list[str]:
    """What can be meant, but hardly is: a metric like accuracy that is to be small, a look that is never taken."""
    feedback, saving = config.feedback, config.trainer.checkpoint
    found = []
    if isinstance(feedback, Feedback):
        if feedback.monitor and feedback.mode == "min" and _is_reward(feedback.monitor):
            found.append(_more_is_better("feedback.mode", feedback.monitor))
        every = _every(feedback)
        if every is not None and every.steps(horizon) > horizon.steps:
            found.append(f"feedback.every is {every}, and the run has {horizon.steps} steps: it would never look")
    if saving.monitor and saving.mode == "min" and _is_reward(saving.monitor):
        found.append(_more_is_better("trainer.checkpoint.mode", saving.monitor))
    return found


def _is_reward(metric: str) -> bool:
    words = set(re.split(r"[^a-z0-9]+", metric.lower()))
    return bool(words & REWARDS) and not words & {"loss", "error"}


def _more_is_better(key: str, metric: str) -> str:
    return f"{key} is min, and {metric} looks like a metric of which more is better: {key}=max"


def _every(feedback: Feedback) -> Duration | None:
    """How often it looks as far as the config tells; None: after each validation, or as the kind has it."""
    if str(feedback.monitor).startswith("val/"):
        return None
    every = feedback.every or ("1 epoch" if feedback.monitor else None)
    return None if every is None else Duration.parse(every)
