"""What the models share: checks of their arguments, and how their weights start."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lrflow.errors import ConfigError, Problem


def check(
    shape: Sequence[int],
    outputs: int,
    image: bool = False,
    dropout: float = 0.0,
    **counts: Sequence[int],
) -> None:
    """Raises one ConfigError with everything that is wrong with a model's arguments.

    Args:
        shape: of one input.
        outputs: of the model.
        image: whether the input has to be [channels, height, width].
        dropout: probability.
        counts: arguments that are lists of positive whole numbers, by name.
    """
    problems = []
    if not _positive(shape):
        problems.append(Problem("model.shape", "expected the sizes of one input, such as [1, 28, 28]", shape))
    elif image and len(shape) != 3:
        problems.append(Problem("model.shape", "expected a picture: [channels, height, width]", list(shape)))
    if not _positive([outputs]):
        problems.append(Problem("model.outputs", "expected a whole number from 1", outputs))
    for name, values in counts.items():
        if not _positive(values):
            problems.append(Problem(f"model.{name}", "expected a list of whole numbers from 1", values))
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        problems.append(Problem("model.dropout", "expected a probability from 0 to below 1", dropout))
    if problems:
        raise ConfigError(problems)


def initialise(model: nn.Module, head: nn.Linear) -> None:
    """Starts a ReLU network where every layer keeps the variance (He et al., 2015) and biases are zero.

    The head starts small, so that the first predictions are close to uniform (or to zero) and the first
    steps are not spent on taking back a confident guess.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(head.weight, std=0.01)


def _positive(values: object) -> bool:
    """Whether these are one or more whole numbers above zero."""
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        return False
    return all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in values)
