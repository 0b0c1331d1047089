"""The layers of a model in order, from its input to its head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from lrflow.errors import Problem
from lrflow.layers.inventory import Entry, inventory, is_norm
from lrflow.layers.rules import Rule, number
from lrflow.layers.selection import exactly

_CONTAINERS = (nn.Sequential, nn.ModuleList)


def layers_of(model: nn.Module) -> dict[str, list[Entry]]:
    """Every parameter once, by the name of its layer, from the input to the head.

    Layers are the model's children in the order in which they are declared. `Sequential` and `ModuleList`
    are opened into their items, and so is a module that is its parent's only child or holds a stack of
    blocks (a `Sequential` or `ModuleList` with two or more items that have modules inside), at any depth.
    A norm belongs to the layer before it; so does a parameter held by an opened module itself (a class
    token, a positional table). A tied parameter belongs to the first layer that holds it.
    """
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


def check_min_scale(min_scale: object) -> list[Problem]:
    """What is wrong with the factor below which no layer's falls."""
    value = number(min_scale)
    if value is None or not 0 <= value <= 1:
        return [Problem("layers.min_scale", "expected a factor from 0 to 1", min_scale)]
    return []


def layer_rules(name: str, entries: Sequence[Entry], no_decay: bool, **settings: Any) -> list[Rule]:
    """The rules of one layer: its biases and norms, without weight decay where that is asked for, and the rest.

    Args:
        name: of the layer.
        entries: its parameters; those that the model has frozen get no rule.
        no_decay: biases and norms in a group of their own, `NAME/no_decay`.
        settings: of both rules.
    """
    trainable = [entry for entry in entries if entry.trainable]
    plain = [entry for entry in trainable if no_decay and entry.kinds & {"bias", "norm"}]
    rest = [entry for entry in trainable if entry not in plain]
    rules = []
    if plain:
        rules.append(Rule(f"{name}/no_decay", match=exactly(plain), weight_decay=0.0, **settings))
    if rest:
        rules.append(Rule(name, match=exactly(rest), **settings))
    return rules


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
