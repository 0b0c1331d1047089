"""task=analyze: what a sweep says about the learning rate, read back from its run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrflow.config import Config
from lrflow.config.settings import Analyze
from lrflow.console import QuietConsole
from lrflow.errors import LrflowError
from lrflow.reports.sweep import report
from lrflow.sweeps.reading import find_sweep, read_sweep


def run(config: Config) -> dict[str, Any]:
    """Analyse a sweep again, or any folder of run folders.

    Returns:
        `lr`, `low`, `high` and the metric of the best curve where an LR was swept, and `folder`.

    Raises:
        ConfigError: there is no such sweep.
        LrflowError: its folder cannot be written to.
    """
    task = config.task
    assert isinstance(task, Analyze)
    sweep = read_sweep(find_sweep(task.source, Path(config.output), "task.from"), task.metric, task.mode)
    console = QuietConsole(highlight=False)
    console.print(f"{sweep.folder}, by {sweep.metric} ({sweep.mode})", style="bold", soft_wrap=True)
    try:
        analysis = report(sweep, console, task.margin)
    except OSError as error:
        raise LrflowError(f"{sweep.folder}: what the sweep found cannot be written: {error.strerror}") from error
    found: dict[str, Any] = {"folder": str(sweep.folder)}
    if analysis and (best := analysis.curves[0]).valley:
        low, high = best.interval
        found |= {"lr": best.lr, "low": low, "high": high, sweep.metric: analysis.metric(best.cost)}
    return found
