"""Which parameters train how: rules, the groups they make of a model, layer-wise LR decay, gradual unfreezing."""

from typing import TYPE_CHECKING

from lrflow.imports import lazily

if TYPE_CHECKING:
    from lrflow.layers.groups import Group, merge, resolve
    from lrflow.layers.layer_decay import LayerDecay
    from lrflow.layers.lora import LoRAGroups
    from lrflow.layers.muon import MuonGroups
    from lrflow.layers.mup import MuP
    from lrflow.layers.rules import Rule, RuleMaker
    from lrflow.layers.unfreezing import GradualUnfreezing

    HiddenMatrices = MuonGroups

__all__ = [
    "GradualUnfreezing", "Group", "HiddenMatrices", "LayerDecay", "LoRAGroups", "MuP", "MuonGroups", "Rule",
    "RuleMaker", "merge", "resolve",
]  # fmt: skip

FORMER_NAMES = {"HiddenMatrices": "MuonGroups"}
"""Configs that were saved before a class was renamed hold its former name."""

__getattr__ = lazily(__name__, {
    "GradualUnfreezing": "unfreezing", "Group": "groups", "LayerDecay": "layer_decay", "LoRAGroups": "lora",
    "MuP": "mup", "MuonGroups": "muon",
    "Rule": "rules", "RuleMaker": "rules", "merge": "groups", "resolve": "groups",
}, FORMER_NAMES)  # fmt: skip
