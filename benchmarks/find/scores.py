"""Score the answers by the grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.find.problems import CONFIRMED, CONSENSUS, RUNS, Floats, Problem

GOOD = 1.03  # loss that a good LR should reach, as a multiple of the lowest loss


@dataclass(frozen=True)
class Score:
    """The score of a contestant's answers.

    Args:
        answers: LRs; [n].
        none: number of searches without an answer.
        error: distance of the median answer from the best LR of the grid, in decades.
        spread: standard deviation of the answers, in decades.
        loss: mean loss at the answers relative to the lowest of the grid, interpolated linearly over logarithms.
        beyond: True: an answer lies outside the finite losses of the grid, so the nearest finite loss is used.
        cost: steps per answer, in full runs.
        share: the same as a share of the grid.
    """

    answers: Floats
    none: int
    error: float
    spread: float
    loss: float
    beyond: bool
    cost: float
    share: float


def scores(problem: Problem) -> dict[str, Score]:
    """Return the score of each contestant, in the order of the table."""
    found: dict[str, list[float]] = {}
    steps: dict[str, list[float]] = {}
    for row in problem.kept:
        if row["contestant"] != RUNS:
            for name, lr in row["answers"].items():
                found.setdefault(name, []).append(lr)
                steps.setdefault(name, []).append(row["steps"] + row.get("short_steps", 0))
    order = list(dict.fromkeys((CONFIRMED, CONSENSUS, *found)))
    return {name: _score(problem, np.array(found[name], float), float(np.mean(steps[name]))) for name in order}


def _score(problem: Problem, answers: Floats, steps: float) -> Score:
    given = answers[np.isfinite(answers)]
    known = np.isfinite(problem.losses)
    rates, losses = problem.rates[known], problem.losses[known]
    logs = np.log10(given)
    at = np.exp(np.interp(logs, np.log10(rates), np.log(losses)))
    slack = 1e-3  # the bounds of the grid belong to it
    beyond = bool(np.any((given < rates[0] * (1 - slack)) | (given > rates[-1] * (1 + slack))))
    return Score(
        answers=given,
        none=len(answers) - len(given),
        error=float(np.median(logs) - np.log10(best(problem))),
        spread=float(np.std(logs)),
        loss=float(at.mean() / losses.min()),
        beyond=beyond,
        cost=steps / problem.steps,
        share=steps / (problem.steps * len(problem.rates) * problem.runs),
    )


def best(problem: Problem) -> float:
    """Return the LR of the grid with the lowest loss."""
    return float(problem.rates[np.argmin(problem.losses)])


def basin(problem: Problem) -> tuple[float, float]:
    """Return the LR range with a loss within `GOOD` of the lowest, interpolated linearly over logarithms."""
    known = np.isfinite(problem.losses)
    logs, losses = np.log10(problem.rates[known]), np.log(problem.losses[known])
    fine = np.linspace(logs[0], logs[-1], 2000)
    good = np.interp(fine, logs, losses) <= losses.min() + np.log(GOOD)
    centre = int(np.argmin(np.abs(fine - np.log10(best(problem)))))
    low = high = centre
    while low > 0 and good[low - 1]:
        low -= 1
    while high < len(fine) - 1 and good[high + 1]:
        high += 1
    return float(10 ** fine[low]), float(10 ** fine[high])


def honest(problem: Problem, name: str) -> tuple[int, int, int]:
    """Count lrflow's answers: confident ones, intervals that overlap the basin, and all."""
    rows = [row for row in problem.kept if name in row.get("intervals", {})]
    low, high = basin(problem)
    reach = [row["intervals"][name][0] <= high and row["intervals"][name][1] >= low for row in rows]
    return sum(not row["doubts"][name] for row in rows), sum(reach), len(rows)
