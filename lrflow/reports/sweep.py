"""The report of a sweep: `report.html`, printed tables, and the order in which all files are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrflow.config.composition.literal import in_shell
from lrflow.errors import LrflowError
from lrflow.finding import spoken
from lrflow.reports.page import Cell, Fact, Page
from lrflow.reports.runs import page_of
from lrflow.reports.sweep_charts import by_figure, figures
from lrflow.reports.sweep_picture import plot_sweep
from lrflow.runs import PAGE
from lrflow.sweeps.analysis import MARGIN, Analysis, analyse
from lrflow.sweeps.folders import read_sweep
from lrflow.sweeps.results import SweepResults, TrialResult, Value
from lrflow.sweeps.trial_recipe import BEST, command, write_recipe
from lrflow.wording import counted, short_names

MAX_PRINTED = 12  # trials of a Pareto front


def report(
    sweep: SweepResults, console: Console, margin: str | float = MARGIN, recipe: bool = True, page: bool = True
) -> list[Analysis]:
    """Write `sweep.csv`, `sweep.png`, `report.html` and `recipe/best.yaml` into a sweep folder, and print a summary.

    `sweep.png` is written if an LR was swept or if there are two objectives.

    Args:
        sweep: the results, with at least one trial.
        console: for the summary.
        margin: how much worse than the best the metric may be within a basin; see `analyse`.
        recipe: whether to write `recipe/best.yaml`; an existing one is not deleted otherwise.
        page: whether to write `report.html`.

    Returns:
        the analyses of the LR, one per objective; empty: no LR was swept.
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
        if page:
            made = _page(sweep, analyses, best, lambda run: page_of(run, folder))
            written.append(made.write(folder / PAGE))
    except LrflowError as error:
        missing.append(f"no {PAGE}: {error}")
    if several:
        console.print(_front(sweep))
    for analysis in analyses:
        console.print(_answer(analysis))
        if any(curve.basin for curve in analysis.curves):
            console.print(Text(" ".join(analysis.explanations()), "dim"))
    for warning in warnings_of(sweep, analyses):
        console.print(Text(f"! {warning}", "yellow"), soft_wrap=True)
    for line in missing:
        console.print(Text(line, "dim"), soft_wrap=True)
    written += [best] if best else []
    names = ", ".join(str(path.relative_to(folder)) for path in written)
    console.print(f"{folder}/: {names}", soft_wrap=True)
    if sweep.best and not recipe:
        which = f"trial {sweep.best.number} is the best by {sweep.metric} ({sweep.mode}), not by the sweep's own metric"
        text = f"{which}: recipe/{BEST}.yaml is unchanged; task.write=true writes it"
        console.print(Text(text, "dim"), soft_wrap=True)
    if best:
        label = f"run the best by {sweep.metric} again: " if several else "run the best again: "
        console.print(Text.assemble((label, "dim"), command(sweep)), soft_wrap=True)
    if len(sweep.front) > 1 and several:
        another = f"python -m lrflow task=analyze {in_shell('task.from', folder)} task.trial={sweep.front[1].number}"
        console.print(Text.assemble(("write another trial as a recipe: ", "dim"), another), soft_wrap=True)
    return analyses


def write_sweep_page(folder: Path) -> Path:
    """Write the page of a sweep into its folder, from the folders of its runs.

    Raises:
        LrflowError: no run can be read, or the library that draws the figures cannot be made.
        OSError: the page cannot be written.
    """
    return sweep_page(folder, lambda run: page_of(run, folder)).write(folder / PAGE)


def sweep_page(folder: Path, link: Callable[[Path], str]) -> Page:
    """Return the page of a sweep, from the folders of its runs.

    Args:
        folder: of the sweep.
        link: returns the link to the page of the run in a folder.

    Raises:
        LrflowError: no run can be read.
    """
    sweep = read_sweep(folder)
    if not sweep.trials:
        raise LrflowError(f"{folder}: no run of this sweep can be read")
    analyses = [found for objective in sweep.objectives if (found := analyse(sweep.by(objective)))]
    recipe = folder / "recipe" / f"{BEST}.yaml"
    return _page(sweep, analyses, recipe if recipe.exists() else None, link)


def _page(sweep: SweepResults, analyses: Sequence[Analysis], best: Path | None, link: Callable[[Path], str]) -> Page:
    """Return the page of a sweep.

    Args:
        sweep: the results.
        analyses: of the LR, one per objective; empty: no LR was swept.
        best: the recipe of the best trial; None: there is none.
        link: returns the link to the page of the run in a folder.
    """
    page = Page("Learning rate sweep" if analyses else "Sweep", f"{sweep.folder}, {counts(sweep)}")
    several = len(sweep.objectives) > 1
    page.facts(_facts(sweep, analyses))
    page.warnings(warnings_of(sweep, analyses))
    shown = by_figure(analyses)
    for figure in figures(sweep, analyses):
        page.draw([figure])
        if analysis := shown.get(figure.name):
            _curves_table(page, analysis, f"Side by side, by {analysis.sweep.metric}" if several else "Side by side")
    if best and sweep.best:
        text = best.read_text(encoding="utf-8")
        heading = f"Run the best trial by {sweep.metric} again" if several else "Run the best trial again"
        page.code(heading, f"{command(sweep)}\n\n{text}", f"Recipe: {best.relative_to(sweep.folder)}.")
    _trials_table(page, sweep, link)
    return page


