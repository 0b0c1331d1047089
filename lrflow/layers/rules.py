"""Rules, which select parameters and set how they train; and the base class of rule makers."""

from __future__ import annotations

import fnmatch
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.schedules import Curve, Duration, DurationLike
from lrflow.schedules.serialization import ResolveClass, from_spec

if TYPE_CHECKING:  # the schemas import this module without torch
    from torch import nn

    from lrflow.layers.parameters import Entry, Parameters

SELECTS = ("bias", "norm", "vector", "embedding", "matrix")
UNDECAYED = ("bias", "norm", "vector")
"""The kinds that `no_decay` excludes from weight decay, as timm and BEiT do."""
SELECTORS = ("match", "type", "ndim", "select")
OWN_FIELDS = ("lr", "weight_decay")
"""Settings of an optimizer that are fields of a rule."""

Table = Literal["adam", "sgd"]
"""The updates for which muP has a table of LRs; the traits of an optimizer name the one that it shares."""


@dataclass(frozen=True)
class Multiple:
    """An LR as a multiple of the peak of its optimizer; `10x` in a config."""

    factor: float

    def __str__(self) -> str:
        return f"{self.factor!r}x"


@dataclass(frozen=True)
class Rule:
    """A rule: selects the parameters of a group and sets how the group trains.

    A parameter belongs to the first rule that selects it. All given selectors must match; a list of values matches if
    any of them does.

    Args:
        name: the group's name in tables, logs and plots.
        match: globs over dotted parameter names (`head.*`; case-sensitive, `*` also matches dots), or regular
            expressions marked `re:`; both match the whole name.
        type: class of the module that holds the parameter, or one of its base classes, by plain (`Conv2d`) or dotted
            name (`torch.nn.Conv2d`).
        ndim: number of dimensions of the parameter.
        select: one of

            - `bias`: named `bias`, `*_bias` or `bias_*`;
            - `norm`: held by a normalisation layer of torch, or by a class whose name ends in `Norm`
              or `Norm1d`, `Norm2d`, `Norm3d`;
            - `vector`: one dimension or none, such as biases, gains of norms and the scales of LayerScale;
            - `embedding`: held by `nn.Embedding` or `nn.EmbeddingBag`;
            - `matrix`: two or more dimensions and none of the above. This includes convolution kernels and positional
              tables held as a bare `nn.Parameter`, which cannot be told apart from weights.

            A tied parameter has the kinds of all its places: an embedding tied to an output layer is an `embedding`,
            not a `matrix`.
        parameters: the parameters themselves; for rules made in code, not in a config.
        lr: the group's peak LR, absolute (`1e-4`) or as a multiple of the peak (`10x`, `0.1x`); None: the peak. Stored
            as a number or a `Multiple`.
        weight_decay: the group's weight decay; None: the optimizer's.
        schedule: the group's own; None: the run's.
        freeze: whether the group is not trained.
        route: the route of another optimizer (`optimizer.routes.NAME`), whose peak LR multiples then refer to and whose
            weight decay is the default; None: the main optimizer.
        unfreeze: a duration, for which the group is frozen: no gradient, no weight decay, no momentum, an LR of 0.
        unfreeze_warmup: a duration after it, in which the LR rises linearly to the schedule.
        freeze_after: a duration, after which the group is frozen for the rest of the run.
        freeze_statistics: whether batch norms whose parameters are all frozen use and keep their running statistics;
            False: they update them as in training.
        settings: other settings of the group's optimizer, such as `{"betas": (0.9, 0.95), "eps": 1e-10}`.
        optional: whether the rule, and each entry of its lists, may match nothing.
        depth: number of layers below the group's layer, if the rule was made for a layer; only shown in tables.

    Raises:
        ConfigError: lists every invalid field; keys are relative to the rule (`lr`).
    """

    name: str
    match: str | Sequence[str] | None = None
    type: str | Sequence[str] | None = None
    ndim: int | Sequence[int] | None = None
    select: str | Sequence[str] | None = None
    lr: float | str | Multiple | None = None
    weight_decay: float | None = None
    schedule: Curve | None = None
    freeze: bool = False
    route: str | None = None
    unfreeze: DurationLike | None = None
    unfreeze_warmup: DurationLike = 0
    freeze_statistics: bool = True
    depth: int | None = None
    freeze_after: DurationLike | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    optional: bool = False
    parameters: Iterable[nn.Parameter] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        problems = [*self._check_name(), *self._check_selectors(), *self._check_settings()]
        if problems:
            raise ConfigError(problems)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, object],
        key: str = "layers.rules[0]",
        resolve: ResolveClass | None = None,
    ) -> Rule:
        """Read one rule of a config.

        Args:
            config: the rule's fields in plain containers; `schedule` as a mapping such as those in conf/schedule.
            key: the rule's key; the key of every problem starts with it.
            resolve: maps the `_target_`s of a schedule to their classes; by default lrflow's schedules only.

        Raises:
            ConfigError: lists every problem of the rule.
        """
        if not isinstance(config, Mapping):
            message = "a rule is a mapping such as {name: head, match: 'head.*', lr: 10x}"
            raise ConfigError([Problem(key, message, config)])
        known = [one.name for one in fields(cls) if one.name != "parameters"]
        given: dict[str, Any] = {"name": "", **config}
        problems = [
            Problem(f"{key}.{name}", "a rule has no such field", given.pop(name), did_you_mean(str(name), known))
            for name in config
            if name not in known
        ]
        if isinstance(spec := given.get("schedule"), Mapping):
            del given["schedule"]
            try:
                given["schedule"] = from_spec(spec, f"{key}.schedule", resolve)
            except ConfigError as error:
                problems += error.problems
        try:
            rule = cls(**given)
        except ConfigError as error:
            problems += [replace(problem, key=f"{key}.{problem.key}") for problem in error.problems]
        if problems:
            raise ConfigError(problems)
        return rule

    @cached_property
    def patterns(self) -> tuple[tuple[str, re.Pattern[str]], ...]:
        """Each entry of `match` as written, and compiled; globs and `re:` entries match the whole name."""
        return tuple((text, compile_pattern(text)) for text in as_tuple(self.match))

    def matches_name(self, name: str) -> bool:
        """Whether `match` is absent or matches this dotted parameter name."""
        return self.match is None or any(pattern.fullmatch(name) for _, pattern in self.patterns)

    def peak(self, base: float) -> float:
        """Return the group's peak LR if the run's is `base`."""
        if isinstance(self.lr, Multiple):
            return self.lr.factor * base
        return base if self.lr is None else float(self.lr)

    def scale(self, base: float) -> float:
        """Return the group's peak LR as a multiple of the run's peak `base`."""
        if isinstance(self.lr, Multiple):
            return self.lr.factor
        return 1.0 if self.lr is None else float(self.lr) / base

    def _check_name(self) -> Iterable[Problem]:
        if not isinstance(self.name, str) or not self.name.strip():
            yield Problem("name", "a rule needs a name, for its group in tables and logs", self.name or ...)
        elif self.name == "frozen" and not self.freeze:
            yield Problem("name", "is reserved for parameters that do not train", self.name, "choose another name")

    def _check_selectors(self) -> Iterable[Problem]:
        if self.parameters is not None:
            object.__setattr__(self, "parameters", frozenset(self.parameters))
            if not self.parameters:
                yield Problem("parameters", "an empty list selects nothing")
        if all(getattr(self, selector) is None for selector in (*SELECTORS, "parameters")):
            hint = "match: '*' selects every parameter that no earlier rule claimed"
            yield Problem("match", "a rule needs one of match, type, ndim and select", ..., hint)
        for selector, kind in (("match", str), ("type", str), ("ndim", int), ("select", str)):
            value = getattr(self, selector)
            if value is None:
                continue
            entries = as_tuple(value)
            object.__setattr__(self, selector, entries)
            if not entries:
                yield Problem(selector, "an empty list selects nothing", value)
            for entry in entries:
                if not isinstance(entry, kind) or isinstance(entry, bool) or entry == "":
                    expected = "a whole number" if kind is int else "text"
                    yield Problem(selector, f"expected {expected} or a list of it", value)
                else:
                    yield from _check_entry(selector, entry)

    def _check_settings(self) -> Iterable[Problem]:
        yield from self._check_freezing()
        if self.freeze is True:
            for setting in ("lr", "weight_decay", "schedule", "route", "unfreeze", "freeze_after", "settings"):
                if getattr(self, setting) not in (None, {}):
                    hint = "remove it, or remove freeze"
                    yield Problem(setting, "a frozen group does not train", _shown(getattr(self, setting)), hint)
            return
        if self.lr is not None:
            yield from self._check_lr()
        if self.weight_decay is not None:
            decay = number(self.weight_decay)
            if decay is None or decay < 0:
                yield Problem("weight_decay", "expected a number that is zero or more", self.weight_decay)
            else:
                object.__setattr__(self, "weight_decay", decay)
        if self.schedule is not None and not isinstance(self.schedule, Curve):
            yield Problem("schedule", "expected a schedule such as those in conf/schedule", self.schedule)
        if self.route is not None and (not isinstance(self.route, str) or not self.route.strip()):
            yield Problem("route", "expected the name of a route, one of optimizer.routes", self.route)
        yield from self._check_own()

    def _check_own(self) -> Iterable[Problem]:
        if not isinstance(self.settings, Mapping):
            message = "expected settings of the optimizer, such as {betas: [0.9, 0.95], eps: 1e-10}"
            yield Problem("settings", message, self.settings)
            return
        for name, value in self.settings.items():
            if name in OWN_FIELDS:
                yield Problem(f"settings.{name}", f"a rule has a field for it: {name}: {value}", value)

    def _check_freezing(self) -> Iterable[Problem]:
        for switch in ("freeze", "freeze_statistics", "optional"):
            if not isinstance(getattr(self, switch), bool):
                yield Problem(switch, "expected true or false", getattr(self, switch))
        for name in ("unfreeze", "unfreeze_warmup", "freeze_after"):
            if (given := getattr(self, name)) is not None:
                try:
                    object.__setattr__(self, name, Duration.parse(given))
                except ValueError as error:
                    yield Problem(name, str(error), given)
        if isinstance(self.freeze_after, Duration) and not self.freeze_after.value:
            hint = "freeze: true keeps parameters from training"
            yield Problem("freeze_after", "expected a duration above 0", str(self.freeze_after), hint)
        if self.unfreeze is None:
            if self.unfreeze_warmup != Duration(0, "steps"):
                hint = "add unfreeze, or give the group a schedule with a warmup"
                yield Problem("unfreeze_warmup", "the group is never unfrozen", str(self.unfreeze_warmup), hint)
            if self.freeze_statistics is False and not self.freeze and self.freeze_after is None:
                yield Problem("freeze_statistics", "the group is not frozen", False, "remove it, or freeze the group")

    def _check_lr(self) -> Iterable[Problem]:
        lr = self.lr
        relative = isinstance(lr, Multiple) or (isinstance(lr, str) and lr.strip().lower().endswith("x"))
        value = number(lr.factor if isinstance(lr, Multiple) else lr.strip()[:-1] if relative else lr)  # type: ignore[union-attr]
        if value is None or value <= 0:
            hint = "freeze: true keeps parameters from training" if value == 0 else None
            yield Problem("lr", "expected a positive number (1e-4) or a multiple of the peak (10x)", lr, hint)
        else:
            object.__setattr__(self, "lr", Multiple(value) if relative else value)


