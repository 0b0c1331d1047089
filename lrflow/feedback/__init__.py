"""Feedback: small stateful factors on top of the plan, which react to what the run measures."""

from typing import TYPE_CHECKING

from lrflow.imports import lazily

if TYPE_CHECKING:
    from lrflow.feedback.base import Feedback, MetricFeedback, StepFeedback
    from lrflow.feedback.metric import Greedy, KLAdaptive, Plateau
    from lrflow.feedback.step import Hypergradient, Stationarity

__all__ = [
    "Feedback",
    "Greedy",
    "Hypergradient",
    "KLAdaptive",
    "MetricFeedback",
    "Plateau",
    "Stationarity",
    "StepFeedback",
]

__getattr__ = lazily(
    __name__,
    {
        "Feedback": "base",
        "Greedy": "metric",
        "Hypergradient": "step",
        "KLAdaptive": "metric",
        "MetricFeedback": "base",
        "Plateau": "metric",
        "Stationarity": "step",
        "StepFeedback": "base",
    },
)
