"""Forecast loss curves by the multi-power law, and compare them with what was measured.

`published`: the law with the parameters that its paper published, against the curves of three language models that the
paper published; and the law fitted anew to a trunk and one branch of them. The curves are read from a copy of
`loss_curve_repo` of github.com/thu-yao-01-luo/MultiPowerLaw (MIT). `charlm`: the law fitted to a trunk and one branch
of a small character transformer, against runs under schedules and of lengths that it was not fitted to.

python -m benchmarks.forecast published --curves MultiPowerLaw/loss_curve_repo
python -m benchmarks.forecast charlm --runs outputs/forecast   # trains what the folder does not hold yet
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from lrflow.config import compose
from lrflow.config.schemas.task import LAWS
from lrflow.tasks import train
from lrflow.tuning.loss_fit import Fit, Losses, fit_law
from lrflow.tuning.loss_law import LossLaw, RateCurve
from lrflow.tuning.loss_record import read_losses, read_runs

RESULTS = Path(__file__).with_name("forecast.json")

WARMUP = np.linspace(0, 3e-4, 2160)
"""LRs of the paper's warmup; all its curves rise to 3e-4 and fall to a tenth of it, if they fall."""
SCHEDULES: dict[str, Callable[[], np.ndarray]] = {
    "cosine_24000": lambda: _cosine(24000),
    "constant_24000": lambda: np.r_[WARMUP, np.full(24000 - 2160, 3e-4)],
    "wsdcon_9": lambda: _two_stages(9e-5),
    "constant_72000": lambda: np.r_[WARMUP, np.full(72000 - 2160, 3e-4)],
    "cosine_72000": lambda: _cosine(72000),
    "wsd_20000_24000": lambda: np.r_[WARMUP, np.full(20000 - 2160, 3e-4), 3e-4 * 0.1 ** (np.arange(4000) / 4000)],
    "wsdld_20000_24000": lambda: np.r_[WARMUP, np.full(20000 - 2160, 3e-4), 3e-4 * (1 - 0.9 * np.arange(4000) / 4000)],
    "wsdcon_3": lambda: _two_stages(3e-5),
    "wsdcon_18": lambda: _two_stages(18e-5),
}
"""LRs of each step of the paper's runs, by the names of its files; the law was fitted to the first three."""
PARAMETERS = {
    "25": LossLaw(3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013, 0.64142257),
    "100": LossLaw(2.6514477, 0.60115152, 0.45295811, 437.9464276, 2.13245612, 0.59785199, 0.65523644),
    "400": LossLaw(2.37474466, 0.65421216, 0.42878731, 523.42464371, 2.02462735, 0.59350493, 0.63472457),
}
"""The published parameters, by millions of weights."""
PAIRS = [
    ("constant_24000", "wsdcon_9"), ("constant_24000", "wsdcon_3"), ("constant_24000", "wsd_20000_24000"),
    ("constant_24000", "wsdld_20000_24000"), ("constant_24000", "cosine_24000"),
    ("cosine_24000", "constant_24000", "wsdcon_9"),
]  # fmt: skip
"""A trunk and one branch each, and the three curves of the paper's fit."""

COMMON = [
    "recipe=charlm", "model.width=64", "model.depth=2", "data.length=48", "schedule.warmup=100",
    "trainer=cpu", "trainer.progress=false", "trainer.val_every=50 steps", "task.test=false", "report=false",
]  # fmt: skip
TRUNK = [*COMMON, "schedule=wsd", "schedule.cooldown=0%", "trainer.max_steps=2000",
         "trainer.checkpoint.every=200 steps", "trainer.checkpoint.keep=null"]  # fmt: skip
BRANCH = ["resume.horizon=branch", "trainer.max_steps=1500", "schedule.cooldown=20%"]
UNSEEN: dict[str, list[str]] = {
    "cosine-1000": ["schedule=cosine", "trainer.max_steps=1000"],
    "cosine-2000": ["schedule=cosine", "trainer.max_steps=2000"],
    "wsd-linear-1000": ["schedule=wsd", "schedule.cooldown=40%", "schedule.cooldown_shape=linear",
                        "trainer.max_steps=1000"],
    "linear-700": ["schedule=linear", "trainer.max_steps=700"],
    "restarts-500": ["schedule=warm_restarts", "schedule.shape.period=200 steps", "trainer.max_steps=500"],
    "steps-500": ["schedule=multistep", "schedule.shape.milestones=[50%,75%]", "schedule.shape.gamma=0.3",
                  "trainer.max_steps=500"],
    "inverse-sqrt-500": ["schedule=inverse_sqrt", "trainer.max_steps=500"],
}  # fmt: skip
"""Runs under schedules and of lengths that the law is not fitted to."""
THIRD = "linear-700"
"""The one of them that it is fitted to as well, beside the trunk and the branch, in a second comparison."""


def _cosine(steps: int) -> np.ndarray:
    way = np.arange(steps - 2160) / (steps - 2160)
    return np.r_[WARMUP, 3e-5 + 0.5 * (3e-4 - 3e-5) * (1 + np.cos(np.pi * way))]


def _two_stages(second: float) -> np.ndarray:
    return np.r_[WARMUP, np.full(8000 - 2160, 3e-4), np.full(8000, second)]


def published_runs(curves: Path, model: str) -> dict[str, Losses]:
    """Return the published curves of a model."""
    found = {}
    for name, schedule in SCHEDULES.items():
        steps, _, losses = np.genfromtxt(curves / f"csv_{model}" / f"{name}.csv", delimiter=",", skip_header=1).T
        rates = schedule()
        inside = steps < len(rates)
        found[name] = Losses(name, rates, steps[inside].astype(np.int64) + 1, losses[inside])
    return found


