"""FedAvg against FedAdam on clients with unequal classes, each with tuned LRs: the runs of the recipe `federated`.

    python -m benchmarks.federated

For each server optimizer, a grid of client LRs and server LRs with one seed chooses the pair with the best accuracy;
the chosen pair is measured with three other seeds, with constant LRs, with a server LR and with a client LR that
decays. Runs that benchmarks/federated.json has are not made again; the table and the picture of the recipe are.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import re
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "federated"
DATA = HERE / "federated.json"
COMMAND = "python -m benchmarks.federated"

ROUNDS = 60
COMMON = [f"trainer.max_steps={ROUNDS}", "trainer.val_every=2 steps", f"trainer.checkpoint.every={ROUNDS} steps"]
LAST = 20
"""Rounds at the end over whose validations the accuracy of a run is averaged, as it differs from round to round."""

METHODS = {
    "FedAvg": (["recipe=federated"], (0.3, 1, 3), (0.01, 0.03, 0.1, 0.3)),
    "FedAdam": (["recipe=federated/fedadam"], (0.003, 0.01, 0.03), (0.01, 0.03, 0.1, 0.3)),
}
"""Options, server LRs and client LRs of the grid, by method."""

TUNING, SEEDS = 0, (1, 2, 3)

Run = dict[str, Any]


def client_lr(peak: float, decays: bool = False) -> str:
    """Return the override of the clients' LR: constant, or along a cosine to 0 over the rounds."""
    if not decays:
        return f"scalars.client_lr={peak:g}"
    return f"scalars.client_lr={{from:{peak:g},to:0,shape:{{_target_:lrflow.schedules.Cosine}}}}"


def grid(method: str) -> dict[tuple[float, float], list[str]]:
    """Return the overrides of the grid by server LR and client LR."""
    options, servers, clients = METHODS[method]
    return {
        (server, peak): [*options, *COMMON, f"optimizer.lr={server:g}", client_lr(peak), f"seed={TUNING}"]
        for server, peak in product(servers, clients)
    }


def chosen(method: str, runs: list[Run]) -> tuple[float, float]:
    """Return the server LR and the client LR with the best accuracy in the grid."""
    found = {pair: made(overrides, runs) for pair, overrides in grid(method).items()}
    return max(found, key=lambda pair: accuracy(found[pair]))


def variants(method: str, runs: list[Run]) -> dict[str, list[list[str]]]:
    """Return the overrides of the measured runs, one list per seed, by the name of the schedules."""
    server, peak = chosen(method, runs)
    start = [*METHODS[method][0], *COMMON, f"optimizer.lr={server:g}"]
    options = {
        "constant": [client_lr(peak)],
        "server LR decays": [client_lr(peak), "schedule=cosine", "schedule.warmup=0"],
        "client LR decays": [client_lr(peak, decays=True)],
    }
    return {name: [[*start, *more, f"seed={seed}"] for seed in SEEDS] for name, more in options.items()}


def made(overrides: list[str], runs: list[Run]) -> Run:
    """Return the run with these overrides; KeyError: it was not made."""
    for run in runs:
        if run["overrides"] == overrides:
            return run
    raise KeyError(" ".join(overrides))


def accuracy(run: Run) -> float:
    """Return the mean validation accuracy over the last rounds; 0 of a run that diverged."""
    values = [value for step, value in run["accuracy"] if step >= ROUNDS - LAST]
    return statistics.fmean(values) if values and run["accuracy"][-1][0] == ROUNDS - 1 else 0.0


def make(overrides: list[str]) -> Run:
    """Train one run and return what is kept of it."""
    import lrflow
    from lrflow.errors import StoppedError
    from lrflow.history import read_history

    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        try:
            result = lrflow.train(*overrides, f"output={folder}", "report=false", "trainer.progress=false")
            metrics = result.metrics
        except StoppedError:
            raise
        except lrflow.LrflowError:  # it diverged
            metrics = {}
        (place,) = Path(folder).glob("*/")
        series = read_history(place / "metrics.csv")
        rates = {}
        for name, column in (("server", "lr/all"), ("client", "scalar/client_lr")):
            rates[name] = [round(float(value), 8) for value in series[column].values]
        steps, values = series["val/accuracy"].steps, series["val/accuracy"].values
    found = [[int(step), round(float(value), 4)] for step, value in zip(steps, values, strict=True)]
    test = metrics.get("test/accuracy")
    seconds = round(time.process_time() - start, 1)
    return {"overrides": overrides, "accuracy": found, "test": test, "cpu_seconds": seconds, "rates": rates}


