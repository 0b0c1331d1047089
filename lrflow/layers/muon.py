"""Groups for Muon: the rules of `layers=muon`, which separate hidden matrices from all other parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lrflow.errors import ConfigError, Problem, did_you_mean, nearest
from lrflow.layers.parameters import Entry, Parameters
from lrflow.layers.rules import Rule, RuleMaker, as_tuple, compile_pattern

GROUPS = ("hidden", "head", "embedding", "vectors")


@dataclass(frozen=True)
class MuonGroups(RuleMaker):
    """Muon's groups: hidden matrices go to another optimizer, all other parameters to the main one.

    The groups, as far as the model has parameters for them:

    - `hidden`: matrices and convolution kernels, routed;
    - `head`: the matrices of the output layer;
    - `embedding`: held by `nn.Embedding` or `nn.EmbeddingBag`, tied to the output layer or not;
    - `vectors`: norms, biases and everything else with one dimension, counting bare parameters of shape [1, ...], such
      as class tokens and positional tables.

    Args:
        route: the route of the hidden matrices, one of `optimizer.routes`.
        head: globs (or regular expressions marked `re:`) over the names of the output layer's parameters; None: it has
            none of its own because it is tied to an embedding.
        no_decay: whether vectors have no weight decay.
        lr: peak LRs by group, as in rules: absolute, or a multiple (`10x`) of the peak of the group's optimizer. The
            other groups have that peak.

    Raises:
        ConfigError: `lr` names an unknown group.
    """

    route: str = "muon"
    head: str | Sequence[str] | None = "head.*"
    no_decay: bool = True
    lr: Mapping[str, float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = [
            Problem(f"layers.lr.{name}", "there is no such group", lr, did_you_mean(name, GROUPS))
            for name, lr in self.lr.items()
            if name not in GROUPS
        ]
        if problems:
            raise ConfigError(problems)

    def rules_of(self, parameters: Parameters) -> list[Rule]:
        """Return the rules for the parameters of a model.

        Raises:
            ConfigError: the head or hidden matrices are missing, or an LR is invalid.
        """
        entries = [entry for entry in parameters.entries if entry.trainable]
        problems = self._check_head(entries)
        groups: dict[str, list[Entry]] = {name: [] for name in GROUPS}
        for entry in entries:
            groups[self._group_of(entry)].append(entry)
        if not groups["hidden"] and not problems:
            message = f"the model has no hidden matrix to route to {self.route}"
            problems.append(Problem("layers", message, hint="optimizer=adamw trains it as it is"))
        rules = []
        for name, members in groups.items():
            settings = {"lr": self.lr.get(name)}
            settings |= {"route": self.route} if name == "hidden" else {}
            settings |= {"weight_decay": 0.0} if name == "vectors" and self.no_decay else {}
            try:
                rules += [Rule(name, parameters=[entry.parameter for entry in members], **settings)] if members else []  # type: ignore[arg-type]
            except ConfigError as error:
                problems += [replace(problem, key=f"layers.{problem.key}.{name}") for problem in error.problems]
        if problems:
            raise ConfigError(problems)
        return rules

    def _group_of(self, entry: Entry) -> str:
        if "embedding" in entry.kinds:
            return "embedding"
        if entry.kinds & {"bias", "norm"} or not _is_matrix(entry):
            return "vectors"
        return "head" if any(_matches(text, entry) for text in as_tuple(self.head)) else "hidden"

    def _check_head(self, entries: Sequence[Entry]) -> list[Problem]:
        problems = []
        names = [place.name for entry in entries for place in entry.places]
        for text in as_tuple(self.head):
            if not any(_matches(text, entry) for entry in entries):
                matrices = [place.name for entry in entries if _is_matrix(entry) for place in entry.places]
                hint = "".join(
                    f"the output layer may be {name}: layers.head='{name.removesuffix('weight')}*'; "
                    for name in nearest(text, matrices, count=1) or matrices[-1:]
                )
                hint += "layers.head=null where it is tied to an embedding"
                problems.append(Problem("layers.head", f"matches none of the {len(names)} parameter names", text, hint))
        return problems


def _is_matrix(entry: Entry) -> bool:
    """Whether it has several rows and several columns once all dimensions but the first are flattened."""
    parameter = entry.parameter
    return parameter.ndim >= 2 and 1 < len(parameter) < parameter.numel()


def _matches(text: str, entry: Entry) -> bool:
    return any(compile_pattern(text).fullmatch(place.name) for place in entry.places)
