"""The tables of docs/sweeps.md."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.sweeps.landscape import LANDSCAPES, Landscape
from benchmarks.sweeps.methods import SAMPLINGS, Regrets, after, whole_steps
from benchmarks.sweeps.overhead import FILE, costs

PAGE = Path(__file__).parents[2] / "docs" / "sweeps.md"
MARKS = "<!-- {0}: python -m benchmarks.sweeps {0} -->", "<!-- end of {0} -->"
SHOWN = (3, 6, 12, 18)  # compute in full runs


def write_tables(measured: Mapping[str, Regrets]) -> str:
    """Write the tables between their comments in the page and return them.

    Args:
        measured: regrets by name of the landscape.
    """
    of_name = {landscape.name: landscape for landscape in LANDSCAPES}
    found = {name: regret_table(of_name[name], regrets) for name, regrets in measured.items()}
    if FILE.is_file():
        found["overhead"] = overhead_table()
    page = PAGE.read_text()
    for name, text in found.items():
        first, last = (mark.format(name) for mark in MARKS)
        block = f"{first}\n{text}\n{last}"
        page = re.sub(f"{re.escape(first)}.*?{re.escape(last)}", lambda _, block=block: block, page, flags=re.DOTALL)  # type: ignore[misc]
    PAGE.write_text(page)
    return "\n\n".join(found.values())


def regret_table(landscape: Landscape, regrets: Regrets) -> str:
    """Return the mean regret of each method at several amounts of compute, and how often it has an answer."""
    whole = whole_steps(landscape)
    heads = [f"{landscape.title}; {len(landscape.seeds())} x {SAMPLINGS} seeds", *(f"{count} runs" for count in SHOWN)]
    rows = [heads, ["---"] * len(heads)]
    for name, curves in regrets.items():
        cells = []
        for count in SHOWN:
            values = np.array([after(curve, count * whole) for curve in curves])
            known = values[np.isfinite(values)]
            none = len(values) - len(known)
            told = f"{known.mean():.4f}, worst {known.max():.3f}" if len(known) else "no answer"
            cells.append(f"{told} ({none} have none)" if none and len(known) else told)
        rows.append([name, *cells])
    return _lines(rows)


def overhead_table() -> str:
    """Return the cost per trial, absolute and relative to the cheapest."""
    trials, found = costs()
    heads = [f"mean of {trials} trials of 20 steps", "CPU", "wall", "CPU over the first"]
    least = min(cpu for cpu, _ in found.values())
    rows = [heads, ["---"] * len(heads)]
    for name, (cpu, wall) in sorted(found.items(), key=lambda item: item[1]):
        rows.append([name, f"{1000 * cpu:.0f} ms", f"{1000 * wall:.0f} ms", f"{cpu / least:.1f}x"])
    return _lines(rows)


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
