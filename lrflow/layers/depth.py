"""The layers of a model and their depths, in order from the input to the head."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from torch import nn

from lrflow.errors import ConfigError, Problem
from lrflow.layers.parameters import Entry, Parameters, Uses, is_norm
from lrflow.layers.rules import UNDECAYED, Multiple, Rule, number

_STACKS = (nn.Sequential, nn.ModuleList)
_CONTAINERS = (*_STACKS, nn.ModuleDict)


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer of a model.

    Args:
        name: the dotted name of its module.
        entries: its parameters.
        depth: number of layers below it.
    """

    name: str
    entries: tuple[Entry, ...]
    depth: int


def layers_of(model: nn.Module | Parameters, last_norm: str = "head", blocks_per_layer: int = 1) -> list[Layer]:
    """Return the layers of a model from the input to the head; every parameter belongs to one of them.

    Layers are the model's children. `Sequential`, `ModuleList` and `ModuleDict` are opened into their items, and so is
    a module that is its parent's only child or holds a stack of blocks, at any depth. A stack of blocks is one of these
    containers with two or more items that are alike and have submodules. Its blocks are layers, and are opened only if
    they hold stacks themselves. A tied parameter belongs to the first layer that holds it.

    If a forward pass was traced, layers come in the order of their first use, and depth is counted from the head down:
    each layer that feeds only the head, such as the last ones of parallel towers, is one below it. A norm, or a
    parameter that an opened module holds itself (a class token, a positional table), belongs to the layer whose output
    it is applied to; but a norm between the last block of a stack and a layer that is no block, such as the head,
    belongs to the latter (as in BEiT and MAE) unless `last_norm` is `block` (as in timm). Unused layers stay where they
    are declared.

    A stage is one of several similar modules in a container that hold a stack of blocks themselves. What a stage
    declares before its blocks, such as a downsampling, belongs to its first block (as in timm).

    If no forward pass was traced, the order of declaration replaces the order of use: a layer feeds the next one.

    Args:
        model: any module, or its parameters.
        last_norm: `head` or `block`: where a norm between the last block and the head belongs.
        blocks_per_layer: consecutive blocks of a stack that are one layer, counted from the first block of each stack.

    Raises:
        ConfigError: `blocks_per_layer` is above 1, and the model has no blocks.
    """
    parameters = Parameters.of(model)
    entries = {entry.parameter: entry for entry in parameters.entries}
    layers: dict[str, list[Entry]] = {}
    loose: list[tuple[str | None, bool, list[Entry]]] = []  # the layer declared before; whether it is a norm
    blocks: set[str] = set()
    last: str | None = None
    leading: list[Entry] = []  # of the stage whose first block comes next
    for path, module, opened, role in _walk(parameters.model, parameters.uses):
        own = [entries.pop(p) for p in module.parameters(recurse=not opened) if p in entries]
        if own and role == "leads":
            leading += own
        elif own and not opened and not is_norm(module):
            layers[path], last = [*leading, *own], path
            leading = []
            blocks |= {path} if role == "block" else set()
        elif own and opened:  # each parameter separately
            loose += [(last, False, [entry]) for entry in own]
        elif own:
            loose.append((last, True, own))
    if leading and last:
        layers[last] += leading
    if not layers:  # the model has only norms and bare parameters
        return [Layer("model", tuple(entry for *_, own in loose for entry in own), 0)] if loose else []
    if blocks_per_layer > 1:
        if not blocks:
            message = "the model has no stack of blocks: each of its layers is one already"
            raise ConfigError([Problem("layers.blocks_per_layer", message, blocks_per_layer)])
        names = _joined(layers, blocks, blocks_per_layer, parameters.uses)
        separate, layers = layers, {}
        for name, own in separate.items():
            layers.setdefault(names.get(name, name), []).extend(own)
        blocks = {names[name] for name in blocks}
        loose = [(names.get(name, name) if name else None, of_norm, own) for name, of_norm, own in loose]
    order, depths = _depths(layers, parameters.uses)
    held = {name: tuple(layers[name]) for name in order}
    for declared, of_norm, own in loose:
        owner = _owner(own, held, parameters.uses) or declared or order[0]
        ends = of_norm and owner in blocks and last_norm == "head"
        above = _fed(own, held, parameters.uses, [*layers], owner) if ends else None
        layers[owner if above is None or above in blocks else above] += own
    return [Layer(name, tuple(layers[name]), depths[name]) for name in order]


