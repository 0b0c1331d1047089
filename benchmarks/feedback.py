"""Compare feedback on a constant LR with a constant LR and a cosine alone, at a good LR and at two bad ones.

    python benchmarks/feedback.py                                  # digits only
    python benchmarks/feedback.py --root DIR                       # FashionMNIST too, with its four files in DIR
    python benchmarks/feedback.py --picture docs/images/feedback.png   # only the picture

Every run is a run of `python -m lrflow` with the default options. The middle LR is a good one for a cosine; the others
are a tenth of it and ten times it. The table has mean and standard deviation of the final test accuracy over seeds, and
the number of runs that diverged.

`feedback=kl` is not included: it needs a policy whose divergence can be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import logging
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from lrflow.config import compose
from lrflow.health import DivergedError
from lrflow.tasks import train

METHODS = {
    "cosine": ["schedule=cosine"],
    "constant": ["schedule=constant"],
    "constant, plateau": ["schedule=constant", "feedback=plateau"],
    "constant, greedy": ["schedule=constant", "feedback=greedy"],
    "constant, hypergradient": ["schedule=constant", "feedback=hypergradient"],
    "constant, sasa": ["schedule=constant", "feedback=sasa"],
    "cosine, hypergradient": ["schedule=cosine", "feedback=hypergradient"],
}


@dataclass(frozen=True)
class Job:
    """A training problem.

    Args:
        name: title in the table.
        lr: good peak LR.
        seeds: number of seeds.
        options: overrides of `python -m lrflow`.
    """

    name: str
    lr: float
    seeds: int
    options: Sequence[str]


DIGITS = Job("digits, MLP, SGD, 20 epochs of 20 steps", 0.3, 3, ["optimizer=sgd", "trainer.max_epochs=20"])
FASHION = Job(
    "FashionMNIST, MLP, AdamW, 10 epochs of 40 batches of 128",
    1e-2,
    3,
    [
        "data=fashion_mnist",
        "data.batch_size=128",
        "trainer.max_epochs=10",
        "trainer.limit_train_batches=40",
        "trainer.limit_val_batches=2",
        "optimizer=adamw",
    ],
)


def run(options: Sequence[str], folder: Path) -> Path | None:
    """Make a run without output and return its run folder; None if it diverged."""
    config = compose([*options, f"output={folder}", "trainer.progress=false", "trainer.accelerator=cpu"])
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return Path(train.run(config)["folder"])
        except DivergedError:
            return None


def accuracies(job: Job, method: Sequence[str], lr: float, folder: Path) -> list[float | None]:
    """Return the final test accuracy of each seed; None if the run diverged."""
    found: list[float | None] = []
    for seed in range(job.seeds):
        done = run(
            [*job.options, *method, f"optimizer.lr={lr:g}", f"seed={seed}", "trainer.checkpoint.every=100%"], folder
        )
        found.append(None if done is None else accuracy(done))
    return found


def accuracy(folder: Path) -> float:
    """Read the test accuracy of a run folder."""
    from lrflow.runs import RunFolder

    return float(RunFolder(folder).read_summary()["metrics"]["test/accuracy"])


def shown(found: Sequence[float | None]) -> str:
    """Format mean and standard deviation, and the number of diverged runs."""
    held = [value for value in found if value is not None]
    lost = f" ({len(found) - len(held)} of {len(found)} diverged)" if len(held) < len(found) else ""
    if len(held) < 2:
        return f"-{lost}"
    return f"{statistics.fmean(held):.4f} ± {statistics.stdev(held):.4f}{lost}"


def measure(job: Job, console: Console) -> None:
    """Print the table of a job, row by row."""
    rates = [job.lr / 10, job.lr, job.lr * 10]
    console.print(f"\n{job.name}; test accuracy, {job.seeds} seeds\n")
    console.print("| | " + " | ".join(f"LR {rate:g}" for rate in rates) + " |")
    console.print("| --- |" + " --- |" * len(rates))
    with tempfile.TemporaryDirectory() as name:
        for method, options in METHODS.items():
            cells = [shown(accuracies(job, options, rate, Path(name))) for rate in rates]
            console.print(f"| {method} | " + " | ".join(cells) + " |")


def draw(path: Path) -> None:
    """Plot the planned and the used LR of three runs on digits."""
    from matplotlib.figure import Figure

    cases = {
        "constant 0.3, plateau, patience 0": [
            "schedule=constant",
            "feedback=plateau",
            "feedback.patience=0",
            "optimizer.lr=0.3",
        ],
        "constant 0.03, hypergradient": ["schedule=constant", "feedback=hypergradient", "optimizer.lr=0.03"],
        "cosine 0.03, greedy": ["schedule=cosine", "feedback=greedy", "optimizer.lr=0.03"],
    }
    figure = Figure(figsize=(9.6, 2.9), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(cases))
    with tempfile.TemporaryDirectory() as name:
        for axes, (title, options) in zip(panels, cases.items(), strict=True):
            folder = run([*DIGITS.options, *options], Path(name))
            assert folder is not None
            with (folder / "metrics.csv").open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["train/loss"]]
            steps = [int(row["step"]) for row in rows]
            for column, label, colour, style in (
                ("lr_planned/decay", "planned", "#707070", "--"),
                ("lr/decay", "used", "#0072B2", "-"),
            ):
                rates = [float(row[column]) for row in rows]
                axes.plot(steps, rates, style, color=colour, linewidth=1.6, label=label)
            axes.set_yscale("log")
            axes.set_ylim(1e-3, 1.0)
            axes.set_title(title, fontsize=9.5, color="#222222", loc="left")
            axes.set_xlabel("optimizer step", fontsize=9, color="#222222")
            axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
            axes.tick_params(labelsize=8.5)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
    panels[0].set_ylabel("learning rate", fontsize=9, color="#222222")
    panels[0].legend(frameon=False, fontsize=8.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Measure and print the tables, or draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder with the four files of FashionMNIST")
    parser.add_argument("--picture", type=Path, help="only draw planned and used LRs to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lrflow").setLevel(logging.ERROR)
    if arguments.picture:
        draw(arguments.picture)
        return
    console = Console(width=140, highlight=False)
    measure(DIGITS, console)
    if arguments.root:
        options = [*FASHION.options, f"data.root={arguments.root}", "data.download=false"]
        measure(Job(FASHION.name, FASHION.lr, FASHION.seeds, options), console)


if __name__ == "__main__":
    main()
