"""Groups: the parameters that each rule claimed, with nothing left over and nothing twice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from lrflow.errors import ConfigError, Problem
from lrflow.layers.explain import abbreviated, explain_empty, explain_unmatched
from lrflow.layers.inventory import Entry, inventory
from lrflow.layers.rules import Rule
from lrflow.layers.selection import selects
from lrflow.schedules import Curve


@dataclass(frozen=True, eq=False)
class Group:
    """Parameters that train alike.

    Args:
        name: the rule's name, or `frozen` for what the model itself keeps from training.
        parameters: (dotted name, parameter), in the order of the model; a tied parameter under its first name.
        lr: peak LR; 0 for a frozen group.
        scale: `lr` as a multiple of the run's peak LR.
        weight_decay: None: the optimizer's.
        schedule: the group's own; None: the run's.
        frozen: whether it does not train.
    """

    name: str
    parameters: tuple[tuple[str, nn.Parameter], ...]
    lr: float
    scale: float
    weight_decay: float | None = None
    schedule: Curve | None = None
    frozen: bool = False

    @property
    def tensors(self) -> int:
        """How many tensors it holds."""
        return len(self.parameters)

    @property
    def numel(self) -> int:
        """How many numbers its tensors hold together."""
        return sum(parameter.numel() for _, parameter in self.parameters)


def resolve(
    model: nn.Module,
    rules: Sequence[Rule],
    lr: float,
    weight_decay: float | None = None,
    key: str = "layers.rules",
) -> list[Group]:
    """Sorts a model's parameters into groups, each into exactly one.

    The first rule that selects a parameter claims it; a tied parameter counts once and is selected by any
    of its names. Parameters that the model keeps from training (`requires_grad=False`) are claimed by rules
    that freeze, and what remains of them is listed as the group `frozen`. A rule that freezes sets
    `requires_grad` to False, once everything has been checked.

    Args:
        model: any module.
        rules: in order.
        lr: the run's peak LR.
        weight_decay: for groups whose rule sets none; None: leave it to the optimizer.
        key: where the rules stand in the config.

    Returns:
        The groups in the order of the rules.

    Raises:
        ConfigError: all problems: parameters that no rule selects, rules that claim nothing and why, names
            given twice, nothing left to train.
    """
    entries = inventory(model)
    _refuse_shapeless(entries)
    problems = [*_check_inputs(entries, rules, lr, key)]
    claims: list[list[Entry]] = [[] for _ in rules]
    frozen: list[Entry] = []
    unmatched: list[Entry] = []
    for entry in entries:
        index = next((i for i, rule in enumerate(rules) if _claims(rule, entry)), None)
        if index is not None:
            claims[index].append(entry)
        else:
            (unmatched if entry.trainable else frozen).append(entry)

    problems += explain_empty(model, entries, rules, claims, key)
    if unmatched:
        problems.append(explain_unmatched(unmatched, key))
    trainable = [entry for rule, claim in zip(rules, claims, strict=True) if not rule.freeze for entry in claim]
    if entries and not trainable and not unmatched:
        problems.append(Problem(key, "every parameter is frozen, so there is nothing to train"))
    if problems:
        raise ConfigError(problems)

    groups = []
    for rule, claim in zip(rules, claims, strict=True):
        if rule.name == "frozen":
            claim = [*claim, *frozen]
            frozen = []
        groups.append(_group(rule, claim, lr, weight_decay))
    if frozen:
        groups.append(Group("frozen", _named(frozen), lr=0.0, scale=0.0, frozen=True))
    return groups


def merge(groups: Iterable[Group]) -> list[list[Group]]:
    """Trainable groups whose LR, weight decay and schedule are equal, together.

    An optimizer steps a few large groups many times faster than many small ones; names and accounting stay
    with the groups.

    Returns:
        Lists of groups, in the order in which each first appears; frozen groups are left out.
    """
    merged: dict[tuple[float, float | None, Curve | None], list[Group]] = {}
    for group in groups:
        if not group.frozen:
            merged.setdefault((group.lr, group.weight_decay, group.schedule), []).append(group)
    return list(merged.values())


def _claims(rule: Rule, entry: Entry) -> bool:
    return (entry.trainable or rule.freeze) and selects(rule, entry)


def _group(rule: Rule, claim: list[Entry], lr: float, weight_decay: float | None) -> Group:
    if rule.freeze:
        for entry in claim:
            entry.parameter.requires_grad_(False)
        return Group(rule.name, _named(claim), lr=0.0, scale=0.0, frozen=True)
    decay = weight_decay if rule.weight_decay is None else rule.weight_decay
    return Group(rule.name, _named(claim), rule.peak(lr), rule.scale(lr), decay, rule.schedule)


def _named(entries: Iterable[Entry]) -> tuple[tuple[str, nn.Parameter], ...]:
    return tuple((entry.name, entry.parameter) for entry in entries)


def _refuse_shapeless(entries: Sequence[Entry]) -> None:
    lazy = [entry.name for entry in entries if nn.parameter.is_lazy(entry.parameter)]
    if lazy:
        hint = "run one batch through the model before it is handed over"
        message = f"lazy modules whose parameters have no shape yet: {abbreviated(lazy)}"
        raise ConfigError([Problem("model", message, ..., hint)])


def _check_inputs(entries: list[Entry], rules: Sequence[Rule], lr: float, key: str) -> Iterable[Problem]:
    if not (math.isfinite(lr) and lr > 0):
        yield Problem("optimizer.lr", "expected a positive number", lr)
    if not entries:
        yield Problem("model", "the model has no parameters")
    first: dict[str, int] = {}
    for index, rule in enumerate(rules):
        if rule.name in first:
            yield Problem(f"{key}[{index}].name", f"already the name of {key}[{first[rule.name]}]", rule.name)
        first.setdefault(rule.name, index)
