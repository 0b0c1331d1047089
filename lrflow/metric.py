"""Metrics and their modes (`min` or `max`), resolved once from the config."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lrflow.objectives import higher_is_better

Mode = Literal["min", "max"]

STAGES = ("val", "test")
"""Prefixes of the metrics that a plain module logs: `val/loss`, `test/loss`."""

LOSS = "val/loss"
"""Default metric of a run."""

TRAIN_LOSS = "train/loss"
"""Training loss; Lightning passes it on even if the module does not log it."""

MORE_IS_BETTER = frozenset({
    "acc", "accuracy", "ap", "auc", "aucpr", "auprc", "aupr", "auroc", "bleu", "chrf", "cider", "correlation", "dice",
    "elbo", "f1", "f1score", "f2", "fps", "hit", "hits", "iou", "jaccard", "kappa", "likelihood", "map", "match", "mcc",
    "meteor", "miou", "mrr", "ndcg", "npv", "pearson", "precision", "psnr", "r2", "r2score", "recall", "return",
    "returns", "reward", "rewards", "rocauc", "rouge", "score", "sdr", "sensitivity", "similarity", "snr", "spearman",
    "specificity", "ssim", "stoi", "success", "throughput", "tpr", "win", "winrate",
})  # fmt: skip
"""Words in names of metrics whose mode is `max`."""

LESS_IS_BETTER = frozenset({
    "bpb", "bpc", "brier", "cer", "deviation", "distance", "div", "divergence", "entropy", "eer", "err", "error",
    "errors", "fid", "fnr", "fpr", "hamming", "kid", "kl", "latency", "logloss", "loss", "losses", "lpips", "mae",
    "mape", "mse", "nll", "perplexity", "ppl", "regret", "rmse", "ter", "wer",
})  # fmt: skip
"""Words in names of metrics whose mode is `min`; they take precedence over `MORE_IS_BETTER`."""


@dataclass(frozen=True)
class Metric:
    """A metric and its mode.

    Args:
        name: name as it is logged, `val/loss`.
        mode: `min` if lower is better, `max` if higher is better.
        guessed: whether the mode was guessed from the name; ignored when metrics are compared.
    """

    name: str
    mode: Mode
    guessed: bool = field(default=False, compare=False)

    @classmethod
    def parse(cls, name: str, mode: str | None = None) -> Metric:
        """Return a metric with this mode; None guesses it from the name, and takes `min` if the name has no known word.

        Raises:
            ValueError: the mode is neither `min` nor `max`.
        """
        if mode is None:
            return cls(name, guess_mode(name) or "min", guessed=True)
        if mode not in ("min", "max"):
            raise ValueError(f"expected min or max, got {mode!r}")
        return cls(name, mode)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.name} ({self.mode})"

    def guess_remark(self, key: str) -> str | None:
        """Return a one-line remark on a guessed mode, or None if the mode was given or the guess is certain.

        Args:
            key: config key that would set the mode.
        """
        if not self.guessed or guess_mode(self.name) == "min":
            return None
        if guess_mode(self.name) == "max":
            return f"{self.name}: assuming that higher is better, from its name. If lower is better, add {key}=min."
        return f"{self.name}: assuming that lower is better. If higher is better, add {key}=max."

    @property
    def sign(self) -> float:
        """1 if lower is better, -1 if higher is better."""
        return 1.0 if self.mode == "min" else -1.0

    def cost(self, value: float) -> float:
        """Return a value with the sign that makes lower better; applied to a cost, it returns the value."""
        return self.sign * value

    def better(self, value: float, than: float | None) -> bool:
        """Return whether a value is finite and better than another; a None or non-finite one is always worse."""
        if not math.isfinite(value):
            return False
        return than is None or not math.isfinite(than) or self.cost(value) < self.cost(than)

    def best(self, values: Iterable[float]) -> float | None:
        """Return the best finite value, or None if there is none."""
        return min((value for value in values if math.isfinite(value)), key=self.cost, default=None)


def guess_mode(name: str) -> Mode | None:
    """Return the mode that the words in a metric's name suggest, or None.

    Words are separated by anything but letters and digits, and by camelCase: `valAcc`, `val/top1_acc`, `mIoU`.
    """
    words = set(_words(name))
    if words & LESS_IS_BETTER or ("likelihood" in words and words & {"neg", "negative"}):
        return "min"
    return "max" if words & MORE_IS_BETTER else None


def is_loss(name: str) -> bool:
    """Return whether a word of the name marks a loss: True for `train/loss`, `valLoss`, `test_logloss`, not `gloss`."""
    return not {"loss", "losses", "logloss"}.isdisjoint(_words(name))


def is_validation(name: str) -> bool:
    """Return whether the name marks a validation metric: `val/loss`, `val_acc`, `valid/f1`, `validation_loss`."""
    return next(_words(name), "") in ("val", "valid", "validation")


def is_test(name: str) -> bool:
    """Return whether the name marks a test metric: `test/loss`, `test_acc`."""
    return next(_words(name), "") == "test"


def _words(name: str) -> Iterator[str]:
    """Yield the words of a name in lower case: whole pieces, their camelCase parts, and both without final digits."""
    for piece in re.split(r"[^A-Za-z0-9]+", name):
        parts = re.split(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", piece)
        for word in (parts if len(parts) > 1 else []) + [piece]:
            if word:
                yield word.lower()
                yield word.lower().rstrip("0123456789")


PLACES = {
    "trainer.checkpoint": "monitor",
    "feedback": "monitor",
    "find": "monitor",
    "trial": "metric",
    "sweep": "metric",
}
"""Config sections with a `mode`, and the key in each that names the metric."""


def places_in(content: Mapping[str, Any]) -> dict[str, str]:
    """Return `PLACES` and each callback that names a metric, as `callbacks.NAME`, with its key `monitor`.

    Args:
        content: config as plain containers.
    """
    callbacks = _node(content, "callbacks")
    monitoring = [name for name in callbacks if isinstance(_node(callbacks, str(name)).get("monitor"), str)]
    return {**PLACES, **{f"callbacks.{name}": "monitor" for name in monitoring}}


@dataclass(frozen=True)
class Directions:
    """The metrics and modes that a config gives.

    Args:
        given: key, metric and mode of each section that gives a mode.
        named: metrics that each section names.
        recorded: modes recorded in a run folder, by metric; used where the config gives none.
        known: modes of the metrics of `model.metrics`, as torchmetrics has them; used where there is no other.
    """

    given: tuple[tuple[str, str, str], ...] = ()
    named: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    recorded: Mapping[str, str] = field(default_factory=dict, compare=False)
    known: Mapping[str, Mode] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, content: Mapping[str, Any], recorded: Mapping[str, str] | None = None) -> Directions:
        """Return the metrics and modes of a config.

        Args:
            content: resolved config as plain containers; the settings of a sweep stand under `sweep`.
            recorded: modes recorded in a run folder, by metric.
        """
        given: list[tuple[str, str, str]] = []
        named: dict[str, tuple[str, ...]] = {}
        for place, key in places_in(content).items():
            node = _node(content, place)
            names, modes = as_list(node.get(key)), as_list(node.get("mode"))
            if place not in PLACES and not {*modes} <= {"min", "max"}:
                modes = []  # an argument of a user's callback with another meaning
            if place == "sweep" and not names and modes:  # the mode is that of the runs' own objective
                names = [*_objectives(named)]
            if names:
                named[place] = tuple(names)
            modes = modes * len(names) if len(modes) == 1 else modes
            given += [(f"{place}.mode", name, mode) for name, mode in zip(names, modes, strict=False)]
        own = higher_is_better(_node(content, "model").get("metrics"))
        known: dict[str, Mode] = {
            f"{stage}/{name}": "max" if higher else "min" for name, higher in own.items() for stage in STAGES
        }
        return cls(tuple(given), named, recorded or {}, known)

    def __call__(self, name: str, own: str | None = None) -> Metric:
        """Return a metric with its mode: `own`, else as given elsewhere in the config, recorded, known or guessed."""
        before = self.recorded.get(name) or self.known.get(name)
        found = own or next((mode for _, metric, mode in self.given if metric == name), before)
        return Metric.parse(name, found if found in ("min", "max") else None)

    @property
    def objectives(self) -> tuple[Metric, ...]:
        """Objectives of a sweep over such runs: the sweep's own metrics, else that of the best checkpoint."""
        return tuple(map(self, _objectives(self.named)))

    @property
    def names_objectives(self) -> bool:
        """Whether the config names the objectives; False: they are the default, which runs need not have."""
        return any(self.named.get(place) for place in _OF_OBJECTIVES)

    def metrics(self) -> dict[str, str]:
        """Return the mode of each metric that the config names, objectives first."""
        names = [*_objectives(self.named), *(name for names in self.named.values() for name in names)]
        return {name: self(name).mode for name in names}

    def conflicts(self) -> Iterator[tuple[str, str, str, str, str]]:
        """Yield metrics with two different modes: key and mode of the second, key and mode of the first, metric."""
        first: dict[str, tuple[str, str]] = {}
        for key, name, mode in self.given:
            there, before = first.setdefault(name, (key, mode))
            if mode != before:
                yield key, mode, there, before, name


_OF_OBJECTIVES = ("sweep", "trial", "trainer.checkpoint")
"""Sections of a config that name its objectives, the most important first."""


def _objectives(named: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return next((named[place] for place in _OF_OBJECTIVES if named.get(place)), (LOSS,))


def _node(content: Any, place: str) -> Mapping[str, Any]:
    for part in place.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else {}


def as_list(value: Any) -> list[str]:
    """Return a string or list of strings as a list; None as an empty one. Other values are wrong, and become texts."""
    return [] if value is None else [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]
