"""The tables of docs/find.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.find.problems import CONFIRMED, CONSENSUS, Problem
from benchmarks.find.scores import Score, basin, best, honest, scores

PAGE = Path(__file__).parent.parent.parent / "docs" / "find.md"
FIRST, LAST = "<!-- measured by python -m benchmarks.find -->", "<!-- end of what was measured -->"


def tables(problems: Sequence[Problem]) -> str:
    """Return the tables of the problems and of the scores in Markdown."""
    return f"{_truths(problems)}\n\n{_answers(problems)}"


def _truths(problems: Sequence[Problem]) -> str:
    heads = ["", "best LR", "within 3%", "steps", "grid", *(f"cost of `{name}`" for name in (CONSENSUS, CONFIRMED))]
    rows = [[*heads, "confident", "interval meets the 3%"], ["---"] * (len(heads) + 2)]
    for problem in problems:
        low, high = basin(problem)
        found = scores(problem)
        costs = [f"{found[name].cost:.1f} runs, {100 * found[name].share:.0f}%" for name in (CONSENSUS, CONFIRMED)]
        told = [honest(problem, name) for name in (CONSENSUS, CONFIRMED)]
        rows.append(
            [
                problem.title,
                f"{best(problem):.2g}",
                f"{low:.2g} to {high:.2g}",
                str(problem.steps),
                f"{len(problem.rates)} LRs, {problem.runs} seeds",
                *costs,
                ", ".join(f"{sure} of {count}" for sure, _, count in told),
                ", ".join(f"{reach} of {count}" for _, reach, count in told),
            ]
        )
    return _lines(rows)


def _answers(problems: Sequence[Problem]) -> str:
    found = [scores(problem) for problem in problems]
    rows = [["error, spread, loss", *(problem.title for problem in problems)], ["---"] * (len(problems) + 1)]
    for name in dict.fromkeys(name for column in found for name in column):
        rule = name.removesuffix(" alone")
        shown = f"`{rule}` alone" if rule != name else f"`{name}`" if name in (CONFIRMED, CONSENSUS) else name
        rows.append([shown, *(_cell(column.get(name)) for column in found)])
    return _lines(rows)


def _cell(score: Score | None) -> str:
    if score is None or not np.isfinite(score.error):
        return "no answer"
    none = f" ({score.none} had no answer)" if score.none else ""
    return f"{score.error:+.2f}, {score.spread:.2f}, {'> ' if score.beyond else ''}{score.loss:.2f}{none}"


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows)


def write_table(problems: Sequence[Problem]) -> str:
    """Write the tables between the comments of the page and return them."""
    text, content = tables(problems), PAGE.read_text()
    block = f"{FIRST}\n{text}\n{LAST}"
    PAGE.write_text(re.sub(f"{re.escape(FIRST)}.*?{re.escape(LAST)}", lambda _: block, content, flags=re.DOTALL))
    return text
