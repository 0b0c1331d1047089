"""task=forecast: forecast the loss of a schedule from the losses of a trunk and a branch."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from lrflow.config import Config, load_config
from lrflow.config.checks.batch_schedule import OFF
from lrflow.config.composition.overrides import Override
from lrflow.config.differences import content_of, differences
from lrflow.config.forecast_run import no_run
from lrflow.config.origins import as_yaml
from lrflow.config.schemas.task import Forecast as ForecastTask
from lrflow.display import CURVES, GREY, INK, Grid, QuietConsole, plain_axes, save_figure
from lrflow.errors import ConfigError, Problem
from lrflow.files import write_json, write_whole
from lrflow.metric import as_list
from lrflow.plan.values import peak_step
from lrflow.runs import RunFolder
from lrflow.schedules.batch_schedule import KEY
from lrflow.schedules.time import Floats
from lrflow.tasks.plan import compile_plan
from lrflow.tasks.run_record import log_task, open_folder
from lrflow.tuning.best_schedule import Candidate, rank_schedules
from lrflow.tuning.loss_fit import Fit, Forecast, Losses, fit_law
from lrflow.tuning.loss_law import spread
from lrflow.tuning.loss_record import main_rates, read_losses, read_plan, read_runs
from lrflow.wording import counted, number

DRAWN = 400  # points of the predicted curve
SHOWN = 6  # schedules that are listed

_SAME = ("model", "data", "optimizer", "layers", "clip", "average")
"""Keys whose values the runs have to share, but for the peak LR."""


def run(config: Config) -> dict[str, Any]:
    """Fit the law to the runs, and predict the configured run, or the real one of `task.against`.

    Returns:
        `predicted`, the loss after the last step, with `low` and `high`; `real` of a real run; `best` with `task.best`;
        `folder`.

    Raises:
        ConfigError: a run cannot be read or has no such losses, the runs differ in more than their LRs, or their LR
            hardly falls.
    """
    task = config.task
    assert isinstance(task, ForecastTask)
    console = QuietConsole()
    print_line = partial(console.print, soft_wrap=True, highlight=False, markup=False)
    folders = [Path(each) for each in as_list(task.source)]
    _check_same(config, [*folders, *([Path(task.against)] if task.against else [])], task.against)
    metric, runs, width = read_runs(folders, task.metric)
    real = _read_real(Path(task.against), metric).averaged(width) if task.against else None
    if real is not None:
        rates, horizon = real.rates, read_plan(Path(str(task.against))).horizon
    else:
        plan = compile_plan(config, print_line)
        if plan.horizon.batch is not None:
            raise ConfigError([Problem(KEY, "changes the batch, and the law is one of the LR at one batch", ..., OFF)])
        rates, horizon = main_rates(plan)[1], plan.horizon
    try:
        fit = fit_law(runs, task.law, config.seed)
    except ValueError as error:
        hint = "give a branch with a cooldown"
        raise ConfigError([Problem("task.from", str(error), ", ".join(map(str, folders)), hint)]) from None
    warm = peak_step(rates) + 1
    found = fit.predict(rates, spread(min(warm, len(rates)), len(rates), DRAWN))
    ranked = rank_schedules(fit.law, rates, horizon) if task.best else []
    folder = open_folder(config, None, f"forecast-{config.title}")
    record = _record(metric, task, fit, runs, found, rates, real)
    _print_fit(metric, fit, runs, print_line)
    for remark in _remarks(fit, runs, rates):
        print_line(remark)
    if ranked:
        record["best"] = _choose(ranked, fit, folder, config, console)
    if folder.is_written:
        write_json(folder.path / "forecast.json", record)
        write_whole(folder.path / "forecast.csv", _table(found, rates))
        _draw(folder.path / "forecast.png", metric, runs, found, rates, real, ranked[:1])
    end = record["predicted"]
    print_line(
        f"\n{metric} after {counted(len(rates), 'step')}: {end['loss']:.4f}, {end['low']:.4f} to {end['high']:.4f}"
    )
    if "real" in record:
        own = record["real"]
        print_line(f"real after {counted(own['step'], 'step')}: {own['loss']:.4f} (forecast {own['error']:+.2%})")
    log_task(config, folder)
    print_line(f"{folder.path}/: forecast.json, forecast.csv, forecast.png")
    result = {"predicted": end["loss"], "low": end["low"], "high": end["high"], "folder": str(folder.path)}
    result |= {"real": record["real"]["loss"]} if "real" in record else {}
    return result | ({"best": record["best"]["predicted"]} if ranked else {})


def _check_same(config: Config, folders: list[Path], against: str | None) -> None:
    """Check that the runs and the configured one have the same model, data, batch and optimizer.

    Raises:
        ConfigError: lists what differs, or a run without a config that can be read.
    """
    wanted, problems = _settings(content_of(config.source.copy())), []
    for folder in folders:
        key = "task.against" if str(folder) == against else "task.from"
        if not RunFolder(folder).config.is_file():
            problems.append(no_run(key, folder))
            continue
        try:
            own = _settings(content_of(load_config(RunFolder(folder).config)))
        except ConfigError as error:
            problems += [replace(problem, key=key) for problem in error.problems]
            continue
        found = {**differences(wanted, own), **differences(own, wanted)}
        for keys in _leaves(found):
            name, ours = ".".join(keys), _value(wanted, keys)
            message = f"{folder} has another {name} than this run: a forecast is for runs that differ in their LRs only"
            problems.append(Problem(key, message, _value(own, keys), f"{name}={'null' if ours is None else ours}"))
    if problems:
        raise ConfigError(problems)


def _settings(content: Mapping[str, Any]) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(OmegaConf.create({key: content.get(key) for key in _SAME}), resolve=False)
    (plain.get("optimizer") or {}).pop("lr", None)
    plain["trainer"] = {"accumulate": (content.get("trainer") or {}).get("accumulate")}
    return dict(plain)


def _leaves(nested: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the keys that lead to each value in nested mappings."""
    for key, value in nested.items():
        inner = _leaves(value) if isinstance(value, Mapping) and value else [()]
        yield from ((key, *keys) for keys in inner)


