"""Which parameters train how: rules, the groups they make of a model, and layer-wise LR decay."""

from lrflow.layers.decay import LayerDecay
from lrflow.layers.groups import Group, merge, resolve
from lrflow.layers.hidden import HiddenMatrices
from lrflow.layers.mup import MuP
from lrflow.layers.rules import Rule

__all__ = ["Group", "HiddenMatrices", "LayerDecay", "MuP", "Rule", "merge", "resolve"]
