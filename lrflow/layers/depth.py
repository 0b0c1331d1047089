"""The layers of a model in order, from its input to its head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn

from lrflow.errors import Problem
from lrflow.layers.parameters import Entry, Parameters, Uses, is_norm
from lrflow.layers.rules import Rule, number

_STACKS = (nn.Sequential, nn.ModuleList)
_CONTAINERS = (*_STACKS, nn.ModuleDict)


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer of a model.

    Args:
        name: the dotted name of its module.
        entries: its parameters.
        depth: how many layers lie below it.
    """

    name: str
    entries: tuple[Entry, ...]
    depth: int


def layers_of(model: nn.Module | Parameters) -> list[Layer]:
    """Every parameter once, in layers from the input to the head.

    Layers are the model's children. `Sequential`, `ModuleList` and `ModuleDict` are opened into their items, and so is
    a module that is its parent's only child or holds a stack of blocks, at any depth. A stack of blocks is one of these
    containers with two or more items that are alike and have modules inside; its blocks are layers, and are not opened
    unless they hold stacks themselves. A tied parameter belongs to the first layer that holds it.

    Where the model was seen to run, layers come in the order of their first use, and the depth of a layer is counted
    from the head down: of layers that feed nothing but the head, as the last ones of parallel towers, each lies one
    below it. A norm, or a parameter that an opened module holds itself (a class token, a positional table), belongs to
    the layer whose output it is applied to. What was not used stays where it is declared.

    Where it was not, all of this follows the order of declaration: a layer feeds the next one, and a norm belongs to
    the layer before it.
    """
    parameters = Parameters.of(model)
    entries = {entry.parameter: entry for entry in parameters.entries}
    layers: dict[str, list[Entry]] = {}
    loose: list[tuple[str | None, list[Entry]]] = []  # with the layer that is declared before them
    last: str | None = None
    for path, module, opened in _walk(parameters.model, parameters.uses):
        own = [entries.pop(p) for p in module.parameters(recurse=not opened) if p in entries]
        if own and not opened and not is_norm(module):
            layers[path], last = own, path
        elif own and opened:  # each by itself
            loose += [(last, [entry]) for entry in own]
        elif own:
            loose.append((last, own))
    if not layers:  # nothing but norms and bare parameters
        return [Layer("model", tuple(entry for _, own in loose for entry in own), 0)] if loose else []
    order, depths = _depths(layers, parameters.uses)
    for declared, own in loose:
        home = _home(own, {name: layers[name] for name in order}, parameters.uses)
        layers[home or declared or order[0]] += own
    return [Layer(name, tuple(layers[name]), depths[name]) for name in order]


def _depths(layers: dict[str, list[Entry]], uses: Uses | None) -> tuple[list[str], dict[str, int]]:
    """The layers in order, and the depth of each."""
    declared = list(layers)
    if uses is None:
        return declared, {name: depth for depth, name in enumerate(declared)}
    held = {name: [entry.parameter for entry in own] for name, own in layers.items()}
    first = {name: when for name in declared if (when := uses.first(held[name])) is not None}
    order = sorted(first, key=lambda name: first[name])
    above: dict[str, int] = {}  # how many layers lie above, on the longest way to an output
    for index in reversed(range(len(order))):
        fed = [above[other] for other in order[index + 1 :] if uses.feed(held[order[index]], held[other])]
        above[order[index]] = 1 + max(fed, default=-1)
    highest = max(above.values(), default=0)
    depths = {name: highest - count for name, count in above.items()}
    for index, name in enumerate(declared):
        if name not in depths:  # never used: beside the layer that is declared before it
            before = declared[index - 1] if index else None
            order.insert(order.index(before) + 1 if before else 0, name)
            depths[name] = depths[before] if before else 0
    return sorted(order, key=lambda name: depths[name]), depths