def counts(sweep: SweepResults) -> str:
    """Return the number of trials, and the number of those that did not finish by their status."""
    states = [trial.status.replace("_", " ") for trial in sweep.trials]
    others = [f"{states.count(state)} {state}" for state in dict.fromkeys(states) if state != "finished"]
    return ", ".join([counted(len(states), "trial"), *others])


def warnings_of(sweep: SweepResults, analyses: Sequence[Analysis]) -> list[str]:
    """Return warnings about a sweep: why no trial is the best, doubts about the best LRs, findings, bad trials."""
    reason = sweep.why_no_best()
    every_curve_diverged = analyses and all(trial.diverged for trial in sweep.trials)  # and has a doubt about it
    why = [reason] if reason and not every_curve_diverged else []
    return [*why, *_doubts(analyses), *found_in(sweep), *sweep.warnings]


def found_in(sweep: SweepResults) -> list[str]:
    """Return what monitors found in how many trials, one line per kind, without trials whose status is the finding."""
    lines = []
    for kind, numbers in sweep.found.items():
        if others := [number for number in numbers if not (kind == "diverging" and sweep.numbered[number].diverged)]:
            of = counted(len(sweep.trials), "trial")
            lines.append(f"{spoken(kind)} in {len(others)} of {of}: {', '.join(map(str, others))}")
    return lines


def _doubts(analyses: Sequence[Analysis]) -> list[str]:
    """Return the doubts of all curves, each with its objective and its curve."""
    doubts = []
    for analysis in analyses:
        for curve in analysis.curves:
            subject = [analysis.sweep.metric] * (len(analyses) > 1) + [curve.name] * bool(curve.name)
            doubts += [": ".join([*subject, doubt]) for doubt in curve.doubts]
    averaged = dict.fromkeys(key for analysis in analyses for key in analysis.averaged)
    return doubts + [f"{key} was swept too, and is averaged over" for key in averaged]


def _facts(sweep: SweepResults, analyses: Sequence[Analysis]) -> list[Fact]:
    """Return the best LR and its basin; for several objectives, the best LR and the best value of each."""
    several = len(sweep.objectives) > 1
    facts = []
    for analysis in analyses:
        curve, metric = analysis.curves[0], analysis.sweep.metric
        if not curve.minimum:
            continue
        of = f" by {metric}" * several + f" of {curve.name}" * bool(curve.name)
        seeds = "; {:.3g} to {:.3g} over seeds".format(*curve.seeds) if curve.seeds else ""
        facts.append(Fact(f"best LR{of}", f"{curve.lr:.3g}", f"{curve.interval_text}{seeds}"))
        if several:
            continue
        if basin := curve.basin:
            note = f"{basin.low:.2g} to {basin.high:.2g}: {metric} worse by at most {analysis.margin_of(curve):.2g}"
            above = "" if all(basin.closed) else "> "  # the basin extends beyond the LRs that were tried
            facts.append(Fact("basin", f"{above}{basin.decades:.2g} decades", note))
        if curve.sensitivity is not None:
            facts.append(Fact("LR sensitivity", f"{curve.sensitivity:.3g}", "mean loss over the LRs, minus the best"))
    for objective in sweep.objectives:
        if best := sweep.by(objective).best:
            spread = best.spread(objective.name)
            of = f"trial {best.number}" + (f", the mean of {spread.count} runs" if spread else "")
            facts.append(Fact(f"best {objective.name}", str(spread or f"{best.metrics[objective.name]:.4g}"), of))
    return facts


def _curves_table(page: Page, analysis: Analysis, heading: str) -> None:
    if len(analysis.curves) < 2:
        return
    has_sensitivity = analysis.measures_sensitivity
    columns = ["curve", "best LR", "from", "to", analysis.sweep.metric, "basin from", "to", "decades"]
    columns += ["sensitivity"] if has_sensitivity else []
    columns += ["over seeds from", "to"] if analysis.has_seeds else []
    rows = []
    for curve in analysis.curves:
        (low, high), basin = curve.interval, curve.basin
        ends = (basin.low, basin.high, basin.decades) if basin else (None, None, None)
        answer = (curve.lr, low, high, analysis.metric(curve.cost)) if math.isfinite(curve.cost) else (None,) * 4
        seeds = (curve.seeds or (None, None)) if analysis.has_seeds else ()
        rows.append([curve.name, *answer, *ends, *([curve.sensitivity] if has_sensitivity else []), *seeds])
    page.table(heading, columns, rows, " ".join(analysis.explanations()), strong=0)