def _value(content: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """Return the value to which keys lead; None if there is none."""
    value: Any = content
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _read_real(folder: Path, metric: str) -> Losses:
    try:
        return read_losses(folder, metric)
    except ValueError as error:
        raise ConfigError([Problem("task.against", str(error), str(folder))]) from None


def _remarks(fit: Fit, runs: list[Losses], rates: Floats) -> list[str]:
    """Return what makes the forecast an extrapolation."""
    found = []
    if not 0.99 < (times := float(rates.max()) / fit.peak) < 1.01:
        found.append(
            f"the peak LR is {times:.3g} times that of the runs: the law is not known to hold for another peak"
        )
    if (times := float(rates.sum()) / fit.reach) > 1.2:
        found.append(f"the LRs sum to {times:.3g} times those of the longest run, so the forecast is an extrapolation")
    low, seen = _low_steps(rates, len(rates)), max(_low_steps(run.rates, int(run.after[-1])) for run in runs)
    if low > 2 * seen:
        text = f"the LR is below half its peak for {counted(low, 'step')}, in the runs for {seen:,} at most"
        found.append(f"{text}: a run with a longer decay among them makes the forecast better")
    return found


def _low_steps(rates: Floats, until: int) -> int:
    """Return for how many of the first steps, after the peak is reached, the LR is below half of it."""
    return int((rates[peak_step(rates) : until] < rates.max() / 2).sum())


def _print_fit(metric: str, fit: Fit, runs: list[Losses], print_line: Any) -> None:
    names = ", ".join(f"{name} {number(value)}" for name, value in fit.law.as_dict().items())
    print_line(f"fitted to {counted(fit.points, 'value')} of {metric} of {counted(len(runs), 'run')}: {names}")
    print_line(f"R2 {fit.r2:.4f}, typical residual {fit.scatter:.2%} of the loss")


def _record(
    metric: str, task: ForecastTask, fit: Fit, runs: list[Losses], found: Forecast, rates: Floats, real: Losses | None
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "metric": metric,
        "law": task.law,
        "parameters": fit.law.as_dict(),
        "r2": fit.r2,
        "scatter": fit.scatter,
        "runs": [{"folder": run.name, "losses": len(run.after), "steps": int(run.after[-1])} for run in runs],
        "steps": len(rates),
        "predicted": _at(found, -1),
    }
    if real is not None:
        own = fit.predict(rates, real.after)
        errors = own.loss / real.values - 1
        inside = float(((own.low <= real.values) & (real.values <= own.high)).mean())
        record["real"] = {
            "folder": real.name, "step": int(real.after[-1]), "loss": float(real.values[-1]),
            "predicted": _at(own, -1), "error": float(errors[-1]), "mean_error": float(np.abs(errors).mean()),
            "worst_error": float(np.abs(errors).max()), "inside_the_band": inside,
        }  # fmt: skip
    return record


def _at(found: Forecast, index: int) -> dict[str, float]:
    return {name: float(getattr(found, name)[index]) for name in ("loss", "low", "high")}


def _table(found: Forecast, rates: Floats) -> str:
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["step", "lr", "loss", "low", "high"])
    columns = (found.after, rates[found.after - 1], found.loss, found.low, found.high)
    rows.writerows([int(step), *(f"{value:.8g}" for value in values)] for step, *values in zip(*columns, strict=True))
    return file.getvalue()


