"""Feedback: small stateful factors on top of the plan, which react to what the run measures."""

from typing import TYPE_CHECKING

from lrflow.imports import lazily

if TYPE_CHECKING:
    from lrflow.feedback.feedback import Feedback, MetricFeedback, StepFeedback
    from lrflow.feedback.metric import Greedy, KLAdaptive, Plateau
    from lrflow.feedback.step import SASA, Hypergradient

    Stationarity = SASA

__all__ = [
    "SASA", "Feedback", "Greedy", "Hypergradient", "KLAdaptive", "MetricFeedback", "Plateau", "Stationarity",
    "StepFeedback",
]  # fmt: skip

FORMER_NAMES = {"Stationarity": "SASA"}
"""Configs and checkpoints that were saved before a class was renamed hold its former name."""

__getattr__ = lazily(__name__, {
    "Feedback": "feedback", "Greedy": "metric", "Hypergradient": "step", "KLAdaptive": "metric",
    "MetricFeedback": "feedback", "Plateau": "metric", "SASA": "step", "StepFeedback": "feedback",
}, FORMER_NAMES)  # fmt: skip
