"""Compare the ends of a run whose validation loss no longer improves: stopping at once, and a cooldown of the LR.

    python benchmarks/early_stopping.py                    # digits only
    python benchmarks/early_stopping.py --root DIR         # FashionMNIST too, with its four files in DIR

Every run is a run of `python -m lrflow` at a constant LR with `callbacks=early_stopping`, `then=cooldown` and the
default patience of 5 validations and cooldown of 10%. Up to the step at which patience ends, a run with `then=stop` is
the same run; so its last and its best weights are read from the checkpoints. `as long` trains as many steps as the run
with the cooldown does, at a constant LR. The table has mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from lrflow.config import compose
from lrflow.tasks import evaluate, train

JOBS = {
    "digits": (5, ["trainer.max_epochs=100", "optimizer.lr=0.01"]),
    "cnn": (
        3,
        ["recipe=cnn", "trainer.max_epochs=60", "trainer.limit_train_batches=25", "trainer.limit_val_batches=10"],
    ),
}
"""For each problem: the number of seeds, and overrides."""

CONSTANT = ["schedule=constant", "schedule.warmup=1%", "trainer.checkpoint.keep=null", "trainer.progress=false"]
COOLDOWN = ["callbacks=early_stopping", "callbacks.early_stopping.then=cooldown"]
ENDS = ("stop: last weights", "stop: best weights", "as long, constant LR", "cooldown")


def main() -> None:
    """Run all seeds of all problems, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder with the files of FashionMNIST")
    root = parser.parse_args().root
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    for name, (seeds, options) in JOBS.items():
        if name == "cnn" and root is None:
            continue
        more = [*options, *([f"data.root={root}"] if name == "cnn" else [])]
        with tempfile.TemporaryDirectory() as folder:
            found = [measure([*more, *CONSTANT, f"seed={seed}", f"output={folder}"]) for seed in range(seeds)]
        Console().print(f"\n{name}, {seeds} seeds")
        for end in ENDS:
            rows = [one[end] for one in found]
            parts = [_spread([row[metric] for row in rows]) for metric in ("steps", "test/loss", "test/accuracy")]
            Console().print(f"| {end} | {' | '.join(parts)} |")


def measure(options: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return steps, test loss and test accuracy of each end of one run."""
    cooled = _run(train, [*options, *COOLDOWN])
    folder = Path(str(cooled["folder"]))
    summary = json.loads((folder / "summary.json").read_text())
    found = {"cooldown": {**cooled, "steps": summary["steps"]}}
    if "cooldown" not in summary:  # patience did not end: all ends are the end of the plan
        return dict.fromkeys(ENDS, found["cooldown"])
    at = summary["cooldown"]["from"]
    best = min(
        (row for row in _validations(folder) if row[0] <= at),
        key=lambda row: row[1],
    )[0]
    for end, step in {"stop: last weights": at, "stop: best weights": best}.items():
        checkpoint = folder / "checkpoints" / f"step-{step:07d}.ckpt"
        metrics = _run(evaluate, ["task=evaluate", f"task.from={checkpoint}"], earlier=True)
        found[end] = {**metrics, "steps": at}
    long = _run(train, [*options, f"trainer.max_steps={summary['steps']}"])
    return {**found, "as long, constant LR": {**long, "steps": summary["steps"]}}


def _run(task: object, options: Sequence[str], earlier: bool = False) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        return dict(task.run(compose(list(options), earlier=earlier)))  # type: ignore[attr-defined]


def _validations(folder: Path) -> list[tuple[int, float]]:
    """Return the step and the loss of each validation."""
    lines = (folder / "metrics.csv").read_text().splitlines()
    columns = lines[0].split(",")
    rows = [dict(zip(columns, line.split(","), strict=True)) for line in lines[1:]]
    return [(int(row["step"]) + 1, float(row["val/loss"])) for row in rows if row["val/loss"]]


def _spread(values: Sequence[float]) -> str:
    mean = statistics.mean(values)
    if all(float(value).is_integer() for value in values):
        return f"{mean:.0f}"
    return f"{mean:.4f} ± {statistics.stdev(values):.4f}"


if __name__ == "__main__":
    main()
