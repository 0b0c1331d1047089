"""Hidden matrices apart from everything else: the rules of `layers=muon`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lrflow.errors import ConfigError, Problem, did_you_mean, nearest
from lrflow.layers.inventory import Entry, Parameters
from lrflow.layers.maker import RuleMaker
from lrflow.layers.rules import Rule, as_tuple, compile_pattern

GROUPS = ("hidden", "head", "embedding", "vectors")


@dataclass(frozen=True)
class HiddenMatrices(RuleMaker):
    """Hidden matrices go to another optimizer, everything else to the main one: the groups that Muon is made for.

    The groups, of which a model has those that it has parameters for:

    - `hidden`: matrices and convolution kernels, routed;
    - `head`: the matrices of the output layer;
    - `embedding`: held by `nn.Embedding` or `nn.EmbeddingBag`, tied to the output layer or not;
    - `vectors`: norms, biases and whatever else has one dimension; so has a bare parameter of shape [1, ...], as class
      tokens and positional tables are.

    Args:
        route: the optimizer of the hidden matrices, one of `optimizer.routes`.
        head: globs (or `re:` and a regular expression) over the names of the output layer's parameters; None: it
            has none of its own, being tied to an embedding.
        no_decay: vectors without weight decay.
        lr: peak LRs by group, as rules have them: absolute, or a multiple (`10x`) of the peak of the optimizer that
            the group goes to, which is that of groups that are not among them.

    Raises:
        ConfigError: `lr` speaks of a group that is none of these.
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
        """The rules for the parameters of a model.

        Raises:
            ConfigError: there is no such head, no hidden matrix, or an LR that is none.
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
    """Whether it has several rows and several columns when every dimension but the first is flattened."""
    parameter = entry.parameter
    return parameter.ndim >= 2 and 1 < len(parameter) < parameter.numel()


def _matches(text: str, entry: Entry) -> bool:
    return any(compile_pattern(text).fullmatch(place.name) for place in entry.places)
