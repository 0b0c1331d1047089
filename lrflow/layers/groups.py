"""Groups of parameters: `resolve` assigns each parameter to one rule and explains rules that match nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lrflow.errors import ConfigError, Problem, did_you_mean, nearest
from lrflow.layers.parameters import Entry, Parameters
from lrflow.layers.rules import SELECTORS, Rule, as_tuple, has_kind, has_ndim, has_type, is_type, selects
from lrflow.schedules import Curve, Duration, FrozenAfter, OwnSteps, Unfreezing
from lrflow.wording import joined

_AT_ONCE = Duration(0, "steps")


@dataclass(frozen=True, eq=False)
class Group:
    """Parameters that are trained with the same settings.

    Args:
        name: the rule's name, or `frozen` for parameters that the model itself has frozen.
        parameters: (dotted name, parameter), in the order of the model; a tied parameter under its first name.
        lr: peak LR; 0 for a frozen group.
        scale: `lr` as a multiple of the peak LR of the group's optimizer.
        weight_decay: the group's own; None: the optimizer's.
        schedule: the group's own; None: the run's.
        frozen: whether it is not trained.
        route: the route of its optimizer; None: the main one.
        unfreeze: a duration, for which it is frozen; None: it trains from the first step on.
        unfreeze_warmup: a duration, in which its LR then rises to its schedule.
        freeze_after: a duration, after which it is frozen; None: it trains to the end.
        freeze_statistics: whether its batch norms keep their running statistics while it is frozen.
        depth: number of layers below its layer; None: it belongs to no layer.
        apart: whether the optimizer keeps a parameter group for it alone, since it may differ in other settings.
        every: steps of the run per step of its optimizer.
        settings: (name, value) of other settings of its optimizer that are its own, by name.
        batch: how its LR follows a batch that changes over the run: the rule, and the batch for which `lr` is; None: it
            does not.
    """

    name: str
    parameters: tuple[tuple[str, nn.Parameter], ...]
    lr: float
    scale: float
    weight_decay: float | None = None
    schedule: Curve | None = None
    frozen: bool = False
    route: str | None = None
    unfreeze: Duration | None = None
    unfreeze_warmup: Duration = _AT_ONCE
    freeze_statistics: bool = True
    depth: int | None = None
    apart: bool = False
    every: int = 1
    freeze_after: Duration | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    batch: tuple[str, int] | None = None

    def curve(self, schedule: Curve) -> Curve:
        """Return the curve of the group in a run under `schedule`."""
        own = self.schedule or schedule
        own = OwnSteps(own, self.every) if self.every > 1 else own
        own = own if self.unfreeze is None else Unfreezing(own, self.unfreeze, self.unfreeze_warmup)
        return own if self.freeze_after is None else FrozenAfter(own, self.freeze_after)

    @property
    def tensors(self) -> int:
        """The number of its tensors."""
        return len(self.parameters)

    @property
    def numel(self) -> int:
        """The number of elements of its tensors."""
        return sum(parameter.numel() for _, parameter in self.parameters)


def resolve(
    model: nn.Module | Parameters,
    rules: Sequence[Rule],
    lr: float,
    weight_decay: float | None = None,
    key: str = "layers.rules",
    routes: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Group]:
    """Assign each of a model's parameters to exactly one group.

    The first rule that selects a parameter claims it; a tied parameter counts once and is selected by any of its names.
    Parameters that the model has frozen (`requires_grad=False`) are claimed only by rules that freeze; the rest of them
    form the group `frozen`. A rule that freezes sets `requires_grad` to False, after everything has been checked.

    Args:
        model: any module, or its parameters.
        rules: the rules in order.
        lr: the run's peak LR.
        weight_decay: for groups whose rule sets none; None: the optimizer's.
        key: the key of the rules in the config.
        routes: for each other optimizer, by its route, the peak `lr` and, if it has one, the `weight_decay`.

    Returns:
        The groups in the order of the rules.

    Raises:
        ConfigError: lists all problems: parameters that no rule selects, rules that claim nothing and why, repeated
            names, no parameter left to train.
    """
    held = Parameters.of(model)
    entries = held.entries
    check_initialised(entries)
    main = {"lr": lr, "weight_decay": weight_decay}
    optimizers: dict[str | None, Mapping[str, Any]] = {None: main} | dict(routes or {})
    problems = [*_check_inputs(entries, rules, optimizers, key)]
    claims: list[list[Entry]] = [[] for _ in rules]
    frozen: list[Entry] = []
    unmatched: list[Entry] = []
    for entry in entries:
        index = next((i for i, rule in enumerate(rules) if _is_claimed_by(rule, entry)), None)
        if index is not None:
            claims[index].append(entry)
        else:
            (unmatched if entry.trainable else frozen).append(entry)

    problems += explain_empty(held.model, entries, rules, claims, key)
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
        if claim:
            groups.append(_group(rule, claim, optimizers[rule.route]))
    if frozen:
        # The batch norms of layers that the model froze itself are left as the model has them.
        groups.append(Group("frozen", _named(frozen), lr=0.0, scale=0.0, frozen=True, freeze_statistics=False))
    return groups


def merge(groups: Iterable[Group]) -> list[list[Group]]:
    """Return lists of trainable groups with equal optimizer, LR, other settings, schedule and freezing.

    An optimizer steps a few large parameter groups many times faster than many small ones. Names and accounting stay
    with the groups.

    Returns:
        Lists of groups in the order of their first members, those of the main optimizer first; frozen groups are left
        out.
    """
    merged: dict[tuple[object, ...], list[Group]] = {}
    for group in groups:
        if not group.frozen:
            freezing = (group.unfreeze, group.unfreeze_warmup, group.freeze_after)
            alone = group.name if group.apart else None
            alike = (group.route, group.lr, group.weight_decay, group.settings, group.schedule, *freezing, alone)
            merged.setdefault(alike, []).append(group)
    routes = list(dict.fromkeys([None, *(members[0].route for members in merged.values())]))
    return sorted(merged.values(), key=lambda members: routes.index(members[0].route))


def behind(front: Sequence[Rule], made: Sequence[Rule], parameters: Parameters) -> list[Rule]:
    """Return both lists of rules as one, without the made rules that are left with no parameter.

    Args:
        front: rules of the config, which claim parameters first.
        made: rules of a rule maker.
        parameters: of the model.

    Raises:
        ConfigError: a rule of the config has the name of a made one.
    """
    taken = {entry for entry in parameters.entries if any(_is_claimed_by(rule, entry) for rule in front)}
    kept = []
    for rule in made:
        selected = [entry for entry in parameters.entries if front and _is_claimed_by(rule, entry)]
        if not selected or not taken.issuperset(selected):
            kept.append(rule)
    names = {rule.name for rule in kept}
    if problems := [
        Problem(f"layers.rules[{index}].name", "is the name of a group that the rule maker makes", rule.name)
        for index, rule in enumerate(front)
        if rule.name in names
    ]:
        raise ConfigError(problems)
    return [*front, *kept]


def _is_claimed_by(rule: Rule, entry: Entry) -> bool:
    return (entry.trainable or rule.freeze) and selects(rule, entry)


def _group(rule: Rule, claim: list[Entry], optimizer: Mapping[str, Any]) -> Group:
    if rule.freeze:
        for entry in claim:
            entry.parameter.requires_grad_(False)
        return Group(rule.name, _named(claim), lr=0.0, scale=0.0, frozen=True, freeze_statistics=rule.freeze_statistics)
    lr = optimizer["lr"]
    return Group(
        rule.name,
        _named(claim),
        lr=rule.peak(lr),
        scale=rule.scale(lr),
        weight_decay=optimizer.get("weight_decay") if rule.weight_decay is None else rule.weight_decay,
        schedule=rule.schedule,
        route=rule.route,
        unfreeze=None if rule.unfreeze is None else Duration.parse(rule.unfreeze),
        unfreeze_warmup=Duration.parse(rule.unfreeze_warmup),
        freeze_after=None if rule.freeze_after is None else Duration.parse(rule.freeze_after),
        freeze_statistics=rule.freeze_statistics,
        depth=rule.depth,
        settings=tuple(sorted((name, _hashable(value)) for name, value in rule.settings.items())),
    )


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _named(entries: Iterable[Entry]) -> tuple[tuple[str, nn.Parameter], ...]:
    return tuple((entry.name, entry.parameter) for entry in entries)


def check_initialised(entries: Sequence[Entry]) -> None:
    """Raise if parameters have no shape yet.

    Raises:
        ConfigError: names the parameters.
    """
    lazy = [entry.name for entry in entries if nn.parameter.is_lazy(entry.parameter)]
    if lazy:
        hint = "run one batch through the model before you pass it to lrflow"
        message = f"lazy modules whose parameters have no shape yet: {joined(lazy, 7)}"
        raise ConfigError([Problem("model", message, ..., hint)])


def _check_inputs(
    entries: Sequence[Entry], rules: Sequence[Rule], optimizers: Mapping[Any, Mapping[str, Any]], key: str
) -> Iterable[Problem]:
    for route, optimizer in optimizers.items():
        if not (math.isfinite(optimizer["lr"]) and optimizer["lr"] > 0):
            where = "optimizer.lr" if route is None else f"optimizer.routes.{route}.lr"
            yield Problem(where, "expected a positive number", optimizer["lr"])
    if not entries:
        yield Problem("model", "the model has no parameters")
    first: dict[str, int] = {}
    for index, rule in enumerate(rules):
        if rule.name in first:
            yield Problem(f"{key}[{index}].name", f"already the name of {key}[{first[rule.name]}]", rule.name)
        first.setdefault(rule.name, index)
        if rule.route not in optimizers:
            hint = did_you_mean(str(rule.route), [name for name in optimizers if name])
            yield Problem(f"{key}[{index}].route", "there is no such route", rule.route, hint)


def explain_unmatched(entries: Sequence[Entry], key: str) -> Problem:
    """Return the problem of parameters that no rule selects."""
    names = joined([entry.name for entry in entries], 7)
    count = "1 trainable parameter matches" if len(entries) == 1 else f"{len(entries)} trainable parameters match"
    return Problem(key, f"{count} no rule: {names}", ..., 'add {name: rest, match: "*"} as the last rule')


def explain_empty(
    model: nn.Module, entries: Sequence[Entry], rules: Sequence[Rule], claims: Sequence[Sequence[Entry]], key: str
) -> Iterable[Problem]:
    """Yield the problems of rules that claimed nothing, and of misspelt patterns and classes in rules that did."""
    if not entries:
        return
    for index, rule in enumerate(rules):
        if rule.optional:
            continue
        empty = [*_unmatched(model, entries, rule, f"{key}[{index}]", whole=not claims[index])]
        yield from empty
        if not claims[index] and not empty:
            yield _unclaimed(entries, rules, claims, index, f"{key}[{index}]")


def _unmatched(model: nn.Module, entries: Sequence[Entry], rule: Rule, key: str, whole: bool) -> Iterable[Problem]:
    names = [place.name for entry in entries for place in entry.places]
    for text, pattern in rule.patterns:
        if not any(pattern.fullmatch(name) for name in names):
            message = f"matches none of the {len(names)} parameter names"
            yield Problem(f"{key}.match", message, text, nearest_names(text, names))
    for name in as_tuple(rule.type):
        absent = not any(is_type(place.holder, name) for entry in entries for place in entry.places)
        if absent and (whole or not _known_type(model, name)):
            yield _empty_type(model, entries, name, key)
    if whole and rule.ndim is not None and not any(has_ndim(rule, entry) for entry in entries):
        known = sorted({entry.parameter.ndim for entry in entries})
        hint = f"the model's parameters have {', '.join(map(str, known))}"
        yield Problem(f"{key}.ndim", "no parameter has so many dimensions", _one_or_list(rule.ndim), hint)
    if whole and rule.select is not None and not any(has_kind(rule, entry) for entry in entries):
        known_kinds = sorted(set().union(*(entry.kinds for entry in entries)))
        hint = f"the model has {', '.join(known_kinds) or 'none of the kinds'}"
        yield Problem(f"{key}.select", "the model has no such parameter", _one_or_list(rule.select), hint)


def nearest_names(text: str, names: Sequence[str]) -> str:
    """Return a hint with the nearest names and module paths, as globs: `hed.*` is near `head.*`."""
    paths = {name[:dot]: None for name in names for dot, letter in enumerate(name) if letter == "."}
    if text in paths:
        return f"{text} is a module; its parameters are {text}.*"
    close = nearest(text.removeprefix("re:").replace("\\", ""), [*(f"{path}.*" for path in paths), *names])
    if close:
        return f"nearest: {', '.join(close)}"
    return f"the names are {joined(list(names), 7)}"


def _known_type(model: nn.Module, name: str) -> bool:
    """Whether the class seems to exist, so that it is no misspelling of another one in its list."""
    return hasattr(nn, name.rpartition(".")[2]) or any(is_type(module, name) for module in model.modules())


def _empty_type(model: nn.Module, entries: Sequence[Entry], name: str, key: str) -> Problem:
    holders = sorted({type(place.holder).__name__ for entry in entries for place in entry.places})
    empty = [path for path, module in model.named_modules() if is_type(module, name) and path]
    if empty:
        hint = f'match: "{empty[0]}.*" selects what lies inside it'
        return Problem(f"{key}.type", "holds no parameters itself, only its submodules do", name, hint)
    close = nearest(name.rpartition(".")[2], holders)
    hint = f"nearest: {', '.join(close)}" if close else f"parameters are held by {joined(holders, 7)}"
    return Problem(f"{key}.type", "no module of this class holds a parameter", name, hint)


def _unclaimed(
    entries: Sequence[Entry], rules: Sequence[Rule], claims: Sequence[Sequence[Entry]], index: int, key: str
) -> Problem:
    rule = rules[index]
    selected = [entry for entry in entries if selects(rule, entry)]
    given = [selector for selector in SELECTORS if getattr(rule, selector) is not None]
    value = _one_or_list(getattr(rule, given[0])) if len(given) == 1 else ...
    if not selected and not given:
        return Problem(key, "selects parameters that the model does not have")
    if not selected:
        alone = {
            "match": lambda entry: any(rule.matches_name(place.name) for place in entry.places),
            "type": lambda entry: any(has_type(rule, place.holder) for place in entry.places),
            "ndim": lambda entry: has_ndim(rule, entry),
            "select": lambda entry: has_kind(rule, entry),
        }
        counts = ", ".join(f"{name} {sum(map(alone[name], entries))}" for name in given)
        message = f"no parameter satisfies {' and '.join(given)} together"
        return Problem(key, message, ..., f"alone they select: {counts}")
    where = f"{key}.{given[0]}" if len(given) == 1 else key
    trainable = [entry for entry in selected if entry.trainable]
    if not trainable and not rule.freeze:
        names = joined([entry.name for entry in selected], 7)
        return Problem(where, f"selects only parameters that the model has frozen: {names}", value, "remove the rule")
    earlier = [
        other.name
        for other, claim in zip(rules[:index], claims, strict=False)
        if any(entry in claim for entry in selected)
    ]
    message = f"everything it selects was claimed by earlier rules: {', '.join(earlier)}"
    return Problem(where, message, value, "the first rule that matches wins: move this one up or remove it")


def _one_or_list(value: object) -> object:
    entries = as_tuple(value)
    return entries[0] if len(entries) == 1 else list(entries)
