"""Small models (Logistic, MLP, CNN, ResNet, TableNet) that train well by default and are made of named stages."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from lrflow.errors import ConfigError, Problem
from lrflow.models.drop_path import DropPath

__all__ = ["CNN", "MLP", "Logistic", "ResNet", "TableNet"]


def check(
    shape: Sequence[int],
    outputs: int,
    image: bool = False,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    **counts: Sequence[int],
) -> None:
    """Check the arguments of a model.

    Args:
        shape: shape of one input.
        outputs: number of outputs.
        image: whether the input must be [channels, height, width].
        dropout: probability.
        drop_path: probability.
        counts: arguments that are lists of positive whole numbers, by name.

    Raises:
        ConfigError: every invalid argument.
    """
    problems = []
    if not _positive(shape):
        problems.append(Problem("model.shape", "expected the sizes of one input, such as [1, 28, 28]", shape))
    elif image and len(shape) != 3:
        problems.append(Problem("model.shape", "expected an image: [channels, height, width]", list(shape)))
    if not _positive([outputs]):
        problems.append(Problem("model.outputs", "expected a whole number above 0", outputs))
    for name, values in counts.items():
        if not _positive(values):
            problems.append(Problem(f"model.{name}", "expected a list of whole numbers above 0", values))
    for name, probability in (("dropout", dropout), ("drop_path", drop_path)):
        if not isinstance(probability, int | float) or not 0 <= probability < 1:
            problems.append(Problem(f"model.{name}", "expected a probability of at least 0 and below 1", probability))
    if problems:
        raise ConfigError(problems)


def initialise(model: nn.Module, head: nn.Linear) -> None:
    """Initialise a ReLU network with He et al. (2015), biases with zero and the head with small weights.

    With a small head the first predictions are close to uniform (or to zero), so that the first steps need not undo
    confident predictions.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(head.weight, std=0.01)


def _positive(values: object) -> bool:
    """Return whether the value is a non-empty sequence of whole numbers above zero."""
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        return False
    return all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in values)


class Logistic(nn.Sequential):
    """Logistic regression, or linear regression with a squared loss: `flatten` and one linear layer, `head`.

    All weights start at zero, since the problem is convex.

    Args:
        shape: shape of one input, without the batch; the input is flattened.
        outputs: classes, or values to predict.

    Raises:
        ConfigError: invalid arguments.
    """

    def __init__(self, shape: Sequence[int], outputs: int) -> None:
        check(shape, outputs)
        super().__init__(OrderedDict(flatten=nn.Flatten(), head=nn.Linear(math.prod(shape), outputs)))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


