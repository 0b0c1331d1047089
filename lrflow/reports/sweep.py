"""What comes out of a sweep: tables, a picture, a page, and the best trial as a recipe."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrflow.display import short_names
from lrflow.errors import ConfigError, LrflowError
from lrflow.reports.sweep_page import remarks, write_page
from lrflow.reports.sweep_picture import plot_sweep
from lrflow.sweeps.analysis import MARGIN, analyse
from lrflow.sweeps.best import BEST, command, write_recipe
from lrflow.sweeps.curves import Analysis
from lrflow.sweeps.recorded import Value
from lrflow.sweeps.results import SweepResults

SHOWN = 12  # trials of a Pareto front that are printed


def report(sweep: SweepResults, console: Console, margin: str | float = MARGIN, recipe: bool = True) -> list[Analysis]:
    """Write `sweep.csv`, `sweep.png`, `sweep.html` and `recipe/best.yaml` into a sweep folder, and print the answer.

    Args:
        sweep: that was read; it has trials.
        console: where to print.
        margin: how much worse than the best a metric may be within a basin, as `analyse` takes it.
        recipe: whether to write `recipe/best.yaml`; else the one that is there stays.

    Returns:
        what the sweep says about its LR by each objective; empty: it swept none. Then a picture is drawn of two
        objectives alone.
    """
    analyses = [found for objective in sweep.objectives if (found := analyse(sweep.by(objective), margin))]
    several = len(sweep.objectives) > 1
    folder, best = sweep.folder, None
    written, missing = [sweep.write_csv(folder / "sweep.csv")], []
    if analyses or (len(sweep.objectives) == 2 and sweep.ended):
        written.append(plot_sweep(sweep, analyses, folder / "sweep.png"))
    try:
        best = write_recipe(sweep, sweep.best) if sweep.best and recipe else None
    except LrflowError as error:
        missing.append(f"no recipe of the best trial: {error}")
    try:
        written.append(write_page(sweep, analyses, best, folder / "sweep.html"))
    except ConfigError as error:
        missing += [f"no sweep.html: it {problem.message}: {problem.hint}" for problem in error.problems]
    if several:
        console.print(_front(sweep))
    for analysis in analyses:
        console.print(_answer(analysis))
        if any(curve.basin for curve in analysis.curves):
            console.print(Text(" ".join(analysis.explained()), "dim"))
    for remark in remarks(sweep, analyses):
        console.print(Text(f"! {remark}", "yellow"), soft_wrap=True)
    for line in missing:
        console.print(Text(line, "dim"), soft_wrap=True)
    written += [best] if best else []
    names = ", ".join(str(path.relative_to(folder)) for path in written)
    console.print(f"{folder}/: {names}", soft_wrap=True)
    if sweep.best and not recipe:
        told = f"trial {sweep.best.number} is the best by {sweep.metric} ({sweep.mode}), not the sweep's own metric"
        console.print(Text(f"{told}: recipe/{BEST}.yaml stays; task.write=true writes it", "dim"), soft_wrap=True)
    if best:
        which = f"the best by {sweep.metric} again: " if several else "the best again: "
        console.print(Text.assemble((which, "dim"), command(sweep)), soft_wrap=True)
    if len(sweep.front) > 1 and several:
        another = f"python -m lrflow task=analyze task.from={folder} task.trial={sweep.front[1].number}"
        console.print(Text.assemble(("another as a recipe: ", "dim"), another), soft_wrap=True)
    return analyses


def _front(sweep: SweepResults) -> Table:
    """A row a trial of the Pareto front: its number, what it was given, what it ended at."""
    shown = sweep.front[:SHOWN]
    more = f", of which {SHOWN} are shown" if len(sweep.front) > SHOWN else ""
    title = f"Pareto front: {len(sweep.front)} of {len(sweep.trials)} trials{more}"
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left", title_style="bold")
    judged = [objective.name for objective in sweep.objectives]
    for heading in ["trial", *short_names(sweep.keys, ["trial", *judged]), *judged]:
        table.add_column(heading, justify="right")
    for trial in shown:
        values = [*(trial.given.get(key) for key in sweep.keys), *(trial.metrics[metric] for metric in judged)]
        table.add_row(str(trial.number), *(_told(value) for value in values))
    return table


def _told(value: Value) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _answer(analysis: Analysis) -> Table:
    """A row a curve: its best LR, how sure that is, how far off it may be."""
    metric = analysis.sweep.metric
    headings = ["best LR", "interval", metric, "basin"]
    headings += ["sensitivity"] if analysis.measures_sensitivity else []
    headings = ["", *headings] if len(analysis.curves) > 1 else headings
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=heading != "")
    for curve in analysis.curves:
        cells = list(curve.doubts[:1])
        if curve.basin and math.isfinite(curve.cost):
            low, high = curve.interval
            cells = [f"{curve.lr:.3g}", f"{low:.3g} to {high:.3g}", f"{analysis.metric(curve.cost):.4g}"]
            cells.append(f"{curve.basin.low:.2g} to {curve.basin.high:.2g}")
            cells += [f"{curve.sensitivity:.3g}"] if curve.sensitivity is not None else []
        table.add_row(*([curve.name] if len(analysis.curves) > 1 else []), *cells)
    return table
