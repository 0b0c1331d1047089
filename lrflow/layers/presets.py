"""Rule makers: layer-wise LR decay, gradual unfreezing, and the groups that Muon needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from lrflow.errors import ConfigError, Problem, did_you_mean, nearest
from lrflow.layers.depth import check_min_scale, layer_rules, layers_of
from lrflow.layers.parameters import Entry, Parameters
from lrflow.layers.rules import Multiple, Rule, RuleMaker, as_tuple, compile_pattern, number
from lrflow.schedules import Duration, DurationLike


@dataclass(frozen=True)
class LayerDecay(RuleMaker):
    """Layer-wise LR decay: LRs that fall geometrically from the head down to the input.

    Layer i of L gets the factor `max(min_scale, decay ** (L - i))`, so that the last layer trains at the peak
    (Bao et al., BEiT, 2022; Clark et al., ELECTRA, 2020).

    `lrflow.layers.depth.layers_of` defines the layers: the model's children, with stacks of blocks opened into their
    blocks, in the order in which the model uses them. Layers of parallel towers have the same depth.

    Args:
        decay: LR of a layer over the LR of the layer above, in (0, 1].
        min_scale: no layer's factor falls below this.
        no_decay: whether biases and norms have no weight decay, in groups of their own (`stage1.0/no_decay`).

    Raises:
        ConfigError: values out of range.
    """

    follows_use: ClassVar[bool] = True

    decay: float = 0.75
    min_scale: float = 0.0
    no_decay: bool = True

    def __post_init__(self) -> None:
        problems = []
        decay = number(self.decay)
        if decay is None or not 0 < decay <= 1:
            problems.append(Problem("layers.decay", "expected a factor above 0 and at most 1", self.decay))
        problems += check_min_scale(self.min_scale)
        if problems:
            raise ConfigError(problems)

    def rules_of(self, parameters: Parameters) -> list[Rule]:
        """Return the rules, from the input to the head; layers without trainable parameters have none."""
        layers = layers_of(parameters)
        top = max((layer.depth for layer in layers), default=0)
        rules = []
        for layer in layers:
            scale = max(self.min_scale, self.decay ** (top - layer.depth))
            rules += layer_rules(layer, self.no_decay, lr=Multiple(scale))
        return rules


@dataclass(frozen=True)
class GradualUnfreezing(RuleMaker):
    """Gradual unfreezing: one layer after another begins to train, from the head down to the input.

    The head trains from the first step on, the layer below it after `every`, the next one after twice that. Of L layers
    the i-th has the LR factor `factor ** (i - L)`, which is discriminative fine-tuning (both: Howard and Ruder, ULMFiT,
    2018, arXiv 1801.06146).

    Layers are those of `LayerDecay`; a layer that the model itself has frozen is skipped.

    Args:
        every: a duration between the unfreezing of a layer and of the one below.
        factor: LR of a layer over the LR of the one below, 1 or more.
        warmup: a duration, in which the LR of an unfrozen layer rises to its schedule.
        min_scale: no layer's LR factor falls below this.
        no_decay: whether biases and norms have no weight decay, in groups of their own (`stage1.0/no_decay`).
        freeze_statistics: whether the batch norms of frozen layers keep their running statistics.

    Raises:
        ConfigError: values out of range.
    """

    follows_use: ClassVar[bool] = True

    every: DurationLike = "1 epoch"
    factor: float = 2.6
    warmup: DurationLike = 0
    min_scale: float = 0.0
    no_decay: bool = True
    freeze_statistics: bool = True

    def __post_init__(self) -> None:
        problems = []
        for name in ("every", "warmup"):
            try:
                object.__setattr__(self, name, Duration.parse(getattr(self, name)))
            except ValueError as error:
                problems.append(Problem(f"layers.{name}", str(error), getattr(self, name)))
        if isinstance(self.every, Duration) and self.every.value == 0:
            hint = "layers=discriminative has the same LRs and freezes nothing"
            problems.append(
                Problem("layers.every", "is 0: all layers would train from the start", str(self.every), hint)
            )
        factor = number(self.factor)
        if factor is None or factor < 1:
            problems.append(Problem("layers.factor", "expected a number of at least 1", self.factor))
        problems += check_min_scale(self.min_scale)
        if problems:
            raise ConfigError(problems)

    def rules_of(self, parameters: Parameters) -> list[Rule]:
        """Return the rules, from the input to the head; layers without trainable parameters have none."""
        layers = layers_of(parameters)
        top = max((layer.depth for layer in layers), default=0)
        training = sorted({layer.depth for layer in layers if any(entry.trainable for entry in layer.entries)})
        rules = []
        for layer in layers:
            if layer.depth not in training:
                continue
            above = len(training) - 1 - training.index(layer.depth)
            scale = max(self.min_scale, self.factor ** (layer.depth - top))
            late = {
                "unfreeze": Duration.parse(self.every) * above,
                "unfreeze_warmup": self.warmup,
                "freeze_statistics": self.freeze_statistics,
            }
            rules += layer_rules(layer, self.no_decay, lr=Multiple(scale), **(late if above else {}))
        return rules


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