def published(curves: Path) -> dict[str, Any]:
    """Return how well the published parameters and those fitted anew predict the published curves."""
    given, anew = [], []
    for model, law in PARAMETERS.items():
        runs = published_runs(curves, model)
        for name, run in runs.items():
            loss = law.loss(RateCurve.of(run.rates).merged(run.after), run.after)
            given.append({"model": model, "curve": name, "r2": r2(run, loss), **errors(run, loss)})
        for names in PAIRS:
            for kind in LAWS:
                fit = fit_law([runs[name] for name in names], kind)
                rows = [row for row in compared(fit, runs) if row["curve"] not in names]
                anew += [{"model": model, "fitted": names, "law": kind, **row} for row in rows]
    return {"given": given, "anew": anew}


def r2(run: Losses, loss: np.ndarray) -> float:
    """Return the share of the variance of the losses that a prediction explains."""
    return float(1 - np.square(run.values - loss).sum() / np.square(run.values - run.values.mean()).sum())


def errors(run: Losses, loss: np.ndarray) -> dict[str, float]:
    """Return the relative errors of a prediction: at the end, the mean and the largest."""
    relative = loss / run.values - 1
    size = np.abs(relative)
    return {"end": float(relative[-1]), "mean": float(size.mean()), "worst": float(size.max())}


def compared(fit: Fit, runs: dict[str, Losses]) -> Iterator[dict[str, Any]]:
    """Yield for each run how its forecast compares with its losses."""
    for name, run in runs.items():
        found = fit.predict(run.rates, run.after)
        within = bool(found.low[-1] <= run.values[-1] <= found.high[-1])
        band = float((found.high[-1] - found.low[-1]) / 2 / found.loss[-1])
        ends = {"real": float(run.values[-1]), "predicted": float(found.loss[-1]), "band": band, "within": within}
        yield {"curve": name, **ends, **errors(run, found.loss)}


def trained(runs: Path, name: str, options: list[str]) -> Path:
    """Return the folder of a run of this name, which is trained unless there is one that finished."""
    for folder in sorted(runs.glob(f"*_{name}")):
        if (folder / "summary.json").is_file():
            return folder
    with contextlib.redirect_stdout(io.StringIO()):
        return Path(train.run(compose([*options, f"name={name}", f"output={runs}"], earlier=True))["folder"])


def charlm(runs: Path) -> dict[str, Any]:
    """Return how well the law that is fitted to a trunk and a branch, or to a third run too, predicts others."""
    folders = {"trunk": trained(runs, "trunk", TRUNK)}
    folders["branch"] = trained(runs, "branch", [f"resume={folders['trunk']}", *BRANCH])
    folders |= {name: trained(runs, name, [*COMMON, *options]) for name, options in UNSEEN.items()}
    found: dict[str, Any] = {}
    for metric in ("val/loss", "train/loss"):
        for names in (["trunk", "branch"], ["trunk", "branch", THIRD]):
            _, fitted, width = read_runs([folders[name] for name in names], metric)
            real = {
                name: read_losses(folder, metric).averaged(width)
                for name, folder in folders.items()
                if name not in names
            }
            for law in LAWS:
                fit = fit_law(fitted, law)
                title = f"{metric}, {law}, fitted to {', '.join(names)}"
                found[title] = {"parameters": fit.law.as_dict(), "rows": list(compared(fit, real))}
    return found


def show_published(found: dict[str, Any], console: Console) -> None:
    """Print what `published` found."""
    table = Table("model", "curve", "R2", "end", "largest error", title="with the published parameters")
    for row in found["given"]:
        cells = (f"{row['r2']:.4f}", f"{row['end']:+.2%}", f"{row['worst']:.2%}")
        table.add_row(f"{row['model']}M", row["curve"], *cells)
    console.print(table)
    for law in LAWS:
        rows = [row for row in found["anew"] if row["law"] == law]
        ends = np.array([row["end"] for row in rows])
        within = sum(row["within"] for row in rows)
        console.print(
            f"{law}, fitted anew, {len(rows)} ends of unseen curves: root mean square {np.sqrt((ends**2).mean()):.2%}, "
            f"largest {np.abs(ends).max():.2%}, {within} within the band"
        )


def show_charlm(found: dict[str, Any], console: Console) -> None:
    """Print what `charlm` found."""
    for title, one in found.items():
        table = Table("run", "real end", "forecast", "error", "band", "mean error", title=title)
        for row in one["rows"]:
            band = f"±{row['band']:.1%}{'' if row['within'] else ' missed'}"
            cells = (f"{row['real']:.4f}", f"{row['predicted']:.4f}", f"{row['end']:+.2%}", band, f"{row['mean']:.2%}")
            table.add_row(row["curve"], *cells)
        console.print(table)


def main() -> None:
    """Compare, print and keep what was found in forecast.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("what", choices=["published", "charlm"])
    parser.add_argument("--curves", type=Path, help="folder with csv_25, csv_100 and csv_400")
    parser.add_argument("--runs", type=Path, default=Path("outputs/forecast"), help="folder of the runs")
    given = parser.parse_args()
    if given.what == "published" and not (given.curves and given.curves.is_dir()):
        parser.error("published needs --curves: a copy of loss_curve_repo of github.com/thu-yao-01-luo/MultiPowerLaw")
    found = published(given.curves) if given.what == "published" else charlm(given.runs)
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps({**kept, given.what: found}, indent=1) + "\n")
    (show_published if given.what == "published" else show_charlm)(found, Console())


if __name__ == "__main__":
    main()
