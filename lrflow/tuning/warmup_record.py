"""The record of a search for the shortest warmup: its table and lines, `find.csv`, `find.json` and `find.png`."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from lrflow.display import CURVES, INK, Grid, plain_axes, save_figure
from lrflow.files import write_json, write_whole
from lrflow.tuning.warmup import WarmupRun, WarmupSearch
from lrflow.wording import counted, number

LONG = 0.05  # of the run; a longer warmup takes so much of it that the run may have to be longer


def warmup_table(search: WarmupSearch) -> Grid:
    """Return the table of the runs: a row per LR, a column per warmup."""
    warmups = sorted({run.warmup for run in search.runs})
    table = Grid("LR", *("no warmup" if not steps else counted(steps, "step") for steps in warmups))
    for lr in sorted({run.lr for run in search.runs}):
        cells = {run.warmup: _verdict(run) for run in search.runs if run.lr == lr}
        table.row(number(lr), *(cells.get(steps, "") for steps in warmups))
    return table


def warmup_lines(search: WarmupSearch) -> list[str]:
    """Return the answer, and what to do with it."""
    if search.unstable is None:
        text = (
            f"[bold]no warmup needed[/]  LRs up to {number(10 * search.lr)}, ten times optimizer.lr, are stable without"
        )
        return [text]
    first = f"unstable without a warmup from LR {number(search.unstable)} on"
    if search.best is None:
        longest = counted(max(search.warmups), "step")
        return [f"[bold]no warmup helps[/]  {first}, and with every warmup of up to {longest} too", _OTHER]
    lr, steps = search.best
    share = 100 * steps / search.length
    warmup = counted(steps, "step").replace(",", "_")
    answer = f"is the shortest with which LR {number(lr)} is stable; {first}"
    lines = [f"[bold]schedule.warmup='{warmup}'[/]  {share:.2g}% of the run, {answer}"]
    if steps > LONG * search.length:
        lines.append(f"it is more than {100 * LONG:.0f}% of the run, so the run may have to be longer")
    lines.append(f"with it, look for a better LR above {number(search.lr)}: task=find find.confirm=true")
    return lines


_OTHER = "instead: clip gradients (clip=norm), another optimizer, or a lower LR"


def _verdict(run: WarmupRun) -> str:
    if run.stable in (0, run.seeds):
        return "stable" if run.is_stable else "unstable"
    return f"unstable in {run.seeds - run.stable} of {run.seeds}"


def warmup_result(search: WarmupSearch) -> dict[str, Any]:
    """Return `warmup` in steps (None: none helps), the LR that it keeps stable, and the lowest unstable LR."""
    lr, steps = search.best or (None, None)
    return {"warmup": steps, "warmup_lr": lr, "unstable": search.unstable, "steps": search.steps}


def write_warmup(search: WarmupSearch, folder: Path) -> None:
    """Write `find.csv` (a row per LR and warmup), `find.json` and `find.png`."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["lr", "warmup", "stable", "seeds", "steps"])
    table.writerows([run.lr, run.warmup, run.stable, run.seeds, run.steps] for run in search.runs)
    write_whole(folder / "find.csv", text.getvalue())
    content = {"lr": search.lr, "length": search.length, "warmups": list(search.warmups)}
    write_json(folder / "find.json", {**warmup_result(search), **content, "factors": list(search.factors)})
    _plot(search, folder / "find.png")


def _plot(search: WarmupSearch, path: Path) -> None:
    """Draw which LRs were stable with which warmups."""
    from matplotlib.figure import Figure  # without pyplot, which keeps state and may need a display
    from matplotlib.ticker import LogLocator, NullFormatter, SymmetricalLogLocator

    figure = Figure(figsize=(8, 4.4), layout="constrained", facecolor="white")
    axes = figure.subplots()
    for stable, marker, colour in ((True, "o", CURVES[2]), (False, "x", CURVES[1])):
        runs = [run for run in search.runs if run.is_stable == stable]
        axes.plot(
            [run.warmup for run in runs],
            [run.lr for run in runs],
            marker,
            color=colour,
            markersize=9,
            label="stable" if stable else "unstable",
        )
    axes.axhline(search.lr, color=INK, linewidth=1, linestyle=":", label="optimizer.lr")
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(-0.5, 1.3 * max(10, *(run.warmup for run in search.runs)))
    axes.set_yscale("log")
    ticks = {axes.xaxis: SymmetricalLogLocator(base=10, linthresh=1), axes.yaxis: LogLocator(subs=(1, 2, 5))}
    for axis, locator in ticks.items():
        axis.set_major_locator(locator)
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("warmup in steps", color=INK)
    axes.set_ylabel("LR", color=INK)
    axes.set_title("LRs that a warmup keeps stable", loc="left", color=INK)
    plain_axes(axes)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, fontsize=9)
    save_figure(figure, path)