def _joined(
    layers: Mapping[str, Sequence[Entry]], blocks: Collection[str], count: int, uses: Uses | None
) -> dict[str, str]:
    """Return the layer to which each block belongs if so many blocks of a stack, in the order of use, are one layer."""
    stacks: dict[str, list[str]] = {}
    for name in layers:
        if name in blocks:
            stacks.setdefault(name.rpartition(".")[0], []).append(name)
    names: dict[str, str] = {}
    for stack, members in stacks.items():
        first = {name: uses.first([entry.parameter for entry in layers[name]]) if uses else None for name in members}
        when = {name: used for name, used in first.items() if used is not None}
        if len(when) == len(members):
            members = sorted(members, key=lambda name: when[name])
        for start in range(0, len(members), count):
            part = members[start : start + count]
            ends = "-".join(name.rpartition(".")[2] for name in (part[0], *part[1:][-1:]))
            names |= dict.fromkeys(part, f"{stack}.{ends}" if stack else ends)
    return names


def _depths(layers: dict[str, list[Entry]], uses: Uses | None) -> tuple[list[str], dict[str, int]]:
    """Return the layers in order, and the depth of each."""
    declared = list(layers)
    if uses is None:
        return declared, {name: depth for depth, name in enumerate(declared)}
    held = {name: [entry.parameter for entry in own] for name, own in layers.items()}
    first = {name: when for name in declared if (when := uses.first(held[name])) is not None}
    order = sorted(first, key=lambda name: first[name])
    above: dict[str, int] = {}  # number of layers above, on the longest path to an output
    for index in reversed(range(len(order))):
        fed = [above[other] for other in order[index + 1 :] if uses.feed(held[order[index]], held[other])]
        above[order[index]] = 1 + max(fed, default=-1)
    highest = max(above.values(), default=0)
    depths = {name: highest - count for name, count in above.items()}
    for index, name in enumerate(declared):
        if name not in depths:  # never used: it gets the depth of the layer declared before it
            before = declared[index - 1] if index else None
            order.insert(order.index(before) + 1 if before else 0, name)
            depths[name] = depths[before] if before else 0
    return sorted(order, key=lambda name: depths[name]), depths


def _owner(own: Sequence[Entry], layers: Mapping[str, Sequence[Entry]], uses: Uses | None) -> str | None:
    """Return the layer whose output these are applied to, else the last layer used before them."""
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


def _fed(
    own: Sequence[Entry], layers: Mapping[str, Sequence[Entry]], uses: Uses | None, declared: Sequence[str], owner: str
) -> str | None:
    """Return the first layer that these feed, as traced, else the one declared after their owner; None: none."""
    parameters = [entry.parameter for entry in own]
    if uses is None or uses.first(parameters) is None:
        return next(iter(declared[declared.index(owner) + 1 :]), None)
    fed: list[tuple[int, str]] = []
    for name, entries in layers.items():
        held = [entry.parameter for entry in entries]
        if (used := uses.first(held)) is not None and uses.feed(parameters, held):
            fed.append((used, name))
    return min(fed)[1] if fed else None


def highest(layers: Iterable[Layer]) -> int:
    """Return the depth of the highest layer that trains, which has the peak LR; 0 if none does."""
    return max((layer.depth for layer in layers if any(entry.trainable for entry in layer.entries)), default=0)


def check_min_scale(min_scale: object) -> list[Problem]:
    """Check the lower bound of the LR factors."""
    value = number(min_scale)
    if value is None or not 0 <= value <= 1:
        return [Problem("layers.min_scale", "expected a factor from 0 to 1", min_scale)]
    return []


