"""Schemas of the group `layers`: rules, and objects that make rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Discriminator, Field, PrivateAttr, Tag

from lrflow import layers
from lrflow.config.schemas import types as f
from lrflow.config.schemas.objects import NO_TIME, Node, Schedule, Section
from lrflow.errors import ConfigError
from lrflow.layers.rules import SELECTS


class Rule(Section):
    """A rule of `layers.rules`; `lrflow.layers.Rule` is built from it and checks which keys can be combined."""

    name: f.Text
    """Name of the group."""
    match: f.Patterns | None = None
    """Globs over parameter names, such as `head.*`, or regular expressions with the prefix `re:`."""
    type: f.Texts | None = None
    """Classes of the modules that hold the parameters."""
    ndim: f.Numbers | None = None
    """Numbers of dimensions of the parameters."""
    select: Annotated[Any, f.some_of(*SELECTS)] | None = None
    """Kinds of parameters: bias, norm, vector, embedding, matrix."""
    lr: f.GroupLR | None = None
    """Peak LR of the group, or a multiple of the run's peak LR, such as `10x`; None: the run's."""
    weight_decay: f.NotNegative | None = None
    """Weight decay of the group; None: the optimizer's."""
    schedule: Schedule | None = None
    """Schedule of the group; None: the run's."""
    freeze: f.Switch = False
    """Freeze the group for the whole run."""
    unfreeze: f.Time | None = None
    """Duration for which the group is frozen before it trains."""
    unfreeze_warmup: f.Time = NO_TIME
    """Duration of the linear rise of the LR to its schedule after the group is unfrozen."""
    freeze_after: f.Time | None = None
    """Duration after which the group is frozen for the rest of the run."""
    freeze_statistics: f.Switch = True
    """Let frozen batch norms keep their running statistics and normalise by them."""
    route: f.Text | None = None
    """Optimizer of the group, one of `optimizer.routes`; None: the main one."""
    settings: dict[f.Text, Any] = Field({})
    """Other settings of the optimizer for this group, such as betas and eps."""
    optional: f.Switch = False
    """Ignore the rule, or entries of its lists, if the model has no such parameter."""


class _WithRules(Section):
    rules: list[Rule] = Field([])
    """Rules in order."""

    _compiled: list[layers.Rule] | None = PrivateAttr(None)

    def compiled(self) -> list[layers.Rule]:
        """Return the rule objects; the first call, by the checks of the config, builds them.

        Raises:
            ConfigError: every problem of the rules.
        """
        if self._compiled is None:
            compiled, problems = [], []
            for index, rule in enumerate(self.rules):
                key = f"layers.rules[{index}]"
                spec = rule.parsed()
                try:
                    if rule.schedule is not None:
                        spec["schedule"] = rule.schedule.curve(f"{key}.schedule")
                    compiled.append(layers.Rule.from_config(spec, key))
                except ConfigError as error:
                    problems += error.problems
            if problems:
                raise ConfigError(problems)
            self._compiled = compiled
        return self._compiled


class Rules(_WithRules):
    """Parameter groups by rules: the first rule that matches a parameter claims it."""

    rules: Annotated[list[Rule], Field(min_length=1)]
    """Rules in order; each parameter must match one."""


class RuleMaker(Node, _WithRules):
    """Parameter groups by an object whose method `rules(model)` returns the rules."""

    model_config = ConfigDict(extra="allow")

    offered = frozenset({"rules"})

    rules: list[Rule] = Field([])
    """Rules that claim parameters before those of the object."""


def _kind_of_layers(value: Any) -> str:
    by_object = "_target_" in value if isinstance(value, Mapping) else isinstance(value, RuleMaker)
    return "<maker>" if by_object else "<rules>"


Layers = Annotated[
    Annotated[Rules, Tag("<rules>")] | Annotated[RuleMaker, Tag("<maker>")], Discriminator(_kind_of_layers)
]
