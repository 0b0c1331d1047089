"""What the answers are worth, held against the grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.find.problems import CONFIRMED, CONSENSUS, RUNS, Floats, Problem

GOOD = 1.03  # times the loss of the best LR: what a found one should reach


@dataclass(frozen=True)
class Score:
    """What the answers of a contestant are worth.

    Args:
        answers: the LRs; [n].
        none: how often it had no answer.
        error: of the median answer, in decades from the best LR of the grid.
        spread: standard deviation of the answers, in decades.
        loss: the mean loss at the answers over the least of the grid, read off it in straight lines over logarithms.
        beyond: whether an answer lies where the grid knows no loss, so that the loss is the next one that it knows.
        cost: steps spent on an answer, in whole runs.
        share: the same, as a share of the grid.
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
    """Of each contestant, in the order of the table."""
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
    slack = 1e-3  # a bound of the grid belongs to it
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
    """The LR of the grid with the least loss."""
    return float(problem.rates[np.argmin(problem.losses)])


def basin(problem: Problem) -> tuple[float, float]:
    """Between which LRs the loss is within `GOOD` of the least, in straight lines over logarithms."""
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
    """Of lrflow's answers: how many are confident, how many intervals reach into the basin, and of how many."""
    rows = [row for row in problem.kept if name in row.get("intervals", {})]
    low, high = basin(problem)
    reach = [row["intervals"][name][0] <= high and row["intervals"][name][1] >= low for row in rows]
    return sum(not row["doubts"][name] for row in rows), sum(reach), len(rows)