class MLP(nn.Sequential):
    """Multilayer perceptron: `stage1`, `stage2`, ... of linear, norm, ReLU and dropout, and a linear `head`.

    Args:
        shape: shape of one input, without the batch; the input is flattened.
        outputs: classes, or values to predict.
        widths: widths of the hidden stages.
        norm: LayerNorm before each ReLU.
        dropout: probability of the dropout after each ReLU.

    Raises:
        ConfigError: invalid arguments.
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


class TableNet(nn.Module):
    """Multilayer perceptron for rows of a table: embedded categories beside the numbers, `stage1`, ... and `head`.

    Args:
        shape: shape of one input, which is flattened: numbers, then the indices of the categories.
        outputs: classes, or values to predict.
        cardinalities: number of indices of each category; the last inputs are these indices, in this order.
        widths: widths of the hidden stages.
        embedding_width: width of each embedding; None: 1.6 n^0.56 for n indices, at most 600, as in fastai.
        norm: LayerNorm before each ReLU.
        dropout: probability of the dropout after each ReLU.

    Raises:
        ConfigError: invalid arguments.
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        cardinalities: Sequence[int] = (),
        widths: Sequence[int] = (256, 128),
        embedding_width: int | None = None,
        norm: bool = True,
        dropout: float = 0.1,
    ) -> None:
        check(shape, outputs, dropout=dropout, widths=widths, cardinalities=cardinalities or [1])
        super().__init__()
        self.numbers = math.prod(shape) - len(cardinalities)
        if self.numbers < 0:
            message = f"expected at least the {len(cardinalities)} indices of the categories"
            raise ConfigError([Problem("model.shape", message, list(shape))])
        sizes = [embedding_width or min(600, round(1.6 * count**0.56)) for count in cardinalities]
        self.embeddings = nn.ModuleList(map(nn.Embedding, cardinalities, sizes))
        modules = OrderedDict[str, nn.Module]()
        inputs = [self.numbers + sum(sizes), *widths]
        for index, width in enumerate(widths):
            modules[f"stage{index + 1}"] = _linear_stage(inputs[index], width, norm, dropout)
        for name, module in modules.items():
            self.add_module(name, module)
        self._stages = tuple(modules)
        self.head = nn.Linear(inputs[-1], outputs)
        initialise(self, self.head)
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=1 / math.sqrt(embedding.embedding_dim))  # type: ignore[arg-type]
            nn.init.zeros_(embedding.weight[:1])  # type: ignore[index]  # of unknown categories, which may never train

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, *shape] to [batch, outputs]."""
        x = x.flatten(1)
        parts = [x[:, : self.numbers]]
        for place, embedding in enumerate(self.embeddings, start=self.numbers):
            parts.append(embedding(x[:, place].long()).to(x.dtype))
        x = torch.cat(parts, 1)
        for name in self._stages:
            x = getattr(self, name)(x)
        return self.head(x)


class CNN(nn.Sequential):
    """Convolutional network: `stage1`, `stage2`, ... of 3x3 convolution, norm, ReLU, pooling; a linear `head`.

    Each stage halves the image (rounding up). The head gets the maximum of each channel in each quarter of the last
    feature map, so it depends on the rough position of a feature, not on the exact one.

    Args:
        shape: [channels, height, width].
        outputs: classes, or values to predict.
        widths: channels of the stages.
        dropout: probability of the dropout before the head.
        norm: `batch`, or `group`: GroupNorm (Wu and He, 2018, arXiv 1803.08494) of up to eight groups, which normalises
            each image separately.

    Raises:
        ConfigError: invalid arguments.
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
            raise ConfigError([Problem("model.norm", "expected one of batch, group", norm)])
        inputs = [shape[0], *widths]
        modules = OrderedDict[str, nn.Module]()
        for index, width in enumerate(widths):
            modules[f"stage{index + 1}"] = _conv_stage(inputs[index], width, norm)
        # Not adaptive pooling: its gradient is not deterministic on GPUs.
        sizes = [math.ceil(size / 2 ** len(widths)) for size in shape[1:]]
        quarter = [math.ceil(size / 2) for size in sizes]
        quarters = math.prod(math.ceil(size / part) for size, part in zip(sizes, quarter, strict=True))
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

    Each stage after the first halves the image (rounding up) and doubles the channels. Each block is initialised as the
    identity (or its shortcut), so that deep stacks train at high LRs from the first step.

    Args:
        shape: [channels, height, width].
        outputs: classes, or values to predict.
        width: channels of the first stage.
        blocks: number of residual blocks of each stage.
        drop_path: probability that an example skips the last residual block in training; that of the others is smaller
            in proportion to their depth.

    Raises:
        ConfigError: invalid arguments.
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        width: int = 16,
        blocks: Sequence[int] = (2, 2, 2),
        drop_path: float = 0.0,
    ) -> None:
        check(shape, outputs, image=True, drop_path=drop_path, width=[width], blocks=blocks)
        modules = OrderedDict[str, nn.Module](stem=nn.Conv2d(shape[0], width, 3, padding=1, bias=False))
        channels = width
        number = 0
        for index, count in enumerate(blocks):
            wider, stage = width * 2**index, nn.Sequential()
            for first in (True, *[False] * (count - 1)):
                number += 1
                rate = drop_path * number / sum(blocks)
                stage.append(Block(channels, wider, 2 if first and index else 1, rate))
                channels = wider
            modules[f"stage{index + 1}"] = stage
        modules |= {"norm": nn.BatchNorm2d(channels), "relu": nn.ReLU()}
        modules |= {"mean": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        head = modules["head"] = nn.Linear(channels, outputs)
        super().__init__(modules)
        initialise(self, head)
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.zeros_(module.conv2.weight)


class Block(nn.Module):
    """Residual block: norm, ReLU and convolution, twice, plus the input; a 1x1 convolution where the shape changes.

    Args:
        inputs: input channels.
        outputs: output channels.
        stride: stride of the first convolution; 2 halves the image.
        drop_path: probability that an example skips the block in training.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None
        self.drop_path = DropPath(drop_path) if drop_path else None  # without it no random numbers are drawn

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, height, width] to [batch, outputs, height / stride, width / stride], rounded up."""
        active = relu(self.norm1(x))
        residual: Tensor = self.conv2(relu(self.norm2(self.conv1(active))))
        if self.drop_path is not None:
            residual = self.drop_path(residual)
        # The shortcut convolution gets the activated input, as in the paper.
        return residual + (x if self.shortcut is None else self.shortcut(active))
