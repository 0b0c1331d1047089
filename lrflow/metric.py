"""A metric and which way of it is better: one value, resolved once from what a config says, read by everything."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Mode = Literal["min", "max"]

SUPERVISED = {"cross_entropy": ("loss", "accuracy"), "mse": ("loss", "mae", "r2")}
"""What is logged of validation and test of a plain module, by its loss, each below `val/` and `test/`."""

LOSS = "val/loss"
"""What a run is judged by where nobody says another metric."""

TRAIN_LOSS = "train/loss"
"""The training loss, which Lightning hands over without its being logged."""

MORE_IS_BETTER = frozenset({
    "acc", "accuracy", "ap", "auc", "aucpr", "auprc", "aupr", "auroc", "bleu", "chrf", "cider", "correlation", "dice",
    "elbo", "f1", "f1score", "f2", "fps", "hit", "hits", "iou", "jaccard", "kappa", "likelihood", "map", "match", "mcc",
    "meteor", "miou", "mrr", "ndcg", "pearson", "precision", "psnr", "r2", "r2score", "recall", "return", "returns",
    "reward", "rewards", "rocauc", "rouge", "score", "sdr", "sensitivity", "similarity", "snr", "spearman",
    "specificity", "ssim", "stoi", "success", "throughput", "tpr", "win", "winrate",
})  # fmt: skip
"""Words in the name of a metric of which more is better."""

LESS_IS_BETTER = frozenset({
    "bpb", "bpc", "brier", "cer", "deviation", "distance", "div", "divergence", "entropy", "eer", "err", "error",
    "errors", "fid", "fnr", "fpr", "hamming", "kid", "kl", "latency", "logloss", "loss", "losses", "lpips", "mae",
    "mape", "mse", "nll", "perplexity", "ppl", "regret", "rmse", "ter", "wer",
})  # fmt: skip
"""Words in the name of a metric of which less is better; they win over those of which more is."""


@dataclass(frozen=True)
class Metric:
    """A metric and its direction.

    Args:
        name: as it is logged, `val/loss`.
        mode: `min`: less of it is better; `max`: more is.
        guessed: whether the mode was read off the name, since nobody gave it; two metrics do not differ by it.
    """

    name: str
    mode: Mode
    guessed: bool = field(default=False, compare=False)

    @classmethod
    def parse(cls, name: str, mode: str | None = None) -> Metric:
        """A metric with a given mode; None: as its name suggests, `min` where it suggests nothing.

        Raises:
            ValueError: the mode is neither `min` nor `max`.
        """
        if mode is None:
            return cls(name, guess(name) or "min", guessed=True)
        if mode not in ("min", "max"):
            raise ValueError(f"expected min or max, got {mode!r}")
        return cls(name, mode)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.name} ({self.mode})"

    def doubt(self, key: str) -> str | None:
        """What a person should know of a mode that was guessed, in a line; None: it is as everybody expects.

        Args:
            key: of the config that would say it.
        """
        if not self.guessed or guess(self.name) == "min":
            return None
        if guess(self.name) == "max":
            return f"{self.name}: more is taken to be better, judging by its name. If less is better, type {key}=min."
        return f"{self.name}: less is taken to be better, since its name does not say. If more is, type {key}=max."

    @property
    def sign(self) -> float:
        """1 where less is better, -1 where more is."""
        return 1.0 if self.mode == "min" else -1.0

    def cost(self, value: float) -> float:
        """A value turned so that less is better; also a cost turned back into a value."""
        return self.sign * value

    def better(self, value: float, than: float | None) -> bool:
        """Whether a value is better than another: it is finite, and the other is not, is None, or is worse."""
        if not math.isfinite(value):
            return False
        return than is None or not math.isfinite(than) or self.cost(value) < self.cost(than)

    def best(self, values: Iterable[float]) -> float | None:
        """The best of the finite values; None: there is none."""
        return min((value for value in values if math.isfinite(value)), key=self.cost, default=None)


def guess(name: str) -> Mode | None:
    """Which way of a metric is better by the words of its name; None: they do not say.

    Words end where no letter or digit stands and where camelCase goes up: `valAcc`, `val/top1_acc`, `mIoU`.
    """
    words = set(_words(name))
    if words & LESS_IS_BETTER or ("likelihood" in words and words & {"neg", "negative"}):
        return "min"
    return "max" if words & MORE_IS_BETTER else None


def is_loss(name: str) -> bool:
    """Whether a metric is a loss, by a word of its name: `train/loss`, `valLoss`, `test_logloss`; `gloss` is none."""
    return not {"loss", "losses", "logloss"}.isdisjoint(_words(name))


def is_validation(name: str) -> bool:
    """Whether a metric is one of validation, by its name: `val/loss`, `val_acc`, `valid/f1`, `validation_loss`."""
    return next(_words(name), "") in ("val", "valid", "validation")


def is_of_test(name: str) -> bool:
    """Whether a metric is one of the test, by its name."""
    return next(_words(name), "") == "test"


def _words(name: str) -> Iterator[str]:
    """The words of a name in lower case: each piece whole, its parts by camelCase, and both without a last number."""
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
"""Where a config names a metric, with a `mode` beside it."""


@dataclass(frozen=True)
class Directions:
    """What a config says about its metrics.

    Args:
        said: key, metric and mode of each place that gives a mode.
        named: the metrics of each place that names any.
        noted: modes that a run folder has noted; they hold where nobody says another.
    """

    said: tuple[tuple[str, str, str], ...] = ()
    named: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    noted: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, content: Mapping[str, Any], noted: Mapping[str, str] | None = None) -> Directions:
        """Read them off a config.

        Args:
            content: plain and resolved; the settings of a sweep stand under `sweep`.
            noted: modes that a run folder has noted.
        """
        said: list[tuple[str, str, str]] = []
        named: dict[str, tuple[str, ...]] = {}
        for place, key in PLACES.items():
            node = _node(content, place)
            names, modes = _listed(node.get(key)), _listed(node.get("mode"))
            if place == "sweep" and not names and modes:  # of what the runs are judged by themselves
                names = [*_judged(named)]
            if names:
                named[place] = tuple(names)
            modes = modes * len(names) if len(modes) == 1 else modes
            said += [(f"{place}.mode", name, mode) for name, mode in zip(names, modes, strict=False)]
        return cls(tuple(said), named, noted or {})

    def __call__(self, name: str, own: str | None = None) -> Metric:
        """A metric with its direction: its own mode where it has one, else as said elsewhere, noted, or guessed."""
        found = own or next((mode for _, metric, mode in self.said if metric == name), self.noted.get(name))
        return Metric.parse(name, found if found in ("min", "max") else None)

    @property
    def objectives(self) -> tuple[Metric, ...]:
        """What a sweep of such runs is judged by: its own metrics, else that of their best checkpoints."""
        return tuple(map(self, _judged(self.named)))

    def metrics(self) -> dict[str, str]:
        """The mode of each metric that is named anywhere, the objectives first."""
        names = [*_judged(self.named), *(name for names in self.named.values() for name in names)]
        return {name: self(name).mode for name in names}

    def conflicts(self) -> Iterator[tuple[str, str, str, str, str]]:
        """Metrics of which two places say different modes: key and mode here, key and mode there, the metric."""
        first: dict[str, tuple[str, str]] = {}
        for key, name, mode in self.said:
            there, before = first.setdefault(name, (key, mode))
            if mode != before:
                yield key, mode, there, before, name


def _judged(named: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return named.get("sweep") or named.get("trial") or named.get("trainer.checkpoint") or (LOSS,)


def _node(content: Any, place: str) -> Mapping[str, Any]:
    for part in place.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else {}


def _listed(value: Any) -> list[str]:
    """One text or several as a list; nothing as an empty one."""
    return [] if value is None else [value] if isinstance(value, str) else [str(each) for each in value]
