"""Scores of detectors as classifiers of runs: precision, recall, balanced accuracy, lead time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.health.labels import Label
from benchmarks.health.recorded import Recorded

Found = Callable[[Recorded], int | None]
"""A detector of one kind: the step at which it spoke in a run; None: it was quiet."""

EITHER = "too_high or diverging"


@dataclass(frozen=True)
class Score:
    """How well a detector classifies runs.

    Args:
        hits: ill runs that it found.
        misses: ill runs that it did not find.
        alarms: other runs in which it spoke.
        quiet: other runs in which it did not.
        leads: steps by which it spoke before the loss showed the illness, for each hit whose loss showed it.
    """

    hits: int
    misses: int
    alarms: int
    quiet: int
    leads: tuple[int, ...] = ()

    @property
    def precision(self) -> float:
        """Share of the runs in which it spoke that are ill; NaN: it never spoke."""
        return _share(self.hits, self.alarms)

    @property
    def recall(self) -> float:
        """Share of the ill runs in which it spoke; NaN: no run is ill."""
        return _share(self.hits, self.misses)

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the recall and of the share of the other runs in which it was quiet."""
        return (self.recall + _share(self.quiet, self.alarms)) / 2

    @property
    def lead(self) -> float:
        """Median lead in steps; NaN: there is none."""
        return float(np.median(self.leads)) if self.leads else float("nan")

    def __add__(self, other: Score) -> Score:
        """The score over the runs of both."""
        counts = (self.hits + other.hits, self.misses + other.misses)
        return Score(*counts, self.alarms + other.alarms, self.quiet + other.quiet, self.leads + other.leads)


def _share(part: int, rest: int) -> float:
    return part / (part + rest) if part + rest else float("nan")


def truth(label: Label, kind: str) -> bool | None:
    """Return whether a run counts as one of a kind; None: it does not count.

    A diverged run does not count for `too_high`, and one that is not finite for an illness of its data not for the
    kinds of a high LR: whether a detector names the one or the other is no matter there.
    """
    of = label.truth
    if kind == EITHER:
        both = (truth(label, "diverging"), of["too_high"])
        return True if True in both else (None if None in both else False)
    if kind in ("diverging", "too_high") and of["nonfinite"] and label.run.cell.illness != "none":
        return None
    if kind == "too_high" and of["diverging"]:
        return None
    return of[kind]


def score(labels: Iterable[Label], kind: str, found: Found) -> Score:
    """Score a detector of one kind.

    Args:
        labels: the runs.
        kind: one of `KINDS`, or `EITHER`.
        found: the step at which the detector spoke in a run; None: it was quiet.
    """
    counts, leads = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}, []
    for label in labels:
        is_ill = truth(label, kind)
        if is_ill is None:
            continue
        step = found(label.run)
        counts[is_ill, step is not None] += 1
        if is_ill and step is not None:
            shown = [label.shown[name] for name in (kind.split(" or ")) if name in label.shown]
            leads += [min(shown) - step] if shown else []
    return Score(counts[True, True], counts[True, False], counts[False, True], counts[False, False], tuple(leads))


def leave_one_out(labels: Sequence[Label], kind: str, settings: Mapping[str, Found], precision: float = 0.9) -> Score:
    """Score a detector on each problem with the setting that is best on all others.

    Args:
        labels: the runs of all problems.
        kind: the kind that it detects.
        settings: the detector with each setting.
        precision: a setting with at least this precision is better than any other; then balanced accuracy decides.
    """
    total = Score(0, 0, 0, 0)
    for problem in sorted({label.run.cell.problem for label in labels}):
        others = [label for label in labels if label.run.cell.problem != problem]
        own = [label for label in labels if label.run.cell.problem == problem]

        def worth(name: str, runs: Sequence[Label] = others) -> tuple[bool, float]:
            found = score(runs, kind, settings[name])
            return found.precision >= precision, found.balanced_accuracy

        total += score(own, kind, settings[max(settings, key=worth)])
    return total
