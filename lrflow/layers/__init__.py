"""Which parameters train how: rules, the groups they make of a model, layer-wise LR decay, gradual unfreezing."""

from typing import TYPE_CHECKING

from lrflow.lazy import lazily

if TYPE_CHECKING:
    from lrflow.layers.decay import LayerDecay
    from lrflow.layers.groups import Group, merge, resolve
    from lrflow.layers.hidden import HiddenMatrices
    from lrflow.layers.maker import RuleMaker
    from lrflow.layers.mup import MuP
    from lrflow.layers.rules import Rule
    from lrflow.layers.unfreezing import GradualUnfreezing

__all__ = ["GradualUnfreezing", "Group", "HiddenMatrices", "LayerDecay", "MuP", "Rule", "RuleMaker", "merge", "resolve"]

__getattr__ = lazily(
    __name__,
    {
        "GradualUnfreezing": "unfreezing",
        "Group": "groups",
        "HiddenMatrices": "hidden",
        "LayerDecay": "decay",
        "MuP": "mup",
        "Rule": "rules",
        "RuleMaker": "maker",
        "merge": "groups",
        "resolve": "groups",
    },
)
