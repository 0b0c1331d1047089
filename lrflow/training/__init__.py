"""Training: the Lightning module, its trainer and callbacks, checkpoints, and resuming a run exactly."""

from lrflow.training.block import Block
from lrflow.training.checkpoints import Checkpoints
from lrflow.training.evaluation_weights import EvaluationWeights
from lrflow.training.feedback_loop import FeedbackLoop
from lrflow.training.freezing import Freezing
from lrflow.training.module import Supervised, planned_module
from lrflow.training.signals import Signals

__all__ = [
    "Block",
    "Checkpoints",
    "EvaluationWeights",
    "FeedbackLoop",
    "Freezing",
    "Signals",
    "Supervised",
    "planned_module",
]