def layer_rules(
    layer: Layer,
    no_decay: bool,
    factor: float,
    undecayed: Collection[Entry] = (),
    factors: Mapping[Entry, float] = MappingProxyType({}),
    **settings: Any,
) -> list[Rule]:
    """Return the rules of one layer: what has no weight decay (`NAME/no_decay`), and the rest.

    Args:
        layer: its frozen parameters get no rule.
        no_decay: whether biases, norms and other parameters with fewer than two dimensions have no weight decay.
        factor: LR of the layer, as a multiple of the peak.
        undecayed: further parameters without weight decay.
        factors: further factors of single parameters, which then have groups of their own (`NAME/0.2x`).
        settings: further settings of all rules.
    """
    groups: dict[tuple[float, bool], list[Entry]] = {}
    for entry in layer.entries:
        if entry.trainable:
            plain = entry in undecayed or (no_decay and not entry.kinds.isdisjoint(UNDECAYED))
            groups.setdefault((factors.get(entry, 1.0), plain), []).append(entry)
    rules = []
    for (own, plain), members in sorted(
        groups.items(), key=lambda group: (group[0][0] != 1.0, group[0][0], not group[0][1])
    ):
        name = layer.name + ("" if own == 1.0 else f"/{own:.12g}x") + ("/no_decay" if plain else "")
        decay = 0.0 if plain else None
        lr = Multiple(factor * own)
        parameters = [entry.parameter for entry in members]
        rules.append(Rule(name, parameters=parameters, lr=lr, weight_decay=decay, depth=layer.depth, **settings))
    return rules


def _walk(
    module: nn.Module, uses: Uses | None, path: str = "", role: str = ""
) -> Iterator[tuple[str, nn.Module, bool, str]]:
    """Yield (path, module, whether it was opened, role) in the order of declaration.

    The role is `block` (of a stack), `leads` (it belongs to the first block of its stage), or empty.
    """
    yield path, module, True, role
    children = [(name, child) for name, child in module.named_children() if _has_parameters(child)]
    stack = _is_stack(module, uses)
    leads = role == "stage" and any(_holds_stack(child, uses) for _, child in children)
    for name, child in children:
        below = ".".join(part for part in (path, name) if part and part != "_orig_mod")  # added by torch.compile
        only = len(children) == 1 and type(module) not in _STACKS and any(True for _ in child.children())
        block = stack and _is_block(child) and not _is_one_layer(child)
        holds = _holds_stack(child, uses)
        leads = leads and not holds
        own = "leads" if role == "leads" or leads else ""
        if only or (type(child) in _CONTAINERS and not block) or holds:
            is_stage = stack and type(child) not in _CONTAINERS
            yield from _walk(child, uses, below, own or ("stage" if is_stage else ""))
        else:
            yield below, child, False, own or ("block" if stack and _is_block(child) else "")


def _holds_stack(module: nn.Module, uses: Uses | None) -> bool:
    return any(_is_stack(inner, uses) for inner in module.modules())


def _is_stack(module: nn.Module, uses: Uses | None) -> bool:
    """Whether a module is a container of similar blocks that feed each other, as far as traced."""
    if type(module) not in _CONTAINERS:
        return False
    blocks = [child for child in module.children() if _is_block(child)]
    return any(_are_alike(one, other) and _follow(one, other, uses) for one, other in pairwise(blocks))


def _are_alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules have the same class and share at least half of their parameter names."""
    names, others = ({name for name, _ in module.named_parameters()} for module in (one, other))
    return type(one) is type(other) and 2 * len(names & others) >= len(names | others)


def _follow(one: nn.Module, other: nn.Module, uses: Uses | None) -> bool:
    """Whether one of two modules feeds the other; True if it is not known."""
    held, others = list(one.parameters()), list(other.parameters())
    if uses is None or uses.first(held) is None or uses.first(others) is None:
        return True
    return uses.feed(held, others) or uses.feed(others, held)


def _is_one_layer(module: nn.Module) -> bool:
    """Whether a container has at most one item with parameters that is no norm."""
    return sum(_has_parameters(child) and not is_norm(child) for child in module.children()) <= 1


def _is_block(module: nn.Module) -> bool:
    return _has_parameters(module) and any(True for _ in module.children())


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
