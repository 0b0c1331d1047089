"""Layer-wise LR decay: the rules of `layers=layer_decay`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.layers.depth import check_min_scale, highest, layer_rules, layers_of
from lrflow.layers.groups import nearest_names
from lrflow.layers.parameters import Entry, Parameters
from lrflow.layers.rules import Rule, RuleMaker, as_tuple, check_patterns, compile_pattern, number

TOKENS = (
    "*cls_token", "*dist_token", "*reg_token", "*register_tokens", "*mask_token", "*pos_embed",
    "*relative_position_bias_table",
)  # fmt: skip
"""Names of tokens and position embeddings in timm, BEiT, MAE and DINOv2."""

LAST_NORM = ("head", "block")


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
        no_decay: whether biases, norms, other parameters with fewer than two dimensions (the scales of LayerScale) and
            `tokens` have no weight decay, in groups of their own (`stage1.0/no_decay`).
        tokens: names of tokens and position embeddings, as globs or `re:`. The default names are those of timm, BEiT,
            MAE and DINOv2; a model may lack any of these, but has to have other names.
        last_norm: `head` or `block`: the layer of a norm between the last block and the head. It is the head in BEiT,
            MAE and DINOv2, and the block in timm.
        blocks_per_layer: consecutive blocks of a stack that are one layer, counted from the first block of each stack;
            3 in ConvNeXt (Liu et al., 2022), for models of 3, 3, 27 and 3 blocks.
        factors: further factors of parameters by name, on top of their layer's and not bounded by `min_scale`, such as
            DINOv2's `{"*patch_embed.*": 0.2}` (Oquab et al., 2023).

    Raises:
        ConfigError: values out of range.
    """

    follows_use: ClassVar[bool] = True

    decay: float = 0.75
    min_scale: float = 0.0
    no_decay: bool = True
    tokens: str | Sequence[str] | None = TOKENS
    last_norm: str = "head"
    factors: Mapping[str, float] = field(default_factory=dict)
    blocks_per_layer: int = 1

    def __post_init__(self) -> None:
        problems = []
        decay = number(self.decay)
        if decay is None or not 0 < decay <= 1:
            problems.append(Problem("layers.decay", "expected a factor above 0 and at most 1", self.decay))
        problems += check_min_scale(self.min_scale)
        problems += check_patterns(self.tokens, "layers.tokens")
        if self.last_norm not in LAST_NORM:
            hint = did_you_mean(str(self.last_norm), LAST_NORM)
            problems.append(Problem("layers.last_norm", "expected head or block", self.last_norm, hint))
        count = self.blocks_per_layer
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            problems.append(Problem("layers.blocks_per_layer", "expected a whole number of at least 1", count))
        if not isinstance(self.factors, Mapping):
            message = "expected factors by name, such as {'*patch_embed.*': 0.2}"
            problems.append(Problem("layers.factors", message, self.factors))
        else:
            for name, given in self.factors.items():
                problems += check_patterns(name, "layers.factors")
                if not (factor := number(given)) or factor < 0:
                    problems.append(Problem(f"layers.factors.{name}", "expected a number above 0", given))
        if problems:
            raise ConfigError(problems)

    def rules_of(self, parameters: Parameters) -> list[Rule]:
        """Return the rules, from the input to the head; layers without trainable parameters have none.

        Raises:
            ConfigError: names in `tokens` or `factors` that no parameter has, or no blocks to count together.
        """
        tokens = as_tuple(self.tokens) if self.no_decay else ()
        missing = [*_missing("layers.tokens", [text for text in tokens if text not in TOKENS], parameters)]
        missing += _missing("layers.factors", self.factors, parameters)
        if missing:
            raise ConfigError(missing)
        undecayed = {entry for text in tokens for entry in _named(text, parameters)}
        factors: dict[Entry, float] = {}
        for text, factor in self.factors.items():
            for entry in _named(text, parameters):
                factors.setdefault(entry, float(factor))
        layers = layers_of(parameters, self.last_norm, self.blocks_per_layer)
        top = highest(layers)
        rules = []
        for layer in layers:
            scale = max(self.min_scale, self.decay ** (top - layer.depth))
            rules += layer_rules(layer, self.no_decay, scale, undecayed, factors)
        return rules


def _named(text: str, parameters: Parameters) -> Iterable[Entry]:
    pattern = compile_pattern(text)
    return (entry for entry in parameters.entries if any(pattern.fullmatch(place.name) for place in entry.places))


def _missing(key: str, patterns: Iterable[str], parameters: Parameters) -> Iterable[Problem]:
    names = [place.name for entry in parameters.entries for place in entry.places]
    for text in patterns:
        if not any(True for _ in _named(text, parameters)):
            message = f"matches none of the {len(names)} parameter names"
            yield Problem(key, message, text, nearest_names(text, names))
