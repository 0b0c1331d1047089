"""Losses of torch.nn and metrics of torchmetrics by name, as a config is checked with them: without torch."""

from lrflow.objectives.losses import (
    CLASSES,
    DESCRIBED,
    HEADS,
    LANGUAGE_MODEL,
    LOSSES,
    ChosenLoss,
    Kind,
    Outputs,
    chosen_loss,
    in_units,
    is_of_torch,
    of_tokens,
)
from lrflow.objectives.metrics import (
    SCORES,
    SEVERAL,
    ChosenScore,
    chosen_score,
    higher_is_better,
    is_known,
    named_metrics,
)

__all__ = [
    "CLASSES",
    "DESCRIBED",
    "HEADS",
    "LANGUAGE_MODEL",
    "LOSSES",
    "SCORES",
    "SEVERAL",
    "ChosenLoss",
    "ChosenScore",
    "Kind",
    "Outputs",
    "chosen_loss",
    "chosen_score",
    "higher_is_better",
    "in_units",
    "is_known",
    "is_of_torch",
    "named_metrics",
    "of_tokens",
]