def table(runs: list[Run]) -> str:
    """Return the measured runs as a Markdown table."""
    heads = ["", "server LR", "client LR", f"validation accuracy, last {LAST} rounds", "test accuracy, last round"]
    rows = [heads, ["---"] * len(heads)]
    for method in METHODS:
        server, peak = chosen(method, runs)
        for name, jobs in variants(method, runs).items():
            found = [made(job, runs) for job in jobs]
            cells = [_cell([accuracy(run) for run in found]), _cell([run["test"] or 0.0 for run in found])]
            rows.append([f"{method}, {name}", f"{server:g}", f"{peak:g}", *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def grid_table(runs: list[Run]) -> str:
    """Return the accuracies of both grids as a Markdown table."""
    rows = [["", "server LR", "client LR", "validation accuracy"], ["---"] * 4]
    for method in METHODS:
        for (server, peak), job in grid(method).items():
            rows.append([method, f"{server:g}", f"{peak:g}", f"{accuracy(made(job, runs)):.3f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(values: list[float]) -> str:
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"


def blocks(runs: list[Run]) -> dict[str, str]:
    """Return the tables of the README by name."""
    return {"grid": grid_table(runs), "measured": table(runs)}


def marked(name: str, text: str) -> str:
    """Return a table between the comments by which it is found in the README."""
    return f"<!-- {name} by {COMMAND} -->\n{text}\n<!-- end of {name} -->"


def draw(runs: list[Run], path: Path) -> None:
    """Draw accuracy, server LR and client LR over the rounds: a column per method, a line per schedule."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 6.0), layout="constrained", facecolor="white")
    axes = figure.subplots(3, len(METHODS), sharex=True, sharey="row", height_ratios=[3, 1, 1])
    for column, method in enumerate(METHODS):
        for (name, jobs), colour in zip(variants(method, runs).items(), ("#0072B2", "#D55E00", "#009E73"), strict=True):
            found = [made(job, runs) for job in jobs]
            curves = np.array([[value for _, value in run["accuracy"]] for run in found])
            rounds = [step + 1 for step, _ in found[0]["accuracy"]]
            top = axes[0, column]
            top.plot(rounds, curves.mean(0), color=colour, linewidth=1.7, label=name)
            top.fill_between(rounds, curves.min(0), curves.max(0), color=colour, alpha=0.15, linewidth=0)
            for row, kind in ((1, "server"), (2, "client")):
                rates = found[0]["rates"][kind]
                axes[row, column].plot(range(1, len(rates) + 1), rates, color=colour, linewidth=1.7)
        axes[0, column].set_title(f"{method}: mean and range of three seeds", fontsize=10.5, loc="left")
        axes[0, column].legend(frameon=False, fontsize=8.5, loc="lower right")
        axes[2, column].set_xlabel("round", fontsize=9)
    for row, label in enumerate(("validation accuracy", "server LR", "client LR")):
        axes[row, 0].set_ylabel(label, fontsize=9)
        if row:
            axes[row, 0].set_yscale("log")
            axes[row, 0].set_ylim(1e-3, 10)
    for one in axes.flat:
        one.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        one.tick_params(labelsize=8.5)
        one.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def read() -> list[Run]:
    """Return the runs that were made."""
    return json.loads(DATA.read_text())["runs"] if DATA.is_file() else []


def _keep(runs: list[Run]) -> None:
    head = json.dumps({"command": COMMAND, "torch": torch.__version__, "machine": platform.machine()})[:-1]
    part = DATA.with_suffix(".part")
    rows = ",\n".join(json.dumps(run) for run in runs)
    part.write_text(f'{head}, "runs": [\n{rows}\n]}}\n')
    os.replace(part, DATA)


def main() -> None:
    """Make the missing runs, then the tables and the picture."""
    runs = read()

    def complete(jobs: list[list[str]]) -> None:
        for job in jobs:
            if not any(run["overrides"] == job for run in runs):
                runs.append(make(job))
                _keep(runs)
                print(f"{accuracy(runs[-1]):.3f} in {runs[-1]['cpu_seconds']:.0f} s: {' '.join(job)}", flush=True)

    for method in METHODS:
        complete(list(grid(method).values()))
    for method in METHODS:
        for jobs in variants(method, runs).values():
            complete(jobs)
    readme = RECIPE / "README.md"
    text = readme.read_text()
    for name, block in blocks(runs).items():
        pattern = rf"<!-- {name} by .*?<!-- end of {name} -->"
        text = re.sub(pattern, marked(name, block).replace("\\", r"\\"), text, flags=re.DOTALL)
    readme.write_text(text)
    draw(runs, RECIPE / "result.png")


if __name__ == "__main__":
    main()
