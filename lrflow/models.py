"""Small models that train well by default, with stages whose names make good groups.

What the models share: checks of their arguments, and how their weights start.

Models of linear layers: logistic regression and the multilayer perceptron.

A small convolutional network.

A small residual network.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn.functional import relu

from lrflow.errors import ConfigError, Problem

__all__ = ["CNN", "MLP", "Logistic", "ResNet"]


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


class Logistic(nn.Sequential):
    """Logistic regression (with a squared loss: linear regression): `flatten` and one linear layer, `head`.

    It starts at zero, which suits a convex problem.

    Args:
        shape: of one input, without the batch; it is flattened.
        outputs: classes, or values to predict.

    Raises:
        ConfigError: arguments out of range.
    """

    def __init__(self, shape: Sequence[int], outputs: int) -> None:
        check(shape, outputs)
        super().__init__(OrderedDict(flatten=nn.Flatten(), head=nn.Linear(math.prod(shape), outputs)))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


class MLP(nn.Sequential):
    """Multilayer perceptron: `stage1`, `stage2`, ... of linear, norm, ReLU and dropout, and a linear `head`.

    Args:
        shape: of one input, without the batch; it is flattened.
        outputs: classes, or values to predict.
        widths: of the hidden stages.
        norm: LayerNorm before each ReLU.
        dropout: probability, after each ReLU.

    Raises:
        ConfigError: arguments out of range.
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        widths: Sequence[int] = (256, 256),
        norm: bool = True,
        dropout: float = 0.1,
    ) -> None:
        check(shape, outputs, dropout=dropout, widths=widths)
        modules = OrderedDict[str, nn.Module](flatten=nn.Flatten())
        inputs = [math.prod(shape), *widths]
        for index, width in enumerate(widths):
            modules[f"stage{index + 1}"] = _linear_stage(inputs[index], width, norm, dropout)
        head = modules["head"] = nn.Linear(inputs[-1], outputs)
        super().__init__(modules)
        initialise(self, head)


def _linear_stage(inputs: int, width: int, norm: bool, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            linear=nn.Linear(inputs, width),
            norm=nn.LayerNorm(width) if norm else nn.Identity(),
            relu=nn.ReLU(),
            dropout=nn.Dropout(dropout),
        )
    )


class CNN(nn.Sequential):
    """Convolutional network: `stage1`, `stage2`, ... of 3x3 convolution, norm, ReLU, pooling; a linear `head`.

    Each stage halves the picture (rounding up). The head sees the strongest response of each channel in each quarter
    of what is left: where a feature lies matters, its exact place does not.

    Args:
        shape: [channels, height, width].
        outputs: classes, or values to predict.
        widths: channels of the stages.
        dropout: probability, before the head.
        norm: `batch`, or `group`: GroupNorm (Wu and He, 2018, arXiv 1803.08494) of up to eight groups, which sees each
            picture by itself.

    Raises:
        ConfigError: arguments out of range.
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        widths: Sequence[int] = (16, 32, 64),
        dropout: float = 0.0,
        norm: str = "batch",
    ) -> None:
        check(shape, outputs, image=True, dropout=dropout, widths=widths)
        if norm not in _NORMS:
            raise ConfigError([Problem("model.norm", "expected batch or group", norm)])
        inputs = [shape[0], *widths]
        modules = OrderedDict[str, nn.Module]()
        for index, width in enumerate(widths):
            modules[f"stage{index + 1}"] = _conv_stage(inputs[index], width, norm)
        # Plain pooling, as the gradient of torch's adaptive pooling is not deterministic on GPUs.
        left = [math.ceil(size / 2 ** len(widths)) for size in shape[1:]]
        quarter = [math.ceil(size / 2) for size in left]
        quarters = math.prod(math.ceil(size / part) for size, part in zip(left, quarter, strict=True))
        modules["quarters"] = nn.MaxPool2d(tuple(quarter), ceil_mode=True)
        modules |= {"flatten": nn.Flatten(), "dropout": nn.Dropout(dropout)}
        head = modules["head"] = nn.Linear(inputs[-1] * quarters, outputs)
        super().__init__(modules)
        initialise(self, head)


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda width: nn.GroupNorm(math.gcd(width, 8), width),
}


def _conv_stage(inputs: int, width: int, norm: str) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, width, 3, padding=1, bias=False),  # the norm has a bias
            norm=_NORMS[norm](width),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(2, ceil_mode=True),
        )
    )


class ResNet(nn.Sequential):
    """Pre-activation ResNet (He et al., 2016): `stem`, `stage1`, `stage2`, ... of residual blocks, `norm`, `head`.

    Each stage after the first halves the picture (rounding up) and doubles the channels. Each block starts
    as the identity (or its shortcut), which lets deep stacks train at high rates from the first step.

    Args:
        shape: [channels, height, width].
        outputs: classes, or values to predict.
        width: channels of the first stage.
        blocks: residual blocks of each stage.

    Raises:
        ConfigError: arguments out of range.
    """

    def __init__(self, shape: Sequence[int], outputs: int, width: int = 16, blocks: Sequence[int] = (2, 2, 2)) -> None:
        check(shape, outputs, image=True, width=[width], blocks=blocks)
        modules = OrderedDict[str, nn.Module](stem=nn.Conv2d(shape[0], width, 3, padding=1, bias=False))
        channels = width
        for index, count in enumerate(blocks):
            wider, stride = width * 2**index, 1 if index == 0 else 2
            modules[f"stage{index + 1}"] = nn.Sequential(
                Block(channels, wider, stride), *(Block(wider, wider) for _ in range(count - 1))
            )
            channels = wider
        modules |= {"norm": nn.BatchNorm2d(channels), "relu": nn.ReLU()}
        modules |= {"mean": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        head = modules["head"] = nn.Linear(channels, outputs)
        super().__init__(modules)
        initialise(self, head)
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.zeros_(module.conv2.weight)


class Block(nn.Module):
    """Norm, ReLU, convolution, twice, added to the input; a 1x1 convolution where the shape changes.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        stride: 2 halves the picture.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] to [batch, outputs, height / stride, width / stride], rounded up."""
        active = relu(self.norm1(x))
        residual: Tensor = self.conv2(relu(self.norm2(self.conv1(active))))
        # The shortcut that changes the shape sees the activated input, as in the paper.
        return residual + (x if self.shortcut is None else self.shortcut(active))
