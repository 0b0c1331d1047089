"""Which parameters train how: rules, the groups they make of a model, layer-wise LR decay, gradual unfreezing."""

from typing import TYPE_CHECKING

from lrflow.imports import lazily

if TYPE_CHECKING:
    from lrflow.layers.groups import Group, merge, resolve
    from lrflow.layers.mup import MuP
    from lrflow.layers.presets import GradualUnfreezing, HiddenMatrices, LayerDecay
    from lrflow.layers.rules import Rule, RuleMaker

__all__ = ["GradualUnfreezing", "Group", "HiddenMatrices", "LayerDecay", "MuP", "Rule", "RuleMaker", "merge", "resolve"]

__getattr__ = lazily(
    __name__,
    {
        "GradualUnfreezing": "presets",
        "Group": "groups",
        "HiddenMatrices": "presets",
        "LayerDecay": "presets",
        "MuP": "mup",
        "Rule": "rules",
        "RuleMaker": "rules",
        "merge": "groups",
        "resolve": "groups",
    },
)