def _trials_table(page: Page, sweep: SweepResults, link: Callable[[Path], str]) -> None:
    several = sweep.has_repeats
    pareto = ["Pareto front"] if len(sweep.objectives) > 1 else []
    columns = ["trial", "status", *pareto, *sweep.keys, *(["runs"] if several else []), *sweep.metrics]
    columns += ["steps", "seconds"]
    has_errors = any(trial.error for trial in sweep.trials)
    columns += (["findings"] if sweep.found else []) + (["error"] if has_errors else [])
    rows = [_row(sweep, trial, link, has_errors) for trial in sweep.trials]
    best = next((index for index, trial in enumerate(sweep.trials) if trial is sweep.best), None)
    text = "A column's name sorts by it. Numbers link to run folders, or to the pages that lrflow report made."
    means = "Metrics are mean ± standard deviation over the runs of a trial, which have different seeds or folds. "
    page.table("Trials", columns, rows, means * several + text, best)
    if several:
        runs = replace(
            sweep, trials=sweep.runs, keys=tuple(dict.fromkeys(key for run in sweep.runs for key in run.given))
        )
        heads = ["trial", "status", *runs.keys, *runs.metrics, "steps", "seconds"]
        heads += [*(["findings"] if sweep.found else []), "error"]
        page.table("Runs", heads, [_row(runs, run, link, True, front=False) for run in runs.trials], text)


def _row(
    sweep: SweepResults, trial: TrialResult, link: Callable[[Path], str], has_errors: bool, front: bool = True
) -> list[str | float | Cell | None]:
    given = [None if (value := trial.given.get(key)) is None else _cell(value) for key in sweep.keys]
    metrics = [_metric(trial, name) for name in sweep.metrics]
    count = [_count(trial)] if sweep.has_repeats else []
    number = Cell(str(trial.number), trial.number, link(trial.folder))
    pareto = ["yes" if trial in sweep.front else None] if front and len(sweep.objectives) > 1 else []
    found = [", ".join(map(spoken, trial.findings))] if sweep.found else []
    last = [trial.steps, trial.seconds, *found, *([trial.reason] if has_errors else [])]
    return [number, trial.status, *pareto, *given, *count, *metrics, *last]


def _metric(trial: TrialResult, name: str) -> float | Cell | None:
    """Return a metric for the table, with its standard deviation if it is a mean over runs."""
    value, spread = trial.metrics.get(name), trial.spread(name)
    return value if value is None or spread is None else Cell(str(spread), value)


def _count(trial: TrialResult) -> Cell:
    """Return how many runs of a trial count, and how many it made if these are more."""
    counting, made = len(trial.counting), len(trial.runs)
    return Cell(str(made) if counting == made else f"{counting} of {made}", counting)


def _cell(value: str | float | bool) -> str | float:
    return str(value).lower() if isinstance(value, bool) else value


def _front(sweep: SweepResults) -> Table:
    """Return a table of the Pareto front: one row per trial, with its number, its values and its objectives."""
    printed = sweep.front[:MAX_PRINTED]
    more = f", the first {MAX_PRINTED} of them" if len(sweep.front) > MAX_PRINTED else ""
    title = f"Pareto front: {len(sweep.front)} of {len(sweep.trials)} trials{more}"
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left", title_style="bold")
    names = [objective.name for objective in sweep.objectives]
    for heading in ["trial", *short_names(sweep.keys, ["trial", *names]), *names]:
        table.add_column(heading, justify="right")
    for trial in printed:
        values = [*(trial.given.get(key) for key in sweep.keys), *(trial.metrics[name] for name in names)]
        table.add_row(str(trial.number), *(_text(value) for value in values))
    return table


def _text(value: Value) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _answer(analysis: Analysis) -> Table:
    """Return a table of the curves: one row per curve, with its best LR, interval, metric, basin and sensitivity."""
    metric = analysis.sweep.metric
    headings = ["best LR", "interval", metric, "basin"]
    headings += ["sensitivity"] if analysis.measures_sensitivity else []
    headings += ["over seeds"] if analysis.has_seeds else []
    headings = ["", *headings] if len(analysis.curves) > 1 else headings
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=heading != "")
    for curve in analysis.curves:
        cells = list(curve.doubts[:1])
        if curve.minimum and math.isfinite(curve.cost):
            low, high = curve.interval
            cells = [f"{curve.lr:.3g}", f"{low:.3g} to {high:.3g}", f"{analysis.metric(curve.cost):.4g}"]
            cells.append(f"{curve.basin.low:.2g} to {curve.basin.high:.2g}" if curve.basin else "")
            if analysis.measures_sensitivity:
                cells.append("" if curve.sensitivity is None else f"{curve.sensitivity:.3g}")
            cells += ["{:.3g} to {:.3g}".format(*curve.seeds)] if curve.seeds else []
        table.add_row(*([curve.name] if len(analysis.curves) > 1 else []), *cells)
    return table
