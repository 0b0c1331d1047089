"""Layer-wise LR decay: the rules of `layers=layer_decay`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lrflow.errors import ConfigError, Problem
from lrflow.layers.depth import check_min_scale, highest, layer_rules, layers_of
from lrflow.layers.parameters import Parameters
from lrflow.layers.rules import Multiple, Rule, RuleMaker, number


@dataclass(frozen=True)
class LayerDecay(RuleMaker):
    """Layer-wise LR decay: LRs that fall geometrically from the head down to the input.

    Layer i of L gets the factor `max(min_scale, decay ** (L - i))`, so that the last layer that trains has the peak
    (Bao et al., BEiT, 2022; Clark et al., ELECTRA, 2020).

    `lrflow.layers.depth.layers_of` defines the layers: the model's children, with stacks of blocks opened into their
    blocks, in the order in which the model uses them. Layers of parallel towers have the same depth.

    Args:
        decay: LR of a layer over the LR of the layer above, in (0, 1].
        min_scale: no layer's factor falls below this.
        no_decay: whether biases and norms have no weight decay, in groups of their own (`stage1.0/no_decay`).

    Raises:
        ConfigError: values out of range.
    """

    follows_use: ClassVar[bool] = True

    decay: float = 0.75
    min_scale: float = 0.0
    no_decay: bool = True

    def __post_init__(self) -> None:
        problems = []
        decay = number(self.decay)
        if decay is None or not 0 < decay <= 1:
            problems.append(Problem("layers.decay", "expected a factor above 0 and at most 1", self.decay))
        problems += check_min_scale(self.min_scale)
        if problems:
            raise ConfigError(problems)

    def rules_of(self, parameters: Parameters) -> list[Rule]:
        """Return the rules, from the input to the head; layers without trainable parameters have none."""
        layers = layers_of(parameters)
        top = highest(layers)
        rules = []
        for layer in layers:
            scale = max(self.min_scale, self.decay ** (top - layer.depth))
            rules += layer_rules(layer, self.no_decay, lr=Multiple(scale))
        return rules
