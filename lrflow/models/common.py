"""What the models share: checks of their arguments, and initialisation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lrflow.errors import ConfigError, Problem


def check(shape: Sequence[int], outputs: int, widths: Sequence[int], dropout: float = 0.0, image: bool = False) -> None:
    """Raises one ConfigError with everything that is wrong with a model's arguments."""
    problems = []
    if not shape or not all(_positive(size) for size in shape):
        problems.append(Problem("model.shape", "expected the positive sizes of one input", list(shape)))
    elif image and len(shape) != 3:
        problems.append(Problem("model.shape", "expected [channels, height, width]", list(shape)))
    if not _positive(outputs):
        problems.append(Problem("model.outputs", "expected 1 or more", outputs))
    if not all(_positive(width) for width in widths):
        problems.append(Problem("model.widths", "expected positive whole numbers", list(widths)))
    if not 0 <= dropout < 1:
        problems.append(Problem("model.dropout", "expected a probability from 0 to below 1", dropout))
    if problems:
        raise ConfigError(problems)


def initialise(model: nn.Module, head: nn.Linear) -> None:
    """Weights for ReLU networks (He et al., 2015), zero biases, and a head whose first guess is near uniform."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(head.weight, std=0.01)


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
