"""muP: LRs under which the best peak is the same at every width."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from lrflow.errors import ConfigError, Problem, did_you_mean, nearest
from lrflow.layers.explain import abbreviated
from lrflow.layers.groups import refuse_shapeless
from lrflow.layers.inventory import Entry, Parameters, inventory
from lrflow.layers.rules import Multiple, Rule
from lrflow.layers.widths import ROLES, UnclearError, Width, width_of

Table = Literal["adam", "sgd"]
TOLD = ("input", "hidden", "output")  # roles that a user may give


@dataclass(frozen=True)
class MuP:
    """LRs by the width of each parameter: the maximal update parametrization (Yang et al., 2022, arXiv 2203.03466).

    A narrower instance of the model is the base, for which the LRs of the config are right. A wider instance of it
    shows which dimensions of its parameters are widths. With r_in and r_out, the ratios of the fan-in and fan-out of
    the model to those of the base (1 where they are no width), the LR of a parameter is the peak times

    - `adam`: 1 / r_in;
    - `sgd`: r_out / r_in.

    This is the table of that paper that needs no multipliers in the forward pass (its Table 3), for layers that may
    grow by different ratios (Yang, Simon and Bernstein, 2023, arXiv 2310.17813, who derive both rules from the
    spectral norm of an update). Output weights have to start smaller than others by another sqrt(r_in); they start at
    zero instead, which is right at every width and whatever the model's own initialisation (section D.2 of the paper).

    Weight decay that the optimizer multiplies by the LR is divided by the factor, so that LR x decay stays what it is
    in the base model (as the paper's own package has it; Kosson et al., 2025, arXiv 2510.19093, on why).

    Args:
        base: arguments of the model that make it narrower, such as `{widths: [64, 64]}`.
        wider: arguments that make the base wider, in every width; None: the whole numbers in `base`, doubled.
        optimizer: whose table to take, `adam` or `sgd`; auto: known from the optimizer's class.
        readout: `zero`: output weights start at zero; `keep`: as the model has them, for weights that were trained.
        roles: `input`, `hidden` ([out, in]) or `output`, by globs over the names of parameters of which the class that
            holds them does not tell: `{pos_embed: input}`.
        no_decay: biases and norms without weight decay, in groups of their own (`vector/no_decay`).

    Raises:
        ConfigError: values that are none of these.
    """

    base: Mapping[str, Any]
    wider: Mapping[str, Any] | None = None
    optimizer: str = "auto"
    readout: str = "zero"
    roles: Mapping[str, str] = field(default_factory=dict)
    no_decay: bool = True

    def __post_init__(self) -> None:
        problems = []
        if not isinstance(self.base, Mapping) or not self.base:
            message = "expected the arguments that make the model narrower, such as {widths: [64, 64]}"
            problems.append(Problem("layers.base", message, self.base))
        if self.wider is not None and not isinstance(self.wider, Mapping):
            problems.append(Problem("layers.wider", "expected arguments of the model by name", self.wider))
        for name, known in (("optimizer", ("auto", "adam", "sgd")), ("readout", ("zero", "keep"))):
            if (value := getattr(self, name)) not in known:
                problems.append(Problem(f"layers.{name}", f"expected one of {', '.join(known)}", value))
        if not isinstance(self.roles, Mapping):
            problems.append(Problem("layers.roles", "expected roles by names, such as {pos_embed: input}", self.roles))
        else:
            for pattern, role in self.roles.items():
                if role not in TOLD:
                    message, hint = f"expected one of {', '.join(TOLD)}", did_you_mean(str(role), TOLD)
                    problems.append(Problem(f"layers.roles.{pattern}", message, role, hint))
        if problems:
            raise ConfigError(problems)

    @property
    def growth(self) -> Mapping[str, Any]:
        """Arguments of the model that show, beside those of the base, what grows."""
        return self.wider if self.wider is not None else _doubled(self.base)

    def widths(self, model: nn.Module | Parameters, narrow: nn.Module, wider: nn.Module) -> list[Width]:
        """How every parameter of the model grows with its width, in the order of the model.

        Args:
            model: the one to be trained, or its parameters.
            narrow: the same with `base`.
            wider: the same with `base` and then `growth`.

        Raises:
            ConfigError: they differ in something else than width, or not at all, or the role of a parameter cannot be
                told; all such parameters at once.
        """
        entries = Parameters.of(model).entries
        refuse_shapeless(entries)
        before, grown = ({entry.name: entry.parameter for entry in inventory(other)} for other in (narrow, wider))
        for other, key in ((before, "layers.base"), (grown, "layers.wider")):
            if list(other) != [entry.name for entry in entries]:
                names = sorted(other.keys() ^ {entry.name for entry in entries}) or ["their order"]
                message = f"may change nothing but widths, and makes a model of other parameters: {abbreviated(names)}"
                raise ConfigError([Problem(key, message, dict(self.base if other is before else self.growth))])
        problems = list(self._unmatched(entries))
        widths = []
        for entry in entries:
            try:
                widths.append(width_of(entry, before[entry.name], grown[entry.name], self._role(entry)))
            except UnclearError as unclear:
                key, hint = f"layers.roles.{entry.name}", unclear.hint
                problems.append(Problem(key if hint else "layers.base", f"{entry.name}: {unclear}", ..., hint))
        if not problems and all(width.role == "fixed" for width in widths):
            message = "has no width: nothing in the model grows with these arguments"
            problems.append(Problem("layers.base", message, dict(self.base)))
        if problems:
            raise ConfigError(problems)
        return widths

    def rules(self, widths: Sequence[Width], table: Table, weight_decay: float | None) -> list[Rule]:
        """The rules for parameters of these widths: a group for each role and factor, biases and norms apart.

        Args:
            widths: what `widths` gave.
            table: of the optimizer.
            weight_decay: the optimizer's; None or 0: there is none to keep in proportion.
        """
        trained = [width for width in widths if width.entry.trainable]
        groups: dict[tuple[str, bool, float], list[Width]] = {}
        for width in sorted(trained, key=lambda width: ROLES.index(width.role)):
            plain = self.no_decay and bool(width.entry.kinds & {"bias", "norm"})
            groups.setdefault((width.role, plain, lr_scale(width, table)), []).append(width)
        rules = []
        for (role, plain, scale), members in groups.items():
            several = sum(key[:2] == (role, plain) for key in groups) > 1
            name = f"{role}_{scale:.12g}x" if several else role
            decay = 0.0 if plain else weight_decay / scale if weight_decay else None
            name = f"{name}/no_decay" if plain else name
            parameters = [width.entry.parameter for width in members]
            rules.append(Rule(name, parameters=parameters, lr=Multiple(scale), weight_decay=decay))
        return rules

    def start(self, widths: Iterable[Width]) -> list[str]:
        """Sets the output weights to zero, unless they are to be kept; gives their names."""
        if self.readout == "keep":
            return []
        outputs = [width.entry for width in widths if width.role == "output" and width.entry.trainable]
        with torch.no_grad():
            for entry in outputs:
                entry.parameter.zero_()
        return [entry.name for entry in outputs]

    def _role(self, entry: Entry) -> str | None:
        """The role that the config gives to a parameter."""
        for pattern, role in self.roles.items():
            if any(fnmatch.fnmatchcase(place.name, pattern) for place in entry.places):
                return role
        return None

    def _unmatched(self, entries: Sequence[Entry]) -> Iterable[Problem]:
        names = [place.name for entry in entries for place in entry.places]
        for pattern, role in self.roles.items():
            if not fnmatch.filter(names, pattern):
                close = nearest(pattern, names)
                hint = f"nearest: {', '.join(close)}" if close else f"the names are {abbreviated(names)}"
                yield Problem(f"layers.roles.{pattern}", "matches no parameter", role, hint)


def lr_scale(width: Width, table: Table) -> float:
    """The LR of a parameter as a multiple of the peak; see `MuP`."""
    return (1.0 if table == "adam" else width.fan_out) / width.fan_in


def _doubled(value: Any) -> Any:
    """Every whole number in nested lists and mappings, doubled."""
    if isinstance(value, Mapping):
        return {name: _doubled(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_doubled(entry) for entry in value]
    return 2 * value if isinstance(value, int) and not isinstance(value, bool) else value
