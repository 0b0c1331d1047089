"""Feedback: small stateful factors on top of the plan, which react to what the run measures."""

from typing import TYPE_CHECKING

from lrflow.lazy import lazily

if TYPE_CHECKING:
    from lrflow.feedback.feedback import Feedback, MetricFeedback, StepFeedback
    from lrflow.feedback.greedy import Greedy
    from lrflow.feedback.hypergradient import Hypergradient
    from lrflow.feedback.kl import KLAdaptive
    from lrflow.feedback.plateau import Plateau
    from lrflow.feedback.stationarity import Stationarity

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
        "Feedback": "feedback",
        "Greedy": "greedy",
        "Hypergradient": "hypergradient",
        "KLAdaptive": "kl",
        "MetricFeedback": "feedback",
        "Plateau": "plateau",
        "Stationarity": "stationarity",
        "StepFeedback": "feedback",
    },
)
