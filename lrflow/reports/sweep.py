"""What comes out of a sweep: a table, a picture, a page, and the best trial as a recipe."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrflow.errors import ConfigError, LrflowError
from lrflow.reports.sweep_page import doubts, write_page
from lrflow.reports.sweep_picture import plot
from lrflow.sweeps.analysis import MARGIN, analyse
from lrflow.sweeps.best import command, write_best
from lrflow.sweeps.curves import Analysis
from lrflow.sweeps.results import Sweep


def report(sweep: Sweep, console: Console, margin: str | float = MARGIN) -> Analysis | None:
    """Write `sweep.csv`, `sweep.png`, `sweep.html` and `recipe/best.yaml` into a sweep folder, and print the answer.

    Args:
        sweep: that was read; it has trials.
        console: where to print.
        margin: how much worse than the best a metric may be within a basin, as `analyse` takes it.

    Returns:
        what the sweep says about its LR; None: it swept none, and no picture is drawn.
    """
    analysis = analyse(sweep, margin)
    folder, best = sweep.folder, None
    written, missing = [sweep.write_csv(folder / "sweep.csv")], []
    if analysis:
        written.append(plot(analysis, folder / "sweep.png"))
    try:
        best = write_best(sweep)
    except LrflowError as error:
        missing.append(f"no recipe of the best trial: {error}")
    try:
        written.append(write_page(sweep, analysis, best, folder / "sweep.html"))
    except ConfigError as error:
        missing += [f"no sweep.html: it {problem.message}: {problem.hint}" for problem in error.problems]
    if analysis:
        console.print(_answer(analysis))
    for doubt in [*doubts(analysis), *sweep.notes]:
        console.print(Text(f"! {doubt}", "yellow"), soft_wrap=True)
    for line in missing:
        console.print(Text(line, "dim"), soft_wrap=True)
    names = ", ".join(str(path.relative_to(folder)) for path in written)
    console.print(f"{folder}/: {names}", soft_wrap=True)
    if best:
        console.print(Text.assemble(("the best again: ", "dim"), command(sweep)), soft_wrap=True)
    return analysis


def _answer(analysis: Analysis) -> Table:
    """A row a curve: its best LR, how sure that is, how far off it may be."""
    metric = analysis.sweep.metric
    headings = ["best LR", "interval", metric, "basin"]
    headings += ["sensitivity"] if any(curve.sensitivity is not None for curve in analysis.curves) else []
    headings = ["", *headings] if len(analysis.curves) > 1 else headings
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=heading != "")
    for curve in analysis.curves:
        cells = ["every LR diverged"]
        if curve.basin and math.isfinite(curve.cost):
            low, high = curve.interval
            cells = [f"{curve.lr:.3g}", f"{low:.3g} to {high:.3g}", f"{analysis.metric(curve.cost):.4g}"]
            cells.append(f"{curve.basin.low:.2g} to {curve.basin.high:.2g}")
            cells += [f"{curve.sensitivity:.3g}"] if curve.sensitivity is not None else []
        table.add_row(*([curve.name] if len(analysis.curves) > 1 else []), *cells)
    return table