def _choose(
    ranked: list[Candidate], fit: Fit, folder: RunFolder, config: Config, console: QuietConsole
) -> dict[str, Any]:
    """Print the schedules with the lowest predicted ends, and write the best one as an option of `schedule`."""
    table = Grid("<schedule", "predicted end")
    for one in ranked[:SHOWN]:
        table.row("a free curve that never rises" if one.points else one.name, f"{one.end:.4f}")
    console.print(table)
    best = ranked[0]
    steps = len(best.rates)
    words = [f"schedule={best.name}"]
    if best.points and folder.is_written:
        warm = best.points[0][0]
        points = [[f"{step / steps:.6%}", value] for step, value in best.points]
        head = f"The schedule with the lowest loss that was forecast at the end of {counted(steps, 'step')}."
        rise = [["0%", float(best.rates[0] / best.rates.max())]] if warm else []
        spec = {
            "_target_": "lrflow.schedules.Schedule",
            "shape": {"_target_": "lrflow.schedules.Tabulated", "points": [*rise, *points]},
        }
        path = folder.path / "options" / "schedule" / "forecast.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, f"# {head}\n{as_yaml(spec)}")
        words = ["schedule=forecast"]
    kept = [
        text
        for text in config.overrides
        if not (given := Override.read(text)).of_hydra
        and given.key.partition(".")[0] not in ("task", "schedule", "output", "name", "resume")
    ]
    place = ["--config-dir", str(folder.path / "options")] if best.points else []
    command = " ".join(["python -m lrflow", *map(shlex.quote, [*place, *kept]), *words])
    console.print(command, soft_wrap=True, highlight=False, markup=False)
    return {"schedule": "free" if best.points else best.name, "predicted": best.end, "command": command,
            "others": {one.name: one.end for one in ranked}}  # fmt: skip


def _draw(
    path: Path, metric: str, runs: list[Losses], found: Forecast, rates: Floats, real: Losses | None,
    best: list[Candidate],
) -> None:  # fmt: skip
    """Draw the predicted curve with its band, the runs it was fitted to and the real one; the LRs below."""
    from matplotlib.figure import Figure  # without pyplot, which keeps state and may need a display

    figure = Figure(figsize=(9, 6), layout="constrained", facecolor="white")
    above, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    for index, run in enumerate(runs):
        above.plot(run.after, run.values, color=GREY, linewidth=1, label="fitted to" if not index else None)
        below.plot(np.arange(len(run.rates)), run.rates, color=GREY, linewidth=1)
    above.fill_between(found.after, found.low, found.high, color=CURVES[0], alpha=0.18, linewidth=0)
    above.plot(found.after, found.loss, color=CURVES[0], linewidth=2, label="forecast, with its 90% band")
    below.plot(np.arange(len(rates)), rates, color=CURVES[0], linewidth=2)
    if real is not None:
        above.plot(real.after, real.values, color=CURVES[1], linewidth=1.2, label="real")
    for one in best:
        below.plot(np.arange(len(one.rates)), one.rates, color=CURVES[2], linewidth=1.5, label="lowest predicted end")
        below.legend(frameon=False, fontsize=9, labelcolor=INK)
    # The first losses after the warmup are far above the rest, which then would be flat.
    seen = np.concatenate([found.low, *(run.values for run in runs), *([real.values] if real is not None else [])])
    bottom, top = float(seen.min()), float(np.quantile(np.concatenate([run.values for run in runs]), 0.95))
    above.set_ylim(bottom - 0.05 * (top - bottom), top + 0.1 * (top - bottom))
    above.set_ylabel(metric, color=INK)
    below.set_ylabel("LR", color=INK)
    below.set_xlabel("step", color=INK)
    for axes in (above, below):
        plain_axes(axes)
    above.legend(frameon=False, fontsize=9, labelcolor=INK)
    save_figure(figure, path)
