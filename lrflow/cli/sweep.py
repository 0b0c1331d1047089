"""Sweeps: checked as a whole before their first job, summed up after their last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from lrflow.cli.jobs import Outcome
from lrflow.cli.report import SweepError, console
from lrflow.config.catalogue import Catalogue
from lrflow.config.compose import checked, composer
from lrflow.config.overrides import Overrides, as_typed, read
from lrflow.errors import ConfigError, Problem

_METRICS = 4


def check_sweep(overrides: Overrides, config_dir: Path | None, catalogue: Catalogue) -> int:
    """Composes and checks every job of a sweep.

    Args:
        overrides: with several values a key.
        config_dir: a folder with more options.
        catalogue: the groups and options there are.

    Returns:
        how many jobs there are.

    Raises:
        ConfigError: every problem of every job, those that several have once.
    """
    if overrides.problems:
        raise ConfigError(overrides.problems)
    jobs = overrides.jobs()
    problems: dict[str, Problem] = {}
    holders: dict[str, list[int]] = {}
    with composer(config_dir) as composing:
        for number, job in enumerate(jobs):
            try:
                checked(read(job, catalogue), composing, catalogue)
            except ConfigError as error:
                for problem in error.problems:
                    problems[repr(problem)] = problem
                    holders.setdefault(repr(problem), []).append(number)
    if problems:
        found: dict[tuple[int, ...], list[Problem]] = {}
        for name, numbers in sorted(holders.items(), key=lambda item: -len(item[1])):
            found.setdefault(tuple(numbers), []).append(problems[name])
        raise SweepError(found, [" ".join(as_typed(job)) for job in jobs])
    return len(jobs)


def show_summary(outcomes: Sequence[Outcome]) -> None:
    """Prints how the jobs of a sweep ended: what each was given, its last metrics, its folder."""
    given = [dict(override.partition("=")[::2] for override in outcome.overrides) for outcome in outcomes]
    keys = list(dict.fromkeys(key for job in given for key in job))
    swept = [key for key in keys if len({job.get(key) for job in given}) > 1]
    metrics = _chosen([name for o in outcomes for name, value in o.result.items() if isinstance(value, int | float)])
    folders = [outcome.folder for outcome in outcomes]
    home = folders[0].parent if folders[0] and all(f and f.parent == folders[0].parent for f in folders) else None

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("job", justify="right")
    for name in [*swept, *metrics]:
        table.add_column(name, justify="right", overflow="fold")
    for name in ("time", "status", "folder"):
        table.add_column(name, overflow="fold")
    for number, (outcome, job) in enumerate(zip(outcomes, given, strict=True)):
        values = [outcome.result.get(name) for name in metrics]
        folder = outcome.folder.name if home and outcome.folder else outcome.folder
        table.add_row(
            str(number),
            *(job.get(key, "") for key in swept),
            *("" if value is None else f"{value:.4g}" for value in values),
            f"{outcome.seconds:.1f} s",
            Text("failed", "bold red") if outcome.error else Text("done", "green"),
            str(folder or ""),
        )
    out = console()
    out.print(Text(f"\nsweep of {len(outcomes)} jobs", "bold"), Text(f"in {home}/" if home else "", "dim"))
    if same := [f"{key}={job[key]}" for job in given[:1] for key in keys if key not in swept]:
        out.print(Text(f"each with {' '.join(same)}", "dim"))
    out.print(table)
    if failed := [str(number) for number, outcome in enumerate(outcomes) if outcome.error]:
        out.print(Text(f"{len(failed)} of {len(outcomes)} jobs failed: {', '.join(failed)}", "bold red"))


def _chosen(names: Sequence[str]) -> list[str]:
    """The metrics worth a column: those of the test first, then of the validation, and few of them."""
    rank = {"test": 0, "val": 1}
    return sorted(dict.fromkeys(names), key=lambda name: rank.get(name.partition("/")[0], 2))[:_METRICS]