def _home(own: Sequence[Entry], layers: dict[str, list[Entry]], uses: Uses | None) -> str | None:
    """The layer whose output these are applied to, or else the last one that was used before them."""
    parameters = [entry.parameter for entry in own]
    when = uses.first(parameters) if uses else None
    if uses is None or when is None:
        return None
    before: list[tuple[bool, int, str]] = []
    for name, entries in layers.items():
        held = [entry.parameter for entry in entries]
        if (used := uses.first(held)) is not None and used < when:
            before.append((uses.feed(held, parameters), used, name))
    return max(before)[2] if before else next(iter(layers))


def check_min_scale(min_scale: object) -> list[Problem]:
    """What is wrong with the factor below which no layer's falls."""
    value = number(min_scale)
    if value is None or not 0 <= value <= 1:
        return [Problem("layers.min_scale", "expected a factor from 0 to 1", min_scale)]
    return []


def layer_rules(layer: Layer, no_decay: bool, **settings: Any) -> list[Rule]:
    """The rules of one layer: its biases and norms, without weight decay where that is asked for, and the rest.

    Args:
        layer: those of its parameters that the model has frozen get no rule.
        no_decay: biases and norms in a group of their own, `NAME/no_decay`.
        settings: of both rules.
    """
    trainable = [entry for entry in layer.entries if entry.trainable]
    plain = [entry.parameter for entry in trainable if no_decay and entry.kinds & {"bias", "norm"}]
    rest = [entry.parameter for entry in trainable if not (no_decay and entry.kinds & {"bias", "norm"})]
    rules = []
    if plain:
        rules.append(Rule(f"{layer.name}/no_decay", parameters=plain, weight_decay=0.0, depth=layer.depth, **settings))
    if rest:
        rules.append(Rule(layer.name, parameters=rest, depth=layer.depth, **settings))
    return rules


def _walk(module: nn.Module, uses: Uses | None, path: str = "") -> Iterator[tuple[str, nn.Module, bool]]:
    """(path, module, whether it was opened) in the order of declaration."""
    yield path, module, True
    children = [(name, child) for name, child in module.named_children() if _has_parameters(child)]
    stack = _is_stack(module, uses)
    for name, child in children:
        below = ".".join(part for part in (path, name) if part and part != "_orig_mod")  # torch.compile's wrapper
        only = len(children) == 1 and type(module) not in _STACKS and any(True for _ in child.children())
        block = stack and _is_block(child) and not _is_one_layer(child)
        if only or (type(child) in _CONTAINERS and not block) or _holds_stack(child, uses):
            yield from _walk(child, uses, below)
        else:
            yield below, child, False


def _holds_stack(module: nn.Module, uses: Uses | None) -> bool:
    return any(_is_stack(inner, uses) for inner in module.modules())


def _is_stack(module: nn.Module, uses: Uses | None) -> bool:
    """Whether a module is a container of blocks, one after the other as far as anybody has seen."""
    if type(module) not in _CONTAINERS:
        return False
    blocks = [child for child in module.children() if _is_block(child)]
    return any(_are_alike(one, other) and _follow(one, other, uses) for one, other in pairwise(blocks))


def _are_alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules are of one class, and have half of their parameters or more by the same names."""
    names, others = ({name for name, _ in module.named_parameters()} for module in (one, other))
    return type(one) is type(other) and 2 * len(names & others) >= len(names | others)


def _follow(one: nn.Module, other: nn.Module, uses: Uses | None) -> bool:
    """Whether one of two modules feeds the other; also where nobody has seen it."""
    held, others = list(one.parameters()), list(other.parameters())
    if uses is None or uses.first(held) is None or uses.first(others) is None:
        return True
    return uses.feed(held, others) or uses.feed(others, held)


def _is_one_layer(module: nn.Module) -> bool:
    """Whether a container has no more than one item that has parameters and is no norm."""
    return sum(_has_parameters(child) and not is_norm(child) for child in module.children()) <= 1


def _is_block(module: nn.Module) -> bool:
    return _has_parameters(module) and any(True for _ in module.children())


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
