"""Why rules and parameters do not meet, in words that lead to the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from lrflow.errors import Problem, nearest
from lrflow.layers.inventory import Entry
from lrflow.layers.rules import SELECTORS, Rule, as_tuple
from lrflow.layers.selection import has_kind, has_ndim, has_type, is_type, selects


def abbreviated(names: Sequence[str], most: int = 6) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def explain_unmatched(entries: Sequence[Entry], key: str) -> Problem:
    """The problem of parameters that no rule selects."""
    names = abbreviated([entry.name for entry in entries])
    count = "1 trainable parameter matches" if len(entries) == 1 else f"{len(entries)} trainable parameters match"
    return Problem(key, f"{count} no rule: {names}", ..., 'add {name: rest, match: "*"} as the last rule')


def explain_empty(
    model: nn.Module, entries: Sequence[Entry], rules: Sequence[Rule], claims: Sequence[Sequence[Entry]], key: str
) -> Iterable[Problem]:
    """The problems of rules that claimed nothing, and of misspelt patterns and classes in rules that did."""
    if not entries:
        return
    for index, rule in enumerate(rules):
        dead = [*_dead_selectors(model, entries, rule, f"{key}[{index}]", whole=not claims[index])]
        yield from dead
        if not claims[index] and not dead:
            yield _unclaimed(entries, rules, claims, index, f"{key}[{index}]")


def _dead_selectors(model: nn.Module, entries: Sequence[Entry], rule: Rule, key: str, whole: bool) -> Iterable[Problem]:
    names = [place.name for entry in entries for place in entry.places]
    for text, pattern in rule.patterns:
        if not any(pattern.fullmatch(name) for name in names):
            message = f"matches none of the {len(names)} parameter names"
            yield Problem(f"{key}.match", message, text, nearest_names(text, names))
    for name in as_tuple(rule.type):
        absent = not any(is_type(place.holder, name) for entry in entries for place in entry.places)
        if absent and (whole or not _known_type(model, name)):
            yield _dead_type(model, entries, name, key)
    if whole and rule.ndim is not None and not any(has_ndim(rule, entry) for entry in entries):
        known = sorted({entry.parameter.ndim for entry in entries})
        hint = f"the model's parameters have {', '.join(map(str, known))}"
        yield Problem(f"{key}.ndim", "no parameter has so many dimensions", _shown(rule.ndim), hint)
    if whole and rule.select is not None and not any(has_kind(rule, entry) for entry in entries):
        known_kinds = sorted(set().union(*(entry.kinds for entry in entries)))
        hint = f"the model has {', '.join(known_kinds) or 'none of the kinds'}"
        yield Problem(f"{key}.select", "the model has no such parameter", _shown(rule.select), hint)


def nearest_names(text: str, names: Sequence[str]) -> str:
    """A hint from the names and the paths of modules, as globs: `hed.*` is near `head.*`."""
    paths = {name[:dot]: None for name in names for dot, letter in enumerate(name) if letter == "."}
    if text in paths:
        return f"{text} is a module; its parameters are {text}.*"
    close = nearest(text.removeprefix("re:").replace("\\", ""), [*(f"{path}.*" for path in paths), *names])
    if close:
        return f"nearest: {', '.join(close)}"
    return f"the names are {abbreviated(list(names))}"


def _known_type(model: nn.Module, name: str) -> bool:
    """Whether the class exists as far as one can tell, so that it is no misspelling of another in its list."""
    return hasattr(nn, name.rpartition(".")[2]) or any(is_type(module, name) for module in model.modules())


def _dead_type(model: nn.Module, entries: Sequence[Entry], name: str, key: str) -> Problem:
    holders = sorted({type(place.holder).__name__ for entry in entries for place in entry.places})
    empty = [path for path, module in model.named_modules() if is_type(module, name) and path]
    if empty:
        hint = f'match: "{empty[0]}.*" selects what lies inside it'
        return Problem(f"{key}.type", "holds no parameters itself, only through modules inside it", name, hint)
    close = nearest(name.rpartition(".")[2], holders)
    hint = f"nearest: {', '.join(close)}" if close else f"parameters are held by {abbreviated(holders)}"
    return Problem(f"{key}.type", "no module of this class holds a parameter", name, hint)


def _unclaimed(
    entries: Sequence[Entry], rules: Sequence[Rule], claims: Sequence[Sequence[Entry]], index: int, key: str
) -> Problem:
    rule = rules[index]
    selected = [entry for entry in entries if selects(rule, entry)]
    given = [selector for selector in SELECTORS if getattr(rule, selector) is not None]
    value = _shown(getattr(rule, given[0])) if len(given) == 1 else ...
    if not selected and not given:
        return Problem(key, "selects parameters that are none of the model's")
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
        names = abbreviated([entry.name for entry in selected])
        return Problem(where, f"selects only parameters that the model has frozen: {names}", value, "remove the rule")
    earlier = [
        other.name
        for other, claim in zip(rules[:index], claims, strict=False)
        if any(entry in claim for entry in selected)
    ]
    message = f"everything it selects was claimed by earlier rules: {', '.join(earlier)}"
    return Problem(where, message, value, "the first rule that matches wins: move this one up or remove it")


def _shown(value: object) -> object:
    entries = as_tuple(value)
    return entries[0] if len(entries) == 1 else list(entries)
