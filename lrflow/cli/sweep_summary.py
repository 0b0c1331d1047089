"""The summary after the last job of a sweep: a table of its jobs, and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from lrflow.cli.errors import console
from lrflow.config.composition.overrides import values_of
from lrflow.display import Grid, grid_width
from lrflow.errors import LrflowError, nearest
from lrflow.finding import Finding, kinds_of, read_findings, spoken
from lrflow.metric import is_loss, is_test, is_validation
from lrflow.outcome import Outcome, Status
from lrflow.wording import counted, short_names

if TYPE_CHECKING:
    from lrflow.sweeps.results import SweepResults


def show_summary(outcomes: Sequence[Outcome], asked: int | None = None) -> None:
    """Print a table with the swept values, last metrics, status and folder of each job.

    Args:
        outcomes: of the jobs that began.
        asked: number of jobs of the sweep, of which an interrupted one has not begun all; None: as many as outcomes.
    """
    from lrflow.sweeps.folders import RECORD

    out = console()
    given = [values_of(outcome.overrides) for outcome in outcomes]
    keys = list(dict.fromkeys(key for job in given for key in job if key != "hydra.sweep.dir"))  # of a resumed sweep
    swept = [key for key in keys if len({job.get(key) for job in given}) > 1]
    same = " ".join(f"{key}={given[0][key]}" for key in keys if key not in swept)
    parents = {outcome.folder.parent for outcome in outcomes if outcome.folder}
    home = parents.pop() if len(parents) == 1 else None

    ending: dict[str, list[str]] = {
        "time": [f"{outcome.seconds:.1f} s" for outcome in outcomes],
        "status": [outcome.status for outcome in outcomes],
        "folder": [_name(outcome.folder, home) for outcome in outcomes],
    }
    found = [kinds_of(one for run in outcome.runs or (outcome,) for one in _findings(run)) for outcome in outcomes]
    if any(found):
        ending["findings"] = [", ".join(map(spoken, kinds)) for kinds in found]
    sweep = _read(home)
    metrics = ordered_metrics(outcomes, [each.name for each in sweep.objectives] if sweep else [])
    repeated = any(outcome.runs for outcome in outcomes)
    heading = "trial" if repeated else "job"
    ranks = sweep is None or all(trial.ranks for trial in sweep.trials)  # runs that ended early count too
    short = short_names(swept, (heading, "runs", "status", *ENDING))
    for headings, left_out in ((swept, ()), (short, ()), (short, ("folder",)), (short, ENDING)):
        ending = {name: cells for name, cells in ending.items() if name not in left_out}
        columns = {heading: [str(number) for number in range(len(outcomes))]}
        columns |= {name: [job.get(key, "") for job in given] for name, key in zip(headings, swept, strict=True)}
        columns |= {"runs": [_runs(outcome, ranks) for outcome in outcomes]} if repeated else {}
        columns_that_fit = 0
        for name in metrics:
            column = {name: [_value(outcome, name, ranks) for outcome in outcomes]}
            if grid_width(columns | column | ending) <= out.width:
                columns |= column
                columns_that_fit += 1
        if columns_that_fit >= min(FEWEST, len(metrics)):
            break

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns | ending:
        table.add_column(name, justify="left" if name in ending else "right", no_wrap=name not in headings)
    for row in zip(*(columns | ending).values(), strict=True):
        table.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in row))
    jobs = counted(len(outcomes), heading)
    place = f" in {home}/" if home else ""
    if (asked or 0) > len(outcomes):
        place = f", of which {len(outcomes)} ran{place and ','}{place}"
    out.print(Text(f"\nsweep of {counted(max(asked or 0, len(outcomes)), heading)}{place}", "bold"))
    if same:
        out.print(Text(f"each with {same}", "dim"))
    out.print(table)
    if repeated:
        out.print(
            Text("metrics: mean ± standard deviation over the runs of a trial, which have different seeds", "dim")
        )
    _show_repeats(given, swept, outcomes, metrics)
    for status, label in _UNFINISHED.items():
        if numbers := [str(number) for number, outcome in enumerate(outcomes) if outcome.status == status]:
            out.print(Text(f"{len(numbers)} of {jobs} {label}: {', '.join(numbers)}", _STYLES[status]))
    if sweep is None:
        return
    if sweep.lr_key is not None or (sweep.folder / RECORD).exists():
        _report(sweep)
        return
    from lrflow.reports.sweep import found_in

    for line in found_in(sweep):
        out.print(Text(line, "yellow"))
    _write_page(sweep)


def _show_repeats(
    given: Sequence[Mapping[str, str]], swept: Sequence[str], outcomes: Sequence[Outcome], metrics: Sequence[str]
) -> None:
    """Print mean and standard deviation of each metric over the runs that only repeat each other.

    Args:
        given: the values of each job by key.
        swept: the keys that differ.
        outcomes: of the jobs; those that did not finish are left out.
        metrics: names, the most important first.
    """
    from lrflow.sweeps.repeats import Spread, repeats

    repeated, others = [[key for key in swept if repeats(key) is which] for which in (True, False)]
    groups: dict[tuple[str, ...], list[Outcome]] = {}
    for job, outcome in zip(given, outcomes, strict=True):
        if outcome.status == "finished":
            groups.setdefault(tuple(job.get(key, "") for key in others), []).append(outcome)
    if not repeated or all(len(group) < 2 for group in groups.values()):
        return
    out = console()
    columns = {name: [values[place] for values in groups] for place, name in enumerate(short_names(others, ["runs"]))}
    columns["runs"] = [str(len(group)) for group in groups.values()]
    for place, name in enumerate(metrics):
        column = {name: [str(Spread.of(o.metrics[name] for o in g if name in o.metrics)) for g in groups.values()]}
        if place == 0 or grid_width(columns | column) <= out.width:
            columns |= column
    table = Grid(*columns)
    for row in zip(*columns.values(), strict=True):
        table.row(*row)
    out.print(Text(f"\nmean ± standard deviation over {', '.join(repeated)}", "bold"))
    out.print(table)


def _runs(outcome: Outcome, ranks: bool) -> str:
    """Return how many runs of a trial count, and how many it made if these are more."""
    from lrflow.sweeps.repeats import is_ranked

    counting = sum(is_ranked(run, ranks) for run in outcome.runs)
    return str(counting) if counting == len(outcome.runs) else f"{counting} of {len(outcome.runs)}"


def _value(outcome: Outcome, name: str, ranks: bool) -> str:
    """Return a metric as text, with its standard deviation if it is a mean over runs; empty: there is none."""
    from lrflow.sweeps.repeats import spreads

    if name not in outcome.metrics:
        return ""
    spread = spreads(outcome.runs, ranks).get(name)
    return str(spread) if spread else f"{outcome.metrics[name]:.4g}"


def _findings(outcome: Outcome) -> list[Finding]:
    """Return what monitors found in the run of a job."""
    return read_findings(outcome.folder) if outcome.folder else []


def _read(home: Path | None) -> SweepResults | None:
    """Return the results in the sweep's folder, or None if there are none."""
    from lrflow.sweeps.folders import read_sweep

    sweep = read_sweep(home) if home is not None and home.is_dir() else None
    return sweep if sweep and sweep.trials else None


