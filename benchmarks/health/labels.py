"""What was wrong with each run, by the outcomes of all runs of its problem; no detector has a say in it.

The definitions are in README.md. A label is true, false, or None: near the border, so that nothing is judged by it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.health.problems import Problem
from benchmarks.health.recorded import Floats, Recorded

KINDS = ("diverging", "too_high", "too_low", "overfitting", "oscillating", "nonfinite")
SMALL, LARGE = 0.05, 0.10
"""Shares of the improvement that a run may lose and be healthy, and from which on it is ill."""

LAST = 0.2  # share of the validations whose mean is the final value
WINDOW = 0.1  # share of the steps over which the training loss is averaged
ABOVE = 1.05  # a diverged loss is above this multiple of the untrained loss
RISE, LEAST_RISE = 0.10, 0.02  # overfitting, relative to the best validation loss, and to the improvement
FALL = 0.10  # by which the training loss falls meanwhile


@dataclass(frozen=True)
class Label:
    """The outcome of a run.

    Args:
        run: the run.
        judged: whether detectors are judged by it, or thresholds are set on it.
        best_lr: the best LR of its problem and schedule.
        regret: share of the possible improvement that it lost, by the validations at its end.
        best_regret: the same by its best validation.
        gap: the rise of the validation loss from its best to the end, relative to the best.
        truth: whether it has each of `KINDS`, and whether it is `healthy`; None: near the border.
        shown: for each kind that it has, the step at which its loss shows it; missing: never.
    """

    run: Recorded
    judged: bool
    best_lr: float
    regret: float
    best_regret: float
    gap: float
    truth: Mapping[str, bool | None]
    shown: Mapping[str, int]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The labels that are true."""
        return tuple(kind for kind, is_so in self.truth.items() if is_so)


@dataclass(frozen=True)
class Reference:
    """What the runs of one schedule are compared with.

    Args:
        best_lr: the LR with the best mean of the seeds' best validation metrics.
        good: the lowest LR whose mean has a regret of at most `SMALL`, and the highest whose mean at the end has;
            `best_lr` if that is higher.
        best: the best mean; smaller is better.
        untrained: the metric of the untrained model.
        loss: the training loss at `best_lr`, averaged over `WINDOW` and the seeds; [steps].
        untrained_loss: the training loss of the untrained model.
    """

    best_lr: float
    good: tuple[float, float]
    best: float
    untrained: float
    loss: Floats
    untrained_loss: float

    def regret(self, value: float) -> float:
        """Return which share of the improvement from untrained to best a value lacks."""
        lost = (value - self.best) / max(self.untrained - self.best, 1e-12)
        return float(lost) if np.isfinite(lost) else np.inf


def label(problem: Problem, runs: Sequence[Recorded]) -> list[Label]:
    """Label the runs of one problem."""
    grid = [run for run in runs if run.cell.illness == "none"]
    if not grid:
        return []
    lowest = min(float(run.cell.lr) for run in grid)
    untrained = np.mean([metric(problem, run)[0] for run in grid if float(run.cell.lr) == lowest])
    untrained_loss = float(np.mean([run.loss[0] for run in grid]))
    references = {
        schedule: _reference([run for run in grid if run.cell.schedule == schedule], problem, untrained, untrained_loss)
        for schedule in {run.cell.schedule for run in grid}
    }
    cosine = {(run.cell.lr, run.cell.seed): run for run in grid if run.cell.schedule == "cosine"}
    return [
        _label(problem, run, references[run.cell.schedule], cosine.get((run.cell.lr, run.cell.seed)))
        for run in runs
        if run.cell.schedule in references
    ]


def metric(problem: Problem, run: Recorded) -> Floats:
    """Return the problem's metric at each validation, so that smaller is better; infinite if it is not finite."""
    values = run.metrics[problem.metric] * (-1.0 if problem.maximum else 1.0)
    return np.where(np.isfinite(values), values, np.inf)


def smoothed(loss: Floats, share: float = WINDOW) -> Floats:
    """Return the mean of each step and those before it within a share of the run; infinite if one is not finite."""
    width = max(1, round(share * len(loss)))
    total = np.r_[0.0, np.cumsum(np.where(np.isfinite(loss), loss, 0.0))]
    bad = np.r_[0, np.cumsum(~np.isfinite(loss))]
    stop = np.arange(1, len(loss) + 1)
    start = np.maximum(0, stop - width)
    return np.where(bad[stop] > bad[start], np.inf, (total[stop] - total[start]) / (stop - start))


def _mostly(true: np.ndarray) -> np.ndarray:
    """Return for each step whether something is true at most of those before it within a share of the run."""
    width = max(1, round(WINDOW * len(true)))
    total = np.r_[np.zeros(width, int), np.cumsum(true)]
    return (total[width:] - total[:-width]) * 2 > width


def final(values: Floats) -> float:
    """Return the mean of the last validations."""
    return float(values[-max(1, round(LAST * len(values))) :].mean())


def _reference(runs: Iterable[Recorded], problem: Problem, untrained: float, untrained_loss: float) -> Reference:
    of_rate: dict[float, list[Recorded]] = {}
    for run in runs:
        of_rate.setdefault(float(run.cell.lr), []).append(run)
    scores = {rate: float(np.mean([metric(problem, run).min() for run in some])) for rate, some in of_rate.items()}
    best = min(scores, key=lambda rate: scores[rate])
    limit = scores[best] + SMALL * (untrained - scores[best])
    low = min(rate for rate, value in scores.items() if value <= limit)
    ends = {rate: float(np.mean([final(metric(problem, run)) for run in some])) for rate, some in of_rate.items()}
    high = max([best, *(rate for rate, value in ends.items() if value <= limit)])
    loss = np.mean([smoothed(run.loss) for run in of_rate[best]], axis=0)
    return Reference(best, (low, high), scores[best], untrained, loss, untrained_loss)


