"""Subcommands, which train nothing, such as `lrflow list`, `report`, `compare` and `dashboard`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lrflow.cli.arguments import Parser
from lrflow.errors import ConfigError, Problem, nearest
from lrflow.output import put
from lrflow.runs import OUTPUT
from lrflow.wording import counted, joined

if TYPE_CHECKING:
    from lrflow.reports.runs import Run


def _list(given: argparse.Namespace) -> None:
    from lrflow.reports.runs import Condition, find_runs, selected

    folders = [word for word in given.words if Path(word).is_dir()] or [OUTPUT]
    if len(folders) > 1:
        raise ConfigError([Problem("lrflow list", "takes one folder", " ".join(folders))])
    folder = Path(folders[0])
    conditions = [Condition.parse(word) for word in given.words if word not in folders]
    runs = find_runs(folder)
    if not runs and not given.json:
        print(f"no runs under {folder}/")
        return
    found = selected(runs, conditions, given.sort)
    if given.json:
        put(sys.stdout, json.dumps([_record(run) for run in found], indent=1) + "\n")
        return
    if given.limit < 0:
        raise ConfigError([Problem("--limit", "expected a number of runs; 0 shows all", given.limit)])
    shown = found[: given.limit or None]
    _show_runs(shown, folder, [each.key for each in conditions if each.sign != "="], given.sort)
    hidden = f"; --limit 0 shows {len(found) - len(shown):,} more" if len(shown) < len(found) else ""
    of = f" of {len(runs):,}" if len(found) < len(runs) else ""
    print(f"\n{len(found):,}{of} run{'s' * (len(runs) != 1)} under {folder}/{hidden}")


def _record(run: Run) -> dict[str, object]:
    """What `--json` prints of a run."""
    facts = {key: run.value(key) for key in ("status", "started", "steps", "seconds")}
    metrics = {name: value if math.isfinite(value) else str(value) for name, value in run.metrics.items()}
    findings = [finding.record() for finding in run.findings]
    return {"folder": str(run.folder), **facts, "overrides": run.typed, "metrics": metrics, "findings": findings}


def _show_runs(runs: Sequence[Run], folder: Path, asked: Sequence[str], sort: str | None) -> None:
    """Print a table of runs: how they ended, their swept values, and the metrics for which there is room."""
    from rich.text import Text

    from lrflow.cli.errors import console
    from lrflow.display import Grid, grid_width
    from lrflow.metric import is_loss, is_test, is_validation
    from lrflow.reports.runs import swept_keys, written
    from lrflow.wording import short_names

    if not runs:
        return
    swept = [key for key in swept_keys(runs) if key not in asked]
    measured = {name: None for run in runs for name in run.metrics}
    usual = sorted(measured, key=lambda name: (not is_validation(name), is_test(name), is_loss(name)))
    first = [*([sort] if sort else []), *asked] or usual[:1]
    found = ["findings"] if any(run.findings for run in runs) else []
    fixed = {"status": [run.status for run in runs], "steps": [written(run.value("steps")) for run in runs]}
    last = {"run": [run.folder.relative_to(folder).as_posix() for run in runs]}
    keys = dict(zip(short_names(swept, ["run", "started", *fixed]), swept, strict=True))
    keys |= {name: name for name in [*first, *found, *usual, "started"] if name not in {**fixed, **keys}}
    cells = {
        name: [f"{v:.4g}" if isinstance(v := run.value(key), float) else written(v) for run in runs]
        for name, key in keys.items()
    }
    out = console()
    shown = {name: cells[name] for name in first if name in cells}
    for name in [*found, *cells]:
        if name not in shown and grid_width({**fixed, **shown, name: cells[name], **last}) <= out.width:
            shown[name] = cells[name]
    columns = {**fixed, **{name: cells[name] for name in cells if name in shown}, **last}
    table = Grid(*(f"<{name}" if name in ("run", "status", "findings") else name for name in columns))
    for row in zip(*columns.values(), strict=True):
        table.row(*row)
    out.width = max(out.width, grid_width(columns))  # a name that is folded cannot be copied
    out.print(table)
    if missing := [name for name in [*found, *list(keys)[: len(swept)]] if name not in shown]:
        out.print(Text(f"\nno room for {joined(missing, 6)}: use a wider terminal, or --json"), soft_wrap=True)


def _report(given: argparse.Namespace) -> None:
    from lrflow.cli.report import write_reports

    words, output = _with_output(given.runs)
    write_reports(words, output)


def _with_output(given: Sequence[str]) -> tuple[list[str], Path]:
    """Return the words without `output=FOLDER`, and the folder of the run folders."""
    words = [word for word in given if not word.startswith("output=")]
    folders = [word.removeprefix("output=") for word in given if word not in words] or [OUTPUT]
    if missing := [folder for folder in folders[-1:] if folder != OUTPUT and not Path(folder).is_dir()]:
        raise ConfigError([Problem("output", "there is no such folder", missing[0])])
    return words, Path(folders[-1])


_COMPARED = "lrflow compare RUN RUN: a folder, a part of its name, or last; lrflow list shows the runs"


def _compare(given: argparse.Namespace) -> None:
    from rich.text import Text

    from lrflow.cli.errors import console
    from lrflow.display import Grid
    from lrflow.plan.diff import PlanDiff
    from lrflow.reports.runs import different_keys, find_run, written

    named, output = _with_output(given.runs)
    words = [word for word in named if not word.startswith("page=")]
    pages = [word.removeprefix("page=") for word in named if word not in words]
    if len(words) < 2:
        raise ConfigError([Problem(" ".join(["lrflow compare", *words]), "needs two or more runs", hint=_COMPARED)])
    runs = [find_run(word, output) for word in words]
    if pages:
        from lrflow.cli.report import write_comparison_page

        write_comparison_page(runs, pages[-1])
        return
    out = console()
    numbers = [str(number) for number in range(1, len(runs) + 1)]
    for number, run in zip(numbers, runs, strict=True):
        out.print(Text(f"{number}  {run.folder}  {run.status}, {counted(written(run.value('steps')), 'step')}"))
    if any(run.findings for run in runs):
        out.print(Text("\nfindings", "bold"))
    for number, run in zip(numbers, runs, strict=True):
        for finding in run.findings:
            out.print(Text(f"{number}  {finding.line}"), soft_wrap=True)
    versions = [run.versions for run in runs]
    packages = dict.fromkeys(name for each in versions for name in each)
    changed = [name for name in packages if len({each.get(name) for each in versions}) > 1]
    keys = different_keys(runs)
    names = sorted({name for run in runs for name in run.metrics})
    for title, labels, cells in (
        ("config", keys, [[written(run.config.get(key)) for run in runs] for key in keys]),
        ("versions", changed, [[written(each.get(name)) for each in versions] for name in changed]),
        ("metrics", names, [[written(run.metrics.get(name)) for run in runs] for name in names]),
    ):
        if not labels and title == "versions":
            continue
        out.print(Text(f"\n{title}", "bold"))
        if not labels:
            out.print("the same" if title == "config" else "none")
            continue
        table = Grid("<", *numbers)
        for label, row in zip(labels, cells, strict=True):
            table.row(label, *row)
        out.print(table)
    first = runs[0]
    for number, run in zip(numbers[1:], runs[1:], strict=True):
        out.print(Text(f"\nplan, 1 and {number}", "bold"))
        if first.plan is None or run.plan is None:
            out.print("one of the two has no plan that can be read")
        else:
            out.print(PlanDiff(first.plan, run.plan))


def _plot(given: argparse.Namespace) -> None:
    from lrflow.cli.plot import plot

    plot(given.words)


def _dashboard(given: argparse.Namespace) -> None:
    from lrflow.cli.dashboard import dashboard

    dashboard(given.words)


def _docs(given: argparse.Namespace) -> None:
    from lrflow.cli.pages import show_page

    show_page(given.words)


def _schema(given: argparse.Namespace) -> None:
    from lrflow.config.composition.options import Catalogue
    from lrflow.config.json_schema import schema_text
    from lrflow.config.packages import trusted

    trusted()  # makes the working directory importable
    put(sys.stdout, schema_text(Catalogue([Path(folder) for folder in given.config_dir])))


def _translate(given: argparse.Namespace) -> None:
    from lrflow.cli.translate import show_translation
    from lrflow.translate import Facts

    show_translation(given.file, given.kind, given.out, Facts(given.devices, given.samples, given.env))


def _init(given: argparse.Namespace) -> None:
    from lrflow.cli.new_project import init

    init(given.folder)


@dataclass(frozen=True)
class Subcommand:
    """A subcommand.

    Args:
        usage: its words, after `lrflow NAME`.
        summary: what it does.
        options: adds its arguments to a parser.
        run: does it.
    """

    usage: str
    summary: str
    options: Callable[[argparse.ArgumentParser], object]
    run: Callable[[argparse.Namespace], None]


def _options_of_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*")
    parser.add_argument("--sort")
    parser.add_argument("--limit", type=int, default=30)
    parser.add_argument("--json", action="store_true")


def _options_of_schema(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-dir", action="append", default=[])


def _options_of_translate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?")
    parser.add_argument("--from", dest="kind")
    parser.add_argument("--out")
    parser.add_argument("--env")
    for name in ("--devices", "--samples"):
        parser.add_argument(name, type=int)


SUBCOMMANDS = {
    "list": Subcommand(
        "[FOLDER] [CONDITION ...] [--sort KEY] [--limit N] [--json]",
        "list the runs under outputs/: lrflow list optimizer=adamw 'val/loss<0.1' --sort val/loss",
        _options_of_list,
        _list,
    ),
    "report": Subcommand(
        "RUN ... [output=FOLDER]",
        "write report.html into the folder of a run or a sweep; RUN is a folder, a part of its name or last",
        lambda parser: parser.add_argument("runs", nargs="*"),
        _report,
    ),
    "compare": Subcommand(
        "RUN RUN ... [page=FILE] [output=FOLDER]",
        "compare configs, findings, metrics and plans of runs, in the terminal or on a page with their curves",
        lambda parser: parser.add_argument("runs", nargs="*"),
        _compare,
    ),
    "plot": Subcommand(
        "RUN [figure=NAME] [width=INCHES] [font=NAME] [out=FILE]",
        "draw a figure of a run or a sweep for a paper, or list its figures: lrflow plot last figure=lr out=lr.pdf",
        lambda parser: parser.add_argument("words", nargs="*"),
        _plot,
    ),
    "dashboard": Subcommand(
        "[FOLDER] [port=NUMBER] [open=true]",
        "show the runs under outputs/ in the browser, also while they train",
        lambda parser: parser.add_argument("words", nargs="*"),
        _dashboard,
    ),
    "schema": Subcommand(
        "[--config-dir DIR]",
        "print the JSON schema of configs and options, for editors: lrflow schema > lrflow.schema.json",
        _options_of_schema,
        _schema,
    ),
    "translate": Subcommand(
        "FILE [--from KIND] [--devices N] [--samples N] [--env NAME] [--out options/recipe/NAME.yaml]",
        "turn a training config of another tool into a recipe with the same LR at every step",
        _options_of_translate,
        _translate,
    ),
    "init": Subcommand(
        "FOLDER",
        "make a project: a package with a module and data, options and a test, which trains at once",
        lambda parser: parser.add_argument("folder", nargs="?"),
        _init,
    ),
    "docs": Subcommand(
        "[PAGE] [HEADING]",
        "print a page of the documentation, a section of it, or the list of pages: lrflow docs training resuming",
        lambda parser: parser.add_argument("words", nargs="*"),
        _docs,
    ),
}
"""The subcommands by name: the first word of a command line, without `=`."""


def is_subcommand(word: str) -> bool:
    """Return whether a word is the name of a subcommand.

    Raises:
        ConfigError: it is nearly the name of one.
    """
    if word not in SUBCOMMANDS and (near := nearest(word, SUBCOMMANDS, 1)):
        raise ConfigError([Problem(word, "there is no such subcommand", hint=f"did you mean lrflow {near[0]}?")])
    return word in SUBCOMMANDS


def run_subcommand(words: Sequence[str]) -> int:
    """Run a subcommand.

    Args:
        words: command line; the first word is a key of `SUBCOMMANDS`.

    Returns:
        The exit code.

    Raises:
        ConfigError: its arguments are wrong.
    """
    name, *rest = words
    subcommand = SUBCOMMANDS[name]
    if {"-h", "--help"} & {*rest}:
        print(f"usage: lrflow {name} {subcommand.usage}\n\n{subcommand.summary}")
        return 0
    parser = Parser(prog=f"lrflow {name}", add_help=False, allow_abbrev=False)
    subcommand.options(parser)
    subcommand.run(parser.parse_intermixed_args(rest))
    return 0