def _report(sweep: SweepResults) -> None:
    """Write and print the report of a sweep, and show it on W&B if its runs are there."""
    from lrflow.config import load_config
    from lrflow.reports.sweep import report

    out = console()
    out.print()
    try:
        analyses = report(sweep, out, page=_wants_page(sweep))
    except (LrflowError, OSError) as error:  # does not change the outcome of the sweep
        out.print(Text(f"cannot write the report of the sweep: {error}", "yellow"), soft_wrap=True)
        return
    try:
        saved = load_config(sweep.runs[0].folder / "config.yaml") if sweep.runs else {}
        if (saved.get("logger") or {}).get("wandb"):
            from lrflow.tasks.analyze import log_sweep_to_wandb  # here, since it imports PyTorch

            log_sweep_to_wandb(sweep, analyses)
    except (LrflowError, OSError) as error:
        out.print(Text(f"the report of the sweep is not on W&B: {error}", "yellow"), soft_wrap=True)


def _write_page(sweep: SweepResults) -> None:
    """Write the page of a sweep without an LR, and print where it is."""
    from lrflow.reports.sweep import write_sweep_page

    if not _wants_page(sweep):
        return
    try:
        path = write_sweep_page(sweep.folder)
    except (LrflowError, OSError) as error:  # does not change the outcome of the sweep
        console().print(Text(f"cannot write the page of the sweep: {error}", "yellow"), soft_wrap=True)
    else:
        console().print(f"{sweep.folder}/: {path.name}", soft_wrap=True, highlight=False)


def _wants_page(sweep: SweepResults) -> bool:
    """Return whether the config of the first job asks for pages."""
    from lrflow.reports.runs import Run

    return Run(sweep.trials[0].folder).config.get("report", True) is not False


FEWEST = 2
"""Number of metrics for which a narrow table shortens keys, then drops the folder, then the time."""

ENDING = ("folder", "time", "findings")

_STYLES: dict[str, str] = {
    "failed": "bold red", "diverged": "bold red", "ended_early": "yellow", "stopped": "yellow", "pruned": "cyan",
    "finished": "green",
}  # fmt: skip

_UNFINISHED: dict[Status, str] = {"failed": "failed", "diverged": "diverged", "ended_early": "ended early"}


def ordered_metrics(outcomes: Sequence[Outcome], objectives: Sequence[str]) -> list[str]:
    """Return the names of the jobs' metrics in the order of the table: objectives, test, validation, others."""
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.metrics))
    open_ = [name for name in names if not is_test(name)]
    first = [found for name in objectives for found in ([name] if name in names else nearest(name, open_, 1))]
    others = sorted(names, key=lambda name: (not is_test(name), not is_validation(name), is_loss(name)))
    return list(dict.fromkeys([*first, *others]))


def _name(folder: Path | None, home: Path | None) -> str:
    """Return the name of a job's folder, or its path if the jobs have no common parent."""
    if folder is None:
        return ""
    return folder.name if home is not None else str(folder)
