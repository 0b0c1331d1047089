"""Whether a rule selects a parameter."""

from __future__ import annotations

from torch import nn

from lrflow.layers.inventory import Entry
from lrflow.layers.rules import Rule, as_tuple


def selects(rule: Rule, entry: Entry) -> bool:
    """Whether every selector of the rule holds: name and type in one place, ndim and kind of the parameter."""
    return (
        (rule.parameters is None or entry.parameter in rule.parameters)
        and has_ndim(rule, entry)
        and has_kind(rule, entry)
        and any(rule.matches_name(place.name) and has_type(rule, place.holder) for place in entry.places)
    )


def has_ndim(rule: Rule, entry: Entry) -> bool:
    """Whether the rule asks for no number of dimensions, or for this parameter's."""
    return rule.ndim is None or entry.parameter.ndim in as_tuple(rule.ndim)


def has_kind(rule: Rule, entry: Entry) -> bool:
    """Whether the rule selects no kind, or one that this parameter is."""
    return rule.select is None or not entry.kinds.isdisjoint(as_tuple(rule.select))


def has_type(rule: Rule, holder: nn.Module) -> bool:
    """Whether the rule asks for no class, or for one that this module is."""
    return rule.type is None or any(is_type(holder, name) for name in as_tuple(rule.type))


def is_type(module: nn.Module, name: str) -> bool:
    """Whether a module's class, or one of its bases below `nn.Module`, goes by this plain or dotted name."""
    return any(_goes_by(cls, name) for cls in type(module).__mro__ if cls is not nn.Module and cls is not object)


def _goes_by(cls: type, name: str) -> bool:
    package, _, plain = name.rpartition(".")
    if cls.__name__ != plain and cls.__qualname__ != name:
        return False
    # Classes are known by the package that re-exports them: torch.nn.Conv2d lives in torch.nn.modules.conv.
    return not package or f"{cls.__module__}.".startswith(f"{package}.") or cls.__qualname__ == name