def _shown(value: object) -> object:
    return str(value) if isinstance(value, Duration) else value


def as_tuple(value: object) -> tuple:
    """Return a value or a list of values as a tuple, None as an empty one."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


def compile_pattern(text: str) -> re.Pattern[str]:
    """Compile a glob, or a regular expression marked `re:`, for `fullmatch`."""
    return re.compile(text[3:] if text.startswith("re:") else fnmatch.translate(text))


def check_patterns(patterns: object, key: str) -> list[Problem]:
    """Return a problem for each entry, or the only one, that is no glob and no regular expression."""
    problems = []
    for entry in as_tuple(patterns):
        if not isinstance(entry, str) or not entry:
            problems.append(Problem(key, "expected text or a list of it", entry))
        else:
            problems += [replace(problem, key=key) for problem in _check_entry("match", entry)]
    return problems


def _check_entry(selector: str, entry: object) -> Iterable[Problem]:
    if selector == "match":
        try:
            compile_pattern(str(entry))
        except re.error as error:
            yield Problem("match", f"not a regular expression: {error}", entry)
    elif selector == "select" and entry not in SELECTS:
        yield Problem("select", "no such kind of parameter", entry, did_you_mean(str(entry), SELECTS))
    elif selector == "ndim" and isinstance(entry, int) and entry < 0:
        yield Problem("ndim", "expected zero or more", entry)


def number(value: object) -> float | None:
    """Return a finite number, also from text (YAML 1.1 reads 1e-3 as text); None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def selects(rule: Rule, entry: Entry) -> bool:
    """Whether every selector of the rule matches: name and type in the same place, ndim and kind."""
    return (
        (rule.parameters is None or entry.parameter in rule.parameters)
        and has_ndim(rule, entry)
        and has_kind(rule, entry)
        and any(rule.matches_name(place.name) and has_type(rule, place.holder) for place in entry.places)
    )


