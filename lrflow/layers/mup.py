"""muP: how the parameters of a model grow with its width and depth, and LRs whose best peak is the same at each."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from lrflow.errors import ConfigError, Problem, did_you_mean, nearest
from lrflow.layers.groups import check_initialised
from lrflow.layers.parameters import Entry, Parameters, inventory
from lrflow.layers.residual_depth import Depth, UnevenDepthError
from lrflow.layers.rules import UNDECAYED, Multiple, Rule, Table
from lrflow.layers.widths import UnknownRoleError, Width, width_of
from lrflow.wording import joined

ROLES = ("input", "vector", "hidden", "output", "fixed")

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
    Appendix B.3).

    The base may also have fewer residual blocks. With r_L, the ratio of their numbers, a model that multiplies the
    output of each residual branch by 1 / r_L keeps the best LR too (CompleteP: Dey et al., 2025, arXiv 2505.01618, with
    alpha = 1). Adam's LRs stay; its eps is divided by r_L inside the blocks, as the gradients there are. The LR of SGD
    is multiplied by r_L there (Bordelon et al., 2024, arXiv 2405.15712).

    Hidden matrices may be routed to Muon, whose updates have a known spectral norm. It must grow as the root of fan-out
    over fan-in (Yang, Simon and Bernstein), so the LR is the peak times sqrt(r_out / r_in), divided by the growth of
    Muon's own factor by the shape: 1 for `adjust_lr_fn: original` if all widths grow alike.

    Weight decay that the optimizer multiplies by the LR is divided by the factor, so that LR x decay is the same as in
    the base model (as in the paper's own package; for the reasons see Kosson et al., 2025, arXiv 2510.19093).

    Args:
        base: arguments of the model that make it narrower or shallower, such as `{width: 64, depth: 2}`.
        wider: arguments that make the base wider in every width; None: the whole numbers in `base`, doubled.
        optimizer: the table of factors, `adam` or `sgd`; auto: derived from the optimizer's class.
        readout: `zero`: output weights start at zero; `keep`: they start as in the model, such as pretrained weights.
        roles: `input`, `hidden` ([out, in]) or `output`, by globs over the names of parameters whose class does not
            determine their role: `{pos_embed: input}`.
        no_decay: whether biases, norms and other parameters with fewer than two dimensions have no weight decay, in
            groups of their own (`vector/no_decay`).
        scale_eps: whether the eps of Adam and its kin follows the width and depth too.
        rescale: whether hidden and input weights are multiplied if their initial scale is not that of the base at
            this width, as muP requires; False: they are reported.

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
    rescale: bool = False

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
        """Return how every parameter of the model grows with its width and depth, in the order of the model.

        Args:
            model: the model to be trained, or its parameters.
            narrow: the same model with `base`.
            wider: the same model with `base` and then `wider_arguments`.

        Raises:
            ConfigError: the models differ in more than width and depth, or not at all, or roles are unknown; lists all
                such parameters.
        """
        entries = Parameters.of(model).entries
        check_initialised(entries)
        depth, before = self._counterparts(entries, narrow, "layers.base")
        deeper, grown = self._counterparts(entries, wider, "layers.wider")
        problems = list(self._unmatched(entries))
        widths = []
        for entry in entries:
            ratio = depth.ratio if depth.holds(entry.name) else 1.0
            try:
                width = width_of(entry, before[entry.name], grown[entry.name], self._role(entry))
                widths.append(replace(width, depth=ratio))
            except UnknownRoleError as unclear:
                key, hint = f"layers.roles.{entry.name}", unclear.hint
                problems.append(Problem(key if hint else "layers.base", f"{entry.name}: {unclear}", ..., hint))
        if not problems and all(width.role == "fixed" for width in widths) and depth.ratio == deeper.ratio:
            message = "changes neither width nor depth: nothing in the model grows with these arguments"
            problems.append(Problem("layers.base", message, dict(self.base)))
        if problems:
            raise ConfigError(problems)
        return widths

    def depth(self, model: nn.Module | Parameters, narrow: nn.Module) -> Depth:
        """Return how much deeper the model is than the narrower one.

        Raises:
            ConfigError: its lists of blocks grow by different ratios.
        """
        return self._depth([entry.name for entry in Parameters.of(model).entries], inventory(narrow), "layers.base")

    def _depth(self, names: Sequence[str], other: Sequence[Entry], key: str) -> Depth:
        try:
            return Depth.of(names, [entry.name for entry in other])
        except UnevenDepthError as error:
            given = dict(self.base if key == "layers.base" else self.wider_arguments)
            raise ConfigError([Problem(key, f"may change depth by one ratio, but {error}", given)]) from None

    def _counterparts(self, entries: Sequence[Entry], other: nn.Module, key: str) -> tuple[Depth, dict[str, Tensor]]:
        """Return how much deeper the model is than another, and the parameters of that one by names of the model.

        Raises:
            ConfigError: the two differ in more than width and depth.
        """
        names, found = [entry.name for entry in entries], {one.name: one.parameter for one in inventory(other)}
        depth = self._depth(names, inventory(other), key)
        theirs, back = {name: depth.counterpart(name) for name in names}, self._depth([*found], entries, key)
        unlike = {*theirs.values()} - found.keys() | {name for name in found if back.counterpart(name) not in theirs}
        if unlike or (not depth.lists and names != list(found)):
            named = joined(sorted(unlike) or ["their order"], 7)
            message = f"may change only widths and depth, but makes a model with other parameters: {named}"
            given = self.base if key == "layers.base" else self.wider_arguments
            raise ConfigError([Problem(key, message, dict(given))])
        return depth, {name: found[other] for name, other in theirs.items()}

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

    def start(self, widths: Sequence[Width]) -> list[str]:
        """Set the output weights to zero, unless `readout` is `keep`; return their names. `rescale` the others."""
        if self.rescale:
            for width in widths:
                width.rescale()
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
    return (1.0 if table == "adam" else width.fan_out * width.depth) / width.fan_in


def eps_scale(width: Width) -> float:
    """Return the eps of Adam for a parameter as a multiple of that of the base; see `MuP`."""
    return 1 / (width.fan_out * width.depth)


def _doubled(value: Any) -> Any:
    """Return nested lists and mappings with every whole number doubled."""
    if isinstance(value, Mapping):
        return {name: _doubled(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_doubled(entry) for entry in value]
    return 2 * value if isinstance(value, int) and not isinstance(value, bool) else value
