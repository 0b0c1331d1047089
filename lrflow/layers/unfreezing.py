"""Gradual unfreezing: the rules of `layers=gradual_unfreezing`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lrflow.errors import ConfigError, Problem
from lrflow.layers.depth import check_min_scale, layer_rules, layers_of
from lrflow.layers.rules import Rule, number
from lrflow.schedules import Duration, DurationLike


@dataclass(frozen=True)
class GradualUnfreezing:
    """One layer after another begins to train, from the head down to the input.

    The head trains from the first step on, the layer below it from `every` on, the next one from twice that. Of L
    layers the i-th has the LR factor `factor ** (i - L)`, which is discriminative fine-tuning (Howard and Ruder,
    ULMFiT, 2018, arXiv 1801.06146; both are theirs).

    Layers are those of `LayerDecay`; a layer that the model itself has frozen is passed over.

    Args:
        every: how long after the layer above a layer is unfrozen.
        factor: by which the LR of a layer is divided for the one below, 1 or more.
        warmup: how long the LR of a layer that was unfrozen rises to what the schedule says.
        min_scale: no layer's LR factor falls below this.
        no_decay: biases and norms without weight decay, in groups of their own (`stage1.0/no_decay`).
        freeze_statistics: whether the batch norms of frozen layers keep their running statistics.

    Raises:
        ConfigError: values out of range.
    """

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
                Problem("layers.every", "is no time: all layers would train at once", str(self.every), hint)
            )
        factor = number(self.factor)
        if factor is None or factor < 1:
            problems.append(Problem("layers.factor", "expected a number of at least 1", self.factor))
        problems += check_min_scale(self.min_scale)
        if problems:
            raise ConfigError(problems)

    def rules(self, model: nn.Module) -> list[Rule]:
        """The rules for this model, from its input to its head; layers without trainable parameters have none."""
        layers = layers_of(model)
        above = sum(any(entry.trainable for entry in entries) for entries in layers.values())
        rules = []
        for depth, (name, entries) in enumerate(layers.items()):
            if not any(entry.trainable for entry in entries):
                continue
            above -= 1
            scale = max(self.min_scale, self.factor ** (depth + 1 - len(layers)))
            late = {
                "unfreeze": Duration.parse(self.every) * above,
                "unfreeze_warmup": self.warmup,
                "freeze_statistics": self.freeze_statistics,
            }
            rules += layer_rules(name, entries, self.no_decay, lr=f"{scale!r}x", depth=depth, **(late if above else {}))
        return rules
