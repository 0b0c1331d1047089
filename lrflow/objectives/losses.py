"""Losses of torch.nn by name: their classes, the kind of targets that they need, and what a run with them logs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lrflow.errors import ConfigError, Problem, did_you_mean

Kind = Literal["classes", "labels", "numbers", "distributions"]
"""Kind of the targets: class numbers, labels of 0 and 1 per output, numbers to predict, or probabilities per output."""

Outputs = Literal["logits", "probabilities", "log_probabilities", "log_rates", "predictions"]
"""What the outputs of the model are to a loss; metrics get probabilities and predictions."""

DESCRIBED: dict[str, str] = {
    "classes": "class numbers",
    "labels": "labels of 0 and 1, one per output",
    "numbers": "numbers, one per output",
    "distributions": "probabilities, one per output",
}
"""Each kind of targets in words."""

LOGGED: dict[str | None, tuple[str, ...]] = {
    "classes": ("loss", "accuracy"),
    "labels": ("loss", "accuracy"),
    "numbers": ("loss", "mae", "r2"),
}
"""Metrics that a plain module logs by itself, by the kind of the targets; with any other kind only the loss."""


LANGUAGE_MODEL, CLASSES = "language_model", "classes"
HEADS = (LANGUAGE_MODEL, CLASSES)
"""What a model of sequences of tokens predicts: the next token at each place, or a class for each sequence."""

IGNORED = -100
"""The class number that cross_entropy of torch leaves out by default, such as at a place of padding."""


@dataclass(frozen=True)
class Loss:
    """A loss of torch.nn that compares the outputs of a model with targets.

    Args:
        name: name of its class.
        kind: the targets that it needs; None: another kind, which no metric understands.
        outputs: what the outputs of the model are to it.
        arguments: arguments that lrflow gives by default.
    """

    name: str
    kind: Kind | None
    outputs: Outputs = "predictions"
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """Dotted name of its class."""
        return f"torch.nn.{self.name}"


LOSSES = {
    "cross_entropy": Loss("CrossEntropyLoss", "classes", "logits"),
    "nll": Loss("NLLLoss", "classes", "log_probabilities"),
    "multi_margin": Loss("MultiMarginLoss", "classes", "logits"),
    "bce_with_logits": Loss("BCEWithLogitsLoss", "labels", "logits"),
    "bce": Loss("BCELoss", "labels", "probabilities"),
    "multilabel_soft_margin": Loss("MultiLabelSoftMarginLoss", "labels", "logits"),
    "mse": Loss("MSELoss", "numbers"),
    "l1": Loss("L1Loss", "numbers"),
    "smooth_l1": Loss("SmoothL1Loss", "numbers"),
    "huber": Loss("HuberLoss", "numbers"),
    "poisson_nll": Loss("PoissonNLLLoss", "numbers", "log_rates"),
    "kl_div": Loss("KLDivLoss", "distributions", "log_probabilities", {"reduction": "batchmean"}),
    "soft_margin": Loss("SoftMarginLoss", None),
    "multilabel_margin": Loss("MultiLabelMarginLoss", None),
    "hinge_embedding": Loss("HingeEmbeddingLoss", None),
}
"""Losses by name."""

_OTHER_LOSSES = ("ctc", "gaussian_nll", "triplet_margin", "cosine_embedding", "margin_ranking")
"""Losses of torch.nn that compare more than an output with its target."""

_MEANT = {
    "ce": "cross_entropy",
    "mae": "l1",
    "l2": "mse",
    "kl": "kl_div",
    "bce_logits": "bce_with_logits",
    "bce_logit": "bce_with_logits",
}
"""Other common names of losses."""

_HOME = "torch.nn.modules.loss"


@dataclass(frozen=True)
class ChosenLoss:
    """A loss as a config chooses it.

    Args:
        target: dotted name of its class or function.
        arguments: its arguments.
        kind: kind of the targets; None: unknown.
        outputs: what the outputs of the model are to it.
        units: mean and standard deviation of the numbers to predict, in which outputs are; None: they are not scaled.
        per_token: whether outputs are [batch, places, classes] and targets [batch, places], as of a language model.
        bytes_per_token: of the text of `val` and of `test`; empty: unknown.
    """

    target: str
    arguments: Mapping[str, Any]
    kind: Kind | None
    outputs: Outputs = "predictions"
    units: tuple[float, float] | None = None
    per_token: bool = False
    bytes_per_token: Mapping[str, float] = field(default_factory=dict)

    @property
    def smoothed(self) -> bool:
        """Whether it is cross entropy of smoothed labels."""
        return self.target == LOSSES["cross_entropy"].target and bool(self.arguments.get("label_smoothing"))

    def unsmoothed(self) -> ChosenLoss:
        """Return the same loss without label smoothing."""
        return replace(self, arguments={name: one for name, one in self.arguments.items() if name != "label_smoothing"})

    @property
    def logged(self) -> tuple[str, ...]:
        """The metrics that a plain module logs by itself."""
        return ("loss", *self._of_loss) if self.per_token else LOGGED.get(self.kind, ("loss",))

    @property
    def _of_loss(self) -> tuple[str, ...]:
        """The metrics that are computed from the loss over a whole set."""
        plain = self.target.endswith(".CrossEntropyLoss") and "weight" not in self.arguments
        names = ("perplexity", *(["bits_per_byte"] if self.bytes_per_token else []))
        return names if self.per_token and plain else ()

    def of_loss(self, loss: float, part: str) -> dict[str, float]:
        """Return what follows from the mean loss per token: perplexity, and bits per byte of the text.

        Args:
            loss: in nats.
            part: `val` or `test`, whose bytes per token are used.
        """
        found = {
            "perplexity": _exp(loss),
            "bits_per_byte": loss / math.log(2) / self.bytes_per_token.get(part, math.nan),
        }
        return {name: found[name] for name in self._of_loss}

    @property
    def shaped(self) -> bool:
        """Whether the targets get the shape of the outputs."""
        return self.kind in ("labels", "numbers", "distributions")

    @property
    def ignored(self) -> int | None:
        """The class number of targets that the loss leaves out; None: the config gives none."""
        return self.arguments.get("ignore_index", IGNORED if self.per_token else None)

    def __str__(self) -> str:
        own = next((name for name, loss in LOSSES.items() if loss.target == self.target), None)
        return own or self.target.rpartition(".")[2]


def chosen_loss(spec: Any, of_data: Any = None, key: str = "model.loss") -> ChosenLoss:
    """Return the loss that a config names.

    Args:
        spec: its name in `LOSSES`, or a mapping of `name` or `_target_` and arguments; without both it is `of_data`.
        of_data: the loss that the facts of the data name; a loss of the user's own gets the same kind of targets.
        key: config key of the loss.

    Raises:
        ConfigError: there is no such loss, or it cannot be averaged.
    """
    given = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    name, target = given.pop("name", None), given.pop("_target_", None)
    at = f"{key}.name" if isinstance(spec, Mapping) else key
    if name is target is None and isinstance(of_data, str):
        name = of_data
    if (name is None) == (target is None):
        message = "expected either the name of a loss or its _target_"
        raise ConfigError([Problem(key, message, spec, f"such as {{name: {next(iter(LOSSES))}}}")])
    if target is not None:
        name = next((own for own, loss in LOSSES.items() if target in (loss.target, f"{_HOME}.{loss.name}")), None)
        if name is None:
            kind = chosen_loss(of_data).kind if of_data is not None and of_data != spec else None
            return ChosenLoss(str(target), given, kind, "logits" if kind in ("classes", "labels") else "predictions")
    if name not in LOSSES:
        raise ConfigError([_no_such_loss(at, name)])
    loss = LOSSES[name]
    arguments = {**loss.arguments, **given}
    if (reduction := arguments.get("reduction", "mean")) not in ("mean", "batchmean"):
        message = "expected mean: a loss is averaged over the examples of a batch"
        raise ConfigError([Problem(f"{key}.reduction", message, reduction, "leave it out")])
    outputs = loss.outputs
    if name == "poisson_nll" and arguments.get("log_input") is False:
        outputs = "predictions"
    return ChosenLoss(loss.target, arguments, loss.kind, outputs)


def in_units(loss: ChosenLoss, units: Sequence[float] | None) -> ChosenLoss:
    """Return a loss whose targets are scaled, if it is one of predictions of numbers.

    Args:
        loss: the loss.
        units: mean and standard deviation of the targets; None: they are not scaled.
    """
    if units is None or (loss.kind, loss.outputs) != ("numbers", "predictions"):
        return loss
    return replace(loss, units=(units[0], units[1]))


def of_tokens(loss: ChosenLoss, bytes_per_token: Mapping[str, float] | None) -> ChosenLoss:
    """Return a loss of classes whose outputs are those of a language model: one prediction at each place.

    Args:
        loss: the loss.
        bytes_per_token: of the text of `val` and of `test`, if known.
    """
    if loss.kind != "classes":
        return loss
    return replace(loss, per_token=True, bytes_per_token=dict(bytes_per_token or {}))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else value * math.inf  # NaN stays NaN


def is_of_torch(loss: ChosenLoss) -> bool:
    """Return whether a loss is one of `LOSSES`."""
    return any(loss.target == one.target for one in LOSSES.values())


def _no_such_loss(key: str, name: Any) -> Problem:
    if str(name).removesuffix("_loss").removesuffix("loss") in _OTHER_LOSSES:
        message = "this loss compares more than an output with its target"
        return Problem(key, message, name, "compute it in the training_step of a LightningModule")
    hint = f"did you mean {_MEANT[str(name)]}?" if str(name) in _MEANT else did_you_mean(str(name), LOSSES)
    return Problem(key, f"expected one of {', '.join(LOSSES)}", name, hint)