def has_ndim(rule: Rule, entry: Entry) -> bool:
    """Whether the rule has no `ndim`, or one that this parameter has."""
    return rule.ndim is None or entry.parameter.ndim in as_tuple(rule.ndim)


def has_kind(rule: Rule, entry: Entry) -> bool:
    """Whether the rule has no `select`, or a kind that this parameter has."""
    return rule.select is None or not entry.kinds.isdisjoint(as_tuple(rule.select))


def has_type(rule: Rule, holder: nn.Module) -> bool:
    """Whether the rule has no `type`, or one that this module has."""
    return rule.type is None or any(is_type(holder, name) for name in as_tuple(rule.type))


def is_type(module: nn.Module, name: str) -> bool:
    """Whether a module's class, or one of its bases below `nn.Module`, has this plain or dotted name."""
    from torch import nn  # here, since it imports torch

    return any(_goes_by(cls, name) for cls in type(module).__mro__ if cls is not nn.Module and cls is not object)


def _goes_by(cls: type, name: str) -> bool:
    package, _, plain = name.rpartition(".")
    if cls.__name__ != plain and cls.__qualname__ != name:
        return False
    # A class is known by the package that re-exports it: torch.nn.Conv2d is defined in torch.nn.modules.conv.
    return not package or f"{cls.__module__}.".startswith(f"{package}.") or cls.__qualname__ == name


class RuleMaker(ABC):
    """Makes rules from the parameters of a model; they select parameters by `Rule(parameters=...)`.

    A custom rule maker only needs a method `rules(model)` that returns a list of `Rule`.
    """

    follows_use: ClassVar[bool] = False
    """Whether the rules depend on the order in which the model uses its parameters."""

    def rules(self, model: nn.Module) -> list[Rule]:
        """Return the rules for a model, without a traced forward pass."""
        from lrflow.layers.parameters import Parameters  # here, since it imports torch

        return self.rules_of(Parameters.of(model))

    @abstractmethod
    def rules_of(self, parameters: Parameters) -> list[Rule]:
        """Return the rules for the parameters of a model."""
