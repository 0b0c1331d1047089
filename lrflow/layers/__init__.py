"""Which parameters train how: rules, the groups they make of a model, layer-wise LR decay, gradual unfreezing."""

from typing import TYPE_CHECKING, Any

from lrflow.imports import lazily

if TYPE_CHECKING:
    from lrflow.layers.groups import Group, merge, resolve
    from lrflow.layers.mup import MuP
    from lrflow.layers.presets import GradualUnfreezing, LayerDecay, MuonGroups
    from lrflow.layers.rules import Rule, RuleMaker

    HiddenMatrices = MuonGroups

__all__ = [
    "GradualUnfreezing", "Group", "HiddenMatrices", "LayerDecay", "MuP", "MuonGroups", "Rule", "RuleMaker", "merge",
    "resolve",
]  # fmt: skip

FORMER_NAMES = {"HiddenMatrices": "MuonGroups"}
"""Configs that were saved before a class was renamed hold its former name."""

_find = lazily(__name__, {
    "GradualUnfreezing": "presets", "Group": "groups", "LayerDecay": "presets", "MuP": "mup", "MuonGroups": "presets",
    "Rule": "rules", "RuleMaker": "rules", "merge": "groups", "resolve": "groups",
})  # fmt: skip


def __getattr__(name: str) -> Any:
    return _find(FORMER_NAMES.get(name, name))
