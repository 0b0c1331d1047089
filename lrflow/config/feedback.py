"""Feedback that would have nothing to look at, told before anything is built."""

from __future__ import annotations

from lrflow.config.config import Config
from lrflow.config.schema import Feedback
from lrflow.errors import Problem


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
