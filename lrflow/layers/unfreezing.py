"""Gradual unfreezing: the rules of `layers=gradual_unfreezing`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from lrflow.errors import ConfigError, Problem
from lrflow.layers.depth import check_min_scale, highest, layer_rules, layers_of
from lrflow.layers.parameters import Parameters
from lrflow.layers.rules import Rule, RuleMaker, number
from lrflow.schedules import Duration, DurationLike


@dataclass(frozen=True)
class GradualUnfreezing(RuleMaker):
    """Gradual unfreezing: one layer after another begins to train, from the head down to the input.

    The head trains from the first step on, the layer below it after `every`, the next one after twice that. Of L layers
    the i-th has the LR factor `factor ** (i - L)`, which is discriminative fine-tuning (both: Howard and Ruder, ULMFiT,
    2018, arXiv 1801.06146).

    Layers are those of `LayerDecay`; a layer that the model itself has frozen is skipped.

    Args:
        every: a duration between the unfreezing of a layer and of the one below.
        factor: LR of a layer over the LR of the one below, 1 or more.
        warmup: a duration, in which the LR of an unfrozen layer rises to its schedule.
        min_scale: no layer's LR factor falls below this.
        no_decay: whether biases, norms and other parameters with fewer than two dimensions have no weight decay, in
            groups of their own (`stage1.0/no_decay`).
        freeze_statistics: whether the batch norms of frozen layers keep their running statistics.

    Raises:
        ConfigError: values out of range.
    """

    follows_use: ClassVar[bool] = True

    every: DurationLike = "1 epoch"
    factor: float = 2.6
    warmup: DurationLike = 0
    min_scale: float = 0.0
    no_decay: bool = True
    freeze_statistics: bool = True

    def __post_init__(self) -> None:
        problems = []
        for name in ("every", "warmup"):
            try:
                object.__setattr__(self, name, Duration.parse(getattr(self, name)))
            except ValueError as error:
                problems.append(Problem(f"layers.{name}", str(error), getattr(self, name)))
        if isinstance(self.every, Duration) and self.every.value == 0:
            hint = "layers=discriminative has the same LRs and freezes nothing"
            problems.append(
                Problem("layers.every", "is 0: all layers would train from the start", str(self.every), hint)
            )
        factor = number(self.factor)
        if factor is None or factor < 1:
            problems.append(Problem("layers.factor", "expected a number of at least 1", self.factor))
        problems += check_min_scale(self.min_scale)
        if problems:
            raise ConfigError(problems)

    def rules_of(self, parameters: Parameters) -> list[Rule]:
        """Return the rules, from the input to the head; layers without trainable parameters have none."""
        layers = layers_of(parameters)
        top = highest(layers)
        training = sorted({layer.depth for layer in layers if any(entry.trainable for entry in layer.entries)})
        rules = []
        for layer in layers:
            if layer.depth not in training:
                continue
            above = len(training) - 1 - training.index(layer.depth)
            scale = max(self.min_scale, self.factor ** (layer.depth - top))
            late: dict[str, Any] = {
                "unfreeze": Duration.parse(self.every) * above,
                "unfreeze_warmup": self.warmup,
                "freeze_statistics": self.freeze_statistics,
            }
            rules += layer_rules(layer, self.no_decay, scale, **(late if above else {}))
        return rules
