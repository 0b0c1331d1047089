"""What makes the rules of a model, in place of rules that are written out in the config."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

from lrflow.layers.inventory import Parameters
from lrflow.layers.rules import Rule


class RuleMaker(ABC):
    """Makes rules from what a model holds: its rules select the very parameters, by `Rule(parameters=...)`.

    A maker of one's own needs no more than a method `rules(model)` that returns a list of `Rule`.
    """

    follows_use: ClassVar[bool] = False
    """Whether the rules depend on the order in which the model uses its parameters."""

    def rules(self, model: nn.Module) -> list[Rule]:
        """The rules for a model, which is not run for it: `rules_of` on its parameters."""
        return self.rules_of(Parameters.of(model))

    @abstractmethod
    def rules_of(self, parameters: Parameters) -> list[Rule]:
        """The rules for the parameters of a model."""
