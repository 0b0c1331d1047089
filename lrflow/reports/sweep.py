"""The report of a sweep: `sweep.html`, printed tables, and the order in which all files are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrflow.display import short_names
from lrflow.errors import ConfigError, LrflowError
from lrflow.reports.page import Cell, Fact, Page
from lrflow.reports.sweep_matplotlib import plot_sweep
from lrflow.sweeps.analysis import MARGIN, Analysis, analyse
from lrflow.sweeps.best_recipe import BEST, command, write_recipe
from lrflow.sweeps.importance import importance, learning_curves
from lrflow.sweeps.results import SweepResults, TrialResult, Value


def write_page(sweep: SweepResults, analyses: Sequence[Analysis], best: Path | None, path: Path) -> Path:
    """Write a page of all that a sweep tells.

    Args:
        sweep: that was read.
        analyses: of its learning rate, one an objective; empty: there is none to tell of.
        best: the recipe of its best trial; None: there is none.
        path: of the page, in the sweep folder.

    Raises:
        ConfigError: plotly is not installed.
    """
    page = Page("Which learning rate?" if analyses else "What the sweep found", f"{sweep.folder}, {counts(sweep)}")
    from lrflow.reports import sweep_plotly as figures

    several = len(sweep.objectives) > 1
    page.facts(_facts(sweep, analyses))
    page.notes(remarks(sweep, analyses))
    if len(sweep.objectives) == 2 and sweep.ended:
        caption = f"{len(sweep.front)} of {len(sweep.trials)} trials: to better one objective costs the other."
        caption = caption if len(sweep.front) > 1 else f"Trial {sweep.front[0].number} is the best in both."
        caption += f" Blue is the lowest {sweep.lr_key}, red the highest." if sweep.lr_key else ""
        page.figure("The Pareto front", figures.front_figure(sweep), caption, 460)
    for analysis in analyses:
        name = analysis.sweep.metric
        page.figure(f"{name} against {analysis.lr_key}", figures.rates_figure(analysis), _legend(analysis), 460)
        _curves_table(page, analysis, f"Side by side, by {name}" if several else "Side by side")
    column, curves = learning_curves(sweep)
    if curves:
        key, top = (sweep.lr_key, analyses[0].upper_limit(column)) if analyses else (None, math.inf)
        caption = f"Blue is the lowest {key}, red the highest." if key else ""
        page.figure("How the trials learned", figures.learning_figure(sweep, key, column, curves, top), caption, 400)
    for objective in sweep.objectives:
        if found := importance(sweep.by(objective)):
            told = f"{found.method}, over {found.trials} trials."
            heading = f"What matters to {objective.name}"
            page.figure(heading, figures.importance_figure(found), told, 110 + 34 * len(found.shares))
    if len(sweep.keys) > 1 and len(sweep.ended) > 1:
        told = f"A line is a trial, its colour {sweep.metric}. Drag along an axis to pick a range out."
        page.figure("All together", figures.parallel_figure(sweep, sweep.keys), told, 380)
    if best and sweep.best:
        text = best.read_text(encoding="utf-8")
        heading = f"The best trial by {sweep.metric} again" if several else "The best trial again"
        page.code(heading, f"{command(sweep)}\n\n{text}", f"{best.relative_to(sweep.folder)} holds it.")
    _trials_table(page, sweep)
    return page.write(path)


def counts(sweep: SweepResults) -> str:
    """How many trials there are, and how many ended otherwise than well."""
    states = [trial.status.replace("_", " ") for trial in sweep.trials]
    others = [f"{states.count(state)} {state}" for state in dict.fromkeys(states) if state != "finished"]
    return ", ".join([f"{len(states)} trial{'s' if len(states) != 1 else ''}", *others])


def remarks(sweep: SweepResults, analyses: Sequence[Analysis]) -> list[str]:
    """What a person should know of a sweep: why it has no best trial, what is doubtful, what could not be read."""
    told = sweep.why_no_best()
    said = analyses and all(trial.diverged for trial in sweep.trials)  # by each curve
    return [*([told] if told and not said else []), *_doubts(analyses), *sweep.notes]


def _doubts(analyses: Sequence[Analysis]) -> list[str]:
    """Why the answers are not to be trusted, each with the objective and the curve that it is about."""
    found = []
    for analysis in analyses:
        for curve in analysis.curves:
            about = [analysis.sweep.metric] * (len(analyses) > 1) + [curve.name] * bool(curve.name)
            found += [": ".join([*about, doubt]) for doubt in curve.doubts]
    averaged = dict.fromkeys(key for analysis in analyses for key in analysis.averaged)
    return found + [f"{key} was swept too, and is averaged over" for key in averaged]


def _facts(sweep: SweepResults, analyses: Sequence[Analysis]) -> list[Fact]:
    """The best LR and the room around it; of several objectives the best LR and the best value of each."""
    several = len(sweep.objectives) > 1
    facts = []
    for analysis in analyses:
        curve, metric = analysis.curves[0], analysis.sweep.metric
        if not (curve.minimum and curve.basin):
            continue
        of = f" by {metric}" * several + f" of {curve.name}" * bool(curve.name)
        facts.append(Fact(f"best LR{of}", f"{curve.lr:.3g}", curve.interval_text))
        if several:
            continue
        off = analysis.margin_of(curve)
        told = f"{curve.basin.low:.2g} to {curve.basin.high:.2g}: {metric} worse by {off:.2g} at most"
        seen = "" if all(curve.basin.closed) else "> "  # an end of it lies beyond the LRs that were tried
        facts.append(Fact("room around it", f"{seen}{curve.basin.decades:.2g} decades", told))
        if curve.sensitivity is not None:
            facts.append(Fact("LR sensitivity", f"{curve.sensitivity:.3g}", "mean loss over the LRs, less the best"))
    for objective in sweep.objectives:
        if best := sweep.by(objective).best:
            value = f"{best.metrics[objective.name]:.4g}"
            facts.append(Fact(f"best {objective.name}", value, f"trial {best.number}"))
    return facts


def _legend(analysis: Analysis) -> str:
    """What the marks in the figure of the metric against the LR are, those that it has."""
    sentences = ["A dot is a trial, a star the best LR; where the line is thick the metric is hardly worse."]
    if any(point.diverged for curve in analysis.curves for point in curve.points):
        sentences.append("A cross diverged.")
    if pruned := analysis.pruned_points():
        sentences.append("A grey triangle is a pruned trial where it was given up: it is in no fit.")
        if moved := [value for _, value, trial in pruned if trial.metrics[analysis.sweep.metric] > value]:
            sentences.append(f"Those above {max(moved):.3g} are drawn at it.")
    return " ".join(sentences)


def _curves_table(page: Page, analysis: Analysis, heading: str) -> None:
    if len(analysis.curves) < 2:
        return
    known = analysis.measures_sensitivity
    columns = ["", "best LR", "from", "to", analysis.sweep.metric, "basin from", "to", "decades"]
    columns += ["sensitivity"] if known else []
    rows = []
    for curve in analysis.curves:
        (low, high), basin = curve.interval, curve.basin
        ends = (basin.low, basin.high, basin.decades) if basin else (None, None, None)
        answer = (curve.lr, low, high, analysis.metric(curve.cost)) if math.isfinite(curve.cost) else (None,) * 4
        rows.append([curve.name, *answer, *ends, *([curve.sensitivity] if known else [])])
    page.table(heading, columns, rows, " ".join(analysis.explanations()), strong=0)


def _trials_table(page: Page, sweep: SweepResults) -> None:
    pareto = ["Pareto front"] if len(sweep.objectives) > 1 else []
    columns = ["trial", "status", *pareto, *sweep.keys, *sweep.metrics, "steps", "seconds"]
    explained = any(trial.error for trial in sweep.trials)
    columns += ["why"] if explained else []
    rows = [_row(sweep, trial, explained) for trial in sweep.trials]
    best = next((place for place, trial in enumerate(sweep.trials) if trial is sweep.best), None)
    page.table("Trials", columns, rows, "A click on a heading sorts. A number leads to its run folder.", best)


def _row(sweep: SweepResults, trial: TrialResult, explained: bool) -> list[str | float | Cell | None]:
    given = [None if (value := trial.given.get(key)) is None else _cell(value) for key in sweep.keys]
    metrics = [trial.metrics.get(name) for name in sweep.metrics]
    number = Cell(str(trial.number), trial.number, f"{trial.folder.relative_to(sweep.folder)}/")
    pareto = ["yes" if trial in sweep.front else None] if len(sweep.objectives) > 1 else []
    ending = [trial.steps, trial.seconds, *([trial.reason] if explained else [])]
    return [number, trial.status, *pareto, *given, *metrics, *ending]


def _cell(value: str | float | bool) -> str | float:
    return str(value).lower() if isinstance(value, bool) else value


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
            console.print(Text(" ".join(analysis.explanations()), "dim"))
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
