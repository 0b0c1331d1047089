"""muP: how the parameters of a model grow with its width, and LRs whose best peak is the same at every width."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lrflow.errors import ConfigError, Problem, did_you_mean, nearest
from lrflow.layers.groups import check_initialised
from lrflow.layers.parameters import Entry, Parameters, Place, inventory, is_norm
from lrflow.layers.rules import UNDECAYED, Multiple, Rule, Table
from lrflow.wording import joined, shape_text

ROLES = ("input", "vector", "hidden", "output", "fixed")
_FORWARD = (nn.Linear, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase, _ConvNd)  # weights of [out, in, ...]
_BACKWARD = (_ConvTransposeNd, nn.Embedding, nn.EmbeddingBag)  # weights of [in, out, ...]
_MIN_NUMEL = 256  # elements from which the initial scale of a tensor is checked


GIVEN_ROLES = ("input", "hidden", "output")  # roles that a user may set


@dataclass(frozen=True)
class MuP:
    """LRs by the width of each parameter: the maximal update parametrization (Yang et al., 2022, arXiv 2203.03466).

    A narrower instance of the model is the base, for which the LRs of the config were chosen. A wider instance of it
    shows which dimensions of its parameters are widths. With r_in and r_out, the ratios of the fan-in and fan-out of
    the model to those of the base (1 if they are no width), the LR of a parameter is the peak times

    - `adam`: 1 / r_in;
    - `sgd`: r_out / r_in.

    This is the table of that paper that needs no multipliers in the forward pass (its Table 3), for layers that may
    grow by different ratios (Yang, Simon and Bernstein, 2023, arXiv 2310.17813, who derive both rules from the spectral
    norm of an update). Output weights must start smaller than others by another sqrt(r_in); here they start at zero,
    which is right at every width and for every initialisation of the model (section D.2 of the paper).

    With `scale_eps` the eps of Adam and its kin is divided by r_out, as the entries of a gradient are (their
    Appendix B.3; Dey et al., 2025, arXiv 2505.01618, XX

    Hidden matrices may be routed to Muon, whose updates have a known spectral norm. It must grow as the root of fan-out
    over fan-in (Yang, Simon and Bernstein), so the LR is the peak times sqrt(r_out / r_in), divided by the growth of
    Muon's own factor by the shape: 1 for `adjust_lr_fn: original` if all widths grow alike.

    Weight decay that the optimizer multiplies by the LR is divided by the factor, so that LR x decay is the same as in
    the base model (as in the paper's own package; for the reasons see Kosson et al., 2025, arXiv 2510.19093).

    Args:
        base: arguments of the model that make it narrower, such as `{widths: [64, 64]}`.
        wider: arguments that make the base wider in every width; None: the whole numbers in `base`, doubled.
        optimizer: the table of factors, `adam` or `sgd`; auto: derived from the optimizer's class.
        readout: `zero`: output weights start at zero; `keep`: they start as in the model, such as pretrained weights.
        roles: `input`, `hidden` ([out, in]) or `output`, by globs over the names of parameters whose class does not
            determine their role: `{pos_embed: input}`.
        no_decay: whether biases, norms and other parameters with fewer than two dimensions have no weight decay, in
            groups of their own (`vector/no_decay`).
        scale_eps: whether the eps of Adam and its kin follows the width too.

    Raises:
        ConfigError: invalid values.
    """

    base: Mapping[str, Any]
    wider: Mapping[str, Any] | None = None
    optimizer: str = "auto"
    readout: str = "zero"
    roles: Mapping[str, str] = field(default_factory=dict)
    no_decay: bool = True
    scale_eps: bool = False

    def __post_init__(self) -> None:
        problems = []
        if not isinstance(self.base, Mapping) or not self.base:
            message = "expected the arguments that make the model narrower, such as {widths: [64, 64]}"
            problems.append(Problem("layers.base", message, self.base))
        if self.wider is not None and not isinstance(self.wider, Mapping):
            problems.append(Problem("layers.wider", "expected arguments of the model by name", self.wider))
        for name, known in (("optimizer", ("auto", *get_args(Table))), ("readout", ("zero", "keep"))):
            if (value := getattr(self, name)) not in known:
                problems.append(Problem(f"layers.{name}", f"expected one of {', '.join(known)}", value))
        if not isinstance(self.roles, Mapping):
            problems.append(Problem("layers.roles", "expected roles by names, such as {pos_embed: input}", self.roles))
        else:
            for pattern, role in self.roles.items():
                if role not in GIVEN_ROLES:
                    message, hint = f"expected one of {', '.join(GIVEN_ROLES)}", did_you_mean(str(role), GIVEN_ROLES)
                    problems.append(Problem(f"layers.roles.{pattern}", message, role, hint))
        if problems:
            raise ConfigError(problems)

    @property
    def wider_arguments(self) -> Mapping[str, Any]:
        """The arguments of the model, besides `base`, that make the wider instance."""
        return self.wider if self.wider is not None else _doubled(self.base)

    def widths(self, model: nn.Module | Parameters, narrow: nn.Module, wider: nn.Module) -> list[Width]:
        """Return how every parameter of the model grows with its width, in the order of the model.

        Args:
            model: the model to be trained, or its parameters.
            narrow: the same model with `base`.
            wider: the same model with `base` and then `wider_arguments`.

        Raises:
            ConfigError: the models differ in more than width, or not at all, or roles are unknown; lists all such
                parameters.
        """
        entries = Parameters.of(model).entries
        check_initialised(entries)
        before, grown = ({entry.name: entry.parameter for entry in inventory(other)} for other in (narrow, wider))
        for other, key in ((before, "layers.base"), (grown, "layers.wider")):
            if list(other) != [entry.name for entry in entries]:
                names = sorted(other.keys() ^ {entry.name for entry in entries}) or ["their order"]
                message = f"may change only widths, but makes a model with other parameters: {joined(names, 7)}"
                raise ConfigError([Problem(key, message, dict(self.base if other is before else self.wider_arguments))])
        problems = list(self._unmatched(entries))
        widths = []
        for entry in entries:
            try:
                widths.append(width_of(entry, before[entry.name], grown[entry.name], self._role(entry)))
            except UnknownRoleError as unclear:
                key, hint = f"layers.roles.{entry.name}", unclear.hint
                problems.append(Problem(key if hint else "layers.base", f"{entry.name}: {unclear}", ..., hint))
        if not problems and all(width.role == "fixed" for width in widths):
            message = "changes no width: nothing in the model grows with these arguments"
            problems.append(Problem("layers.base", message, dict(self.base)))
        if problems:
            raise ConfigError(problems)
        return widths

    def rules(
        self,
        widths: Sequence[Width],
        table: Table,
        weight_decay: float | None,
        eps: float | None = None,
        matrices: MatrixOptimizer | None = None,
    ) -> list[Rule]:
        """Return the rules for parameters of these widths: a group per role and factor; biases and norms separate.

        Args:
            widths: as returned by `widths`.
            table: the optimizer's table.
            weight_decay: the optimizer's; None or 0: there is none.
            eps: the optimizer's; None: it has none, or not the unit of the gradient.
            matrices: the optimizer of hidden matrices; None: the main one.
        """
        trained = [width for width in widths if width.entry.trainable]
        groups: dict[tuple[str, bool, float, float], list[Width]] = {}
        for width in sorted(trained, key=lambda width: ROLES.index(width.role)):
            routed = matrices is not None and matrices.takes(width)
            role = "hidden_other" if width.role == "hidden" and matrices and not routed else width.role
            plain = self.no_decay and bool(width.entry.kinds.intersection(UNDECAYED))
            factor = eps_scale(width) if self.scale_eps and eps and table == "adam" and not routed else 1.0
            groups.setdefault((role, plain, lr_scale(width, table, matrices), factor), []).append(width)
        rules = []
        for (role, plain, scale, factor), members in groups.items():
            alike = [key for key in groups if key[:2] == (role, plain)]
            name = f"{role}_{scale:.12g}x" if len({key[2] for key in alike}) > 1 else role
            name += f"_eps_{factor:.12g}x" if len({key[3] for key in alike if key[2] == scale}) > 1 else ""
            name = f"{name}/no_decay" if plain else name
            route = matrices if role == "hidden" else None
            own = route.weight_decay if route else weight_decay
            rules.append(
                Rule(
                    name,
                    parameters=[width.entry.parameter for width in members],
                    lr=Multiple(scale),
                    weight_decay=0.0 if plain else own / scale if own else None,
                    route=route.route if route else None,
                    settings={"eps": eps * factor} if eps and factor != 1 else {},
                )
            )
        return rules

    def start(self, widths: Iterable[Width]) -> list[str]:
        """Set the output weights to zero, unless `readout` is `keep`; return their names."""
        if self.readout == "keep":
            return []
        outputs = [width.entry for width in widths if width.role == "output" and width.entry.trainable]
        with torch.no_grad():
            for entry in outputs:
                entry.parameter.zero_()
        return [entry.name for entry in outputs]

    def _role(self, entry: Entry) -> str | None:
        """Return the role of a parameter in the config, if it has one there."""
        for pattern, role in self.roles.items():
            if any(fnmatch.fnmatchcase(place.name, pattern) for place in entry.places):
                return role
        return None

    def _unmatched(self, entries: Sequence[Entry]) -> Iterable[Problem]:
        names = [place.name for entry in entries for place in entry.places]
        for pattern, role in self.roles.items():
            if not fnmatch.filter(names, pattern):
                close = nearest(pattern, names)
                hint = f"nearest: {', '.join(close)}" if close else f"the names are {joined(names, 7)}"
                yield Problem(f"layers.roles.{pattern}", "matches no parameter", role, hint)


@dataclass(frozen=True, eq=False)
class Width:
    """How a parameter grows with the width of the model.

    Args:
        entry: the parameter.
        base: the same parameter of the narrower model.
        role: `input` (only its fan-out is a width), `hidden` (both are), `output` (only its fan-in is), `vector` (a
            bias, the gain of a norm, a token: one dimension is a width), or `fixed` (no dimension is).
        fan_in: its fan-in over that of the narrower model; 1 if it is no width.
        fan_out: its fan-out over that of the narrower model; 1 if it is no width.
        wide_rows: whether its first dimension is a width.
    """

    entry: Entry
    base: Tensor
    role: str
    fan_in: float = 1.0
    fan_out: float = 1.0
    wide_rows: bool = True

    @property
    def init_warning(self) -> str | None:
        """A warning if its initial scale does not follow the width as muP requires, else None."""
        if self.role not in ("input", "hidden") or min(self.base.numel(), self.entry.parameter.numel()) < _MIN_NUMEL:
            return None
        now, before = _rms(self.entry.parameter), _rms(self.base)
        if not now or not before:
            return None
        excess = now / before * math.sqrt(self.fan_in)
        if 0.8 < excess < 1.25:
            return None
        rule = "it must fall as 1/sqrt(fan in)" if self.role == "hidden" else "it must be the same at every width"
        return f"{self.entry.name} starts {excess:.2g} times as large as muP requires: {rule}"


class UnknownRoleError(Exception):
    """Raised if the role of a parameter is unknown; `hint` explains how to set it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def width_of(entry: Entry, base: Tensor, grown: Tensor, role: str | None = None) -> Width:
    """Return how a parameter grows with the width.

    Args:
        entry: the parameter, in the model to be trained.
        base: the same parameter in the narrower model.
        grown: the same parameter in a model that is wider than the narrower one in every width.
        role: `input`, `hidden` or `output`, as set by the user; None: derived from the class that holds the parameter.

    Raises:
        UnknownRoleError: the class does not determine the role, or the three models differ in more than width.
    """
    shape, before, after = (tuple(tensor.shape) for tensor in (entry.parameter, base, grown))
    if not len(shape) == len(before) == len(after):
        raise UnknownRoleError(f"has {len(before)} dimensions in the narrower model and {len(shape)} here")
    ratios = [now / then for now, then in zip(shape, before, strict=True)]
    wide = [index for index in range(len(shape)) if after[index] != before[index]]
    if any(ratio != 1 and index not in wide for index, ratio in enumerate(ratios)):
        raise UnknownRoleError(
            f"is {shape_text(shape)} here and {shape_text(before)} in the narrower model, and not all of that is "
            f"width: the wider one has {shape_text(after)}"
        )
    if not wide:
        return Width(entry, base, "fixed")
    if role is not None:
        return _with_role(entry, base, role, ratios)
    found = {_from_module(place, before, ratios, wide) for place in entry.places}
    if len(found) > 1:
        raise UnknownRoleError(
            "is shared by layers of different roles, so no single LR is right at every width",
            f"untie it, or divide the output by the width and add layers.roles={{{entry.name}: input}}",
        )
    return Width(entry, base, *found.pop(), wide_rows=0 in wide)


def _from_module(
    place: Place, before: Sequence[int], ratios: Sequence[float], wide: Sequence[int]
) -> tuple[str, float, float]:
    """Return role, fan-in ratio and fan-out ratio, from the class that holds the parameter and its widths."""
    if len(before) >= 2 and isinstance(place.holder, _FORWARD + _BACKWARD) and "weight" in place.attribute:
        out, into = (1, 0) if isinstance(place.holder, _BACKWARD) else (0, 1)
        if max(wide) > 1:
            raise UnknownRoleError("may change only widths, but the size of the kernel differs")
        if into in wide and isinstance(place.holder, nn.Embedding | nn.EmbeddingBag):
            raise UnknownRoleError("may change only widths, but the number of embeddings differs")
        role = "hidden" if len(wide) == 2 else "input" if out in wide else "output"
        return role, ratios[into], ratios[out]
    if (len(wide) == 1 and math.prod(before) == before[wide[0]]) or is_norm(place.holder):
        return "vector", 1.0, math.prod(ratios)
    if len(wide) == 2 and ratios[wide[0]] == ratios[wide[1]]:  # fan-in and fan-out grow alike
        return "hidden", ratios[wide[0]], ratios[wide[0]]
    raise UnknownRoleError(
        f"{shape_text(before)} in the narrower model: {type(place.holder).__name__} leaves open which side is fan-in",
        f"set its role: layers.roles={{{place.name}: input}}, hidden or output",
    )


def _with_role(entry: Entry, base: Tensor, role: str, ratios: Sequence[float]) -> Width:
    if role == "hidden":
        if len(ratios) < 2:
            raise UnknownRoleError("has one dimension, so it cannot be hidden", "input is the role of vectors")
        return Width(entry, base, role, ratios[1], ratios[0])
    ratio = math.prod(ratios)
    return Width(entry, base, role, *((ratio, 1.0) if role == "output" else (1.0, ratio)))


def _rms(tensor: Tensor) -> float:
    return float(tensor.detach().float().square().mean().sqrt())


@dataclass(frozen=True)
class MatrixOptimizer:
    """The optimizer of a route whose updates have singular values near 1, such as Muon; it takes hidden matrices.

    Args:
        route: its route.
        scale: its own factor on an update of so many rows and columns.
        weight_decay: decoupled; None or 0: there is none.
    """

    route: str
    scale: Callable[[int, int], float]
    weight_decay: float | None = None

    def takes(self, width: Width) -> bool:
        """Whether a parameter is hidden, and a matrix as Muon sees it: [rows, all else], with wide rows."""
        return width.role == "hidden" and width.wide_rows

    def lr_scale(self, width: Width) -> float:
        """Return the LR of a parameter as a multiple of the peak, for a spectral norm of sqrt(fan-out / fan-in)."""
        now, before = (self.scale(len(one), one.numel() // len(one)) for one in (width.entry.parameter, width.base))
        return math.sqrt(width.fan_out / width.fan_in) * before / now


def lr_scale(width: Width, table: Table, matrices: MatrixOptimizer | None = None) -> float:
    """Return the LR of a parameter as a multiple of the peak of its optimizer; see `MuP`."""
    if matrices and matrices.takes(width):
        return matrices.lr_scale(width)
    return (1.0 if table == "adam" else width.fan_out) / width.fan_in


def eps_scale(width: Width) -> float:
    """Return the eps of Adam for a parameter as a multiple of that of the base; see `MuP`."""
    return 1 / width.fan_out


def _doubled(value: Any) -> Any:
    """Return nested lists and mappings with every whole number doubled."""
    if isinstance(value, Mapping):
        return {name: _doubled(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_doubled(entry) for entry in value]
    return 2 * value if isinstance(value, int) and not isinstance(value, bool) else value