def _label(problem: Problem, run: Recorded, reference: Reference, annealed: Recorded | None) -> Label:
    values = metric(problem, run)
    regret, best_regret = reference.regret(final(values)), reference.regret(float(values.min()))
    loss, rate, has_loss = smoothed(run.loss), float(run.cell.lr), not problem.maximum
    improvement = max(reference.untrained_loss - reference.loss[-1], 1e-12)
    lag = (loss - reference.loss[: len(loss)]) / improvement
    lost = not has_loss or bool(lag[-1] >= SMALL)  # in training, too, so that it is no overfitting
    truth: dict[str, bool | None] = dict.fromkeys(KINDS, False)
    shown: dict[str, int] = {}

    if not (np.isfinite(run.loss).all() and np.isfinite(values).all()):
        truth["nonfinite"] = True
        shown["nonfinite"] = int(np.argmin(np.isfinite(run.loss))) if not np.isfinite(run.loss).all() else run.steps
    above = _mostly(~(run.loss <= ABOVE * reference.untrained_loss) if has_loss else ~np.isfinite(run.loss))
    if run.cell.illness == "none":
        if rate > reference.good[1]:
            truth["too_high"] = _beyond(regret) if lost else (False if regret <= SMALL else None)
            truth["diverging"] = _beyond(regret) if above.any() else False
        elif rate > reference.best_lr and regret > SMALL:
            truth["too_high"] = None
        if rate < reference.good[0] and lost:
            truth["too_low"] = _beyond(best_regret)
        elif rate < reference.best_lr and best_regret > SMALL:
            truth["too_low"] = None
        if run.cell.schedule == "constant" and annealed is not None and rate >= reference.best_lr and has_loss:
            worse = reference.regret(final(values)) - reference.regret(final(metric(problem, annealed)))
            ends = loss[-1], smoothed(annealed.loss)[-1]
            if np.isfinite([worse, *ends]).all():
                truth["oscillating"] = _beyond(min(worse, (ends[0] - ends[1]) / improvement))
    truth["overfitting"], gap, since = _overfits(run, values, reference) if has_loss else (False, 0.0, 0)
    if truth["too_high"] and truth["overfitting"]:
        truth["overfitting"] = None
    if truth["overfitting"]:
        shown["overfitting"] = since
    if truth["diverging"]:
        shown["diverging"] = int(np.argmax(above))
    for kind in ("too_high", "too_low", "oscillating"):
        behind = lag >= LARGE
        if truth[kind] and has_loss and behind[-1]:
            shown[kind] = len(behind) - int(np.argmin(behind[::-1])) if not behind.all() else 0
    is_well = run.cell.illness == "none" and max(regret, best_regret) <= SMALL
    truth["healthy"] = is_well and not any(truth.values())
    if is_well and any(truth[kind] is None for kind in KINDS):
        truth["healthy"] = None
    return Label(run, problem.judged, reference.best_lr, regret, best_regret, gap, truth, shown)


def _beyond(regret: float) -> bool | None:
    """Whether a run lost much of the improvement; None: neither little nor much."""
    return True if regret >= LARGE else (False if regret <= SMALL else None)


def _overfits(run: Recorded, values: Floats, reference: Reference) -> tuple[bool | None, float, int]:
    """Return whether the validation loss rose while the training loss fell, by how much, and since which step."""
    if not np.isfinite(values).all() or not np.isfinite(run.loss).all():
        return False, 0.0, 0
    best = int(values.argmin())
    rise = final(values) - values[best]
    gap = float(rise / max(abs(values[best]), 1e-12))
    share = min(gap / RISE, reference.regret(reference.best + rise) / LEAST_RISE)
    if share < 0.5:
        return False, gap, 0
    loss = smoothed(run.loss)
    step = min(int(run.validated[best]), run.steps - 1)
    if not loss[-1] <= (1 - FALL) * loss[step]:
        return (False if loss[-1] >= loss[step] else None), gap, 0
    if share < 1:
        return None, gap, 0
    level = values[best] + max(RISE * abs(values[best]), LEAST_RISE * (reference.untrained - reference.best))
    late = np.flatnonzero((values >= level) & (np.arange(len(values)) > best))
    return True, gap, int(run.validated[late[0]]) if len(late) else run.steps


def write(labels: Iterable[Label], file: Path) -> None:
    """Write labels as a CSV file: 1, 0, or empty near the border."""
    part = file.with_suffix(".part")
    with part.open("w", newline="") as opened:
        writer = csv.writer(opened)
        names = ["problem", "split", "schedule", "lr", "seed", "illness", "best_lr", "regret", "best_regret", "gap"]
        writer.writerow([*names, *KINDS, "healthy", *(f"shown_{kind}" for kind in KINDS), "kinds"])
        for one in labels:
            cell = one.run.cell
            numbers = [f"{number:.4g}" for number in (one.best_lr, one.regret, one.best_regret, one.gap)]
            truth = ["" if one.truth[kind] is None else int(bool(one.truth[kind])) for kind in (*KINDS, "healthy")]
            shown = [one.shown.get(kind, "") for kind in KINDS]
            split = "judge" if one.judged else "tune"
            row = [cell.problem, split, cell.schedule, cell.lr, cell.seed, cell.illness, *numbers, *truth, *shown]
            writer.writerow([*row, " ".join(one.kinds)])
    part.replace(file)
