"""Layer-wise LR decay: the rules of `layers=layer_decay`."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from lrflow.errors import ConfigError, Problem
from lrflow.layers.inventory import Entry, inventory, is_norm
from lrflow.layers.rules import Rule, number

_CONTAINERS = (nn.Sequential, nn.ModuleList)


@dataclass(frozen=True)
class LayerDecay:
    """An LR that falls geometrically from the head down to the input.

    Layer i of L gets the factor `max(min_scale, decay ** (L - i))`, so that the last one trains at the peak
    (Bao et al., BEiT, 2022; Clark et al., ELECTRA, 2020).

    Layers are the model's children in the order in which they are declared. `Sequential` and `ModuleList`
    are opened into their items, and so is a module that is its parent's only child or holds a stack of
    blocks (a `Sequential` or `ModuleList` with two or more items that have modules inside), at any depth.
    A norm belongs to the layer before it; so does a parameter held by an opened module itself (a class
    token, a positional table). A tied parameter belongs to the first layer that holds it.

    Args:
        decay: factor from one layer to the one below, in (0, 1].
        min_scale: no layer's factor falls below this.
        no_decay: biases and norms without weight decay, in groups of their own (`stage1.0/no_decay`).

    Raises:
        ConfigError: values out of range.
    """

    decay: float = 0.75
    min_scale: float = 0.0
    no_decay: bool = True

    def __post_init__(self) -> None:
        problems = []
        decay, min_scale = number(self.decay), number(self.min_scale)
        if decay is None or not 0 < decay <= 1:
            problems.append(Problem("layers.decay", "expected a factor above 0 and at most 1", self.decay))
        if min_scale is None or not 0 <= min_scale <= 1:
            problems.append(Problem("layers.min_scale", "expected a factor from 0 to 1", self.min_scale))
        if problems:
            raise ConfigError(problems)

    def rules(self, model: nn.Module) -> list[Rule]:
        """The rules for this model, from its input to its head; layers without trainable parameters have none."""
        layers = list(self._layers(model).items())
        rules = []
        for index, (name, entries) in enumerate(layers):
            lr = f"{max(self.min_scale, self.decay ** (len(layers) - 1 - index))!r}x"
            trainable = [entry for entry in entries if entry.trainable]
            plain = [entry for entry in trainable if self.no_decay and entry.kinds & {"bias", "norm"}]
            rest = [entry for entry in trainable if entry not in plain]
            if plain:
                rules.append(Rule(f"{name}/no_decay", match=exactly(plain), lr=lr, weight_decay=0.0))
            if rest:
                rules.append(Rule(name, match=exactly(rest), lr=lr))
        return rules

    def _layers(self, model: nn.Module) -> dict[str, list[Entry]]:
        """Every parameter once, by the name of its layer, from the input to the head."""
        entries = {entry.parameter: entry for entry in inventory(model)}
        layers: dict[str, list[Entry]] = {}
        loose: list[Entry] = []  # before the first layer
        for path, module, opened in _walk(model):
            own = [entries.pop(p) for p in module.parameters(recurse=not opened) if p in entries]
            if not own:
                continue
            if not opened and not is_norm(module):
                layers[path] = [*loose, *own]
                loose = []
            elif layers:
                layers[next(reversed(layers))] += own
            else:
                loose += own
        if loose:  # nothing but norms and bare parameters
            layers["model"] = loose
        return layers


def _walk(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module, bool]]:
    """(path, module, whether it was opened) in the order of declaration."""
    yield path, module, True
    children = [(name, child) for name, child in module.named_children() if _has_parameters(child)]
    for name, child in children:
        below = ".".join(part for part in (path, name) if part and part != "_orig_mod")  # torch.compile's wrapper
        only = len(children) == 1 and type(module) not in _CONTAINERS and any(True for _ in child.children())
        if only or type(child) in _CONTAINERS or _holds_stack(child):
            yield from _walk(child, below)
        else:
            yield below, child, False


def _holds_stack(module: nn.Module) -> bool:
    return any(type(inner) in _CONTAINERS and sum(map(_is_block, inner.children())) >= 2 for inner in module.modules())


def _is_block(module: nn.Module) -> bool:
    return _has_parameters(module) and any(True for _ in module.children())


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def exactly(entries: Iterable[Entry]) -> list[str]:
    """Globs for `match` that select these parameters and no others."""
    return [glob.escape(entry.name) for entry in entries]
