"""How far the LR that a range test finds is from the one that trains best, and what training with it costs.

    python benchmarks/find.py                                  # digits
    python benchmarks/find.py --root DIR                       # FashionMNIST too, from the folder of its four files

The truth of each problem is a grid of whole runs (`task=train`, their schedule and all), four LRs a decade, its best by
the mean validation loss over seeds. Against it: `task=find` as it is shipped under other seeds, each of its rules alone
on the same sweeps, and Lightning's own `Tuner.lr_find` as it is shipped. Reported for each: the median error and the
spread (standard deviation) over seeds, in decades; the validation loss at the LRs that were found over the grid's best,
read off the grid between its points; and the steps that were spent, as a share of those of one run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.tuner import Tuner
from rich.console import Console
from rich.table import Table

from lrflow.config import compose
from lrflow.health import DivergedError
from lrflow.tasks import build, find, train
from lrflow.training import Supervised

PER_DECADE = 4
RUNS = 3  # of each LR of the grid


@dataclass(frozen=True)
class Problem:
    """What an LR is looked for.

    Args:
        name: for the table.
        options: overrides of `python -m lrflow`.
        low: the grid's lowest LR, as a power of ten.
        high: its highest.
    """

    name: str
    options: Sequence[str]
    low: float
    high: float


def problems(root: Path | None) -> list[Problem]:
    """The problems whose data is there."""
    found = [
        Problem("digits, mlp, adamw", ["optimizer=adamw"], -4.5, -0.5),
        Problem("digits, mlp, momentum", ["optimizer=momentum"], -3.5, 0.5),
        Problem("digits, resnet, adamw", ["optimizer=adamw", "model=resnet", "trainer.max_epochs=8"], -4.5, -0.5),
    ]
    if root:
        cnn = ["data=fashion_mnist", f"data.root={root}", "model=cnn", "trainer.max_epochs=1"]
        few = ["trainer.limit_train_batches=200", "trainer.limit_val_batches=4"]
        found.append(Problem("FashionMNIST, cnn, adamw", ["optimizer=adamw", *cnn, *few], -4.5, -0.5))
    return found


def quietly(task: Callable[[Any], dict[str, Any]], options: Sequence[str]) -> dict[str, Any]:
    """The result of a task, of which nothing is printed or kept."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        result = task(compose([*options, f"output={folder}", "trainer.progress=false"]))
        if (path := Path(result["folder"]) / "find.json").exists():
            result |= json.loads(path.read_text())
        elif (path := Path(result["folder"]) / "summary.json").exists():
            result["steps"] = json.loads(path.read_text())["steps"]
    return result


def grid(problem: Problem) -> tuple[np.ndarray, np.ndarray, int]:
    """LRs [n], the mean validation loss at each [n] (infinite where a run diverged), and the steps of a run."""
    count = round((problem.high - problem.low) * PER_DECADE) + 1
    rates = np.logspace(problem.low, problem.high, count)
    losses, steps = np.full((RUNS, count), np.inf), 0
    for index, rate in enumerate(rates):
        for seed in range(RUNS):
            options = [*problem.options, f"optimizer.lr={rate:.6g}", f"seed={seed}", "task.test=false"]
            with contextlib.suppress(DivergedError):
                result = quietly(train.run, [*options, "trainer.checkpoint.every=1000 epochs"])
                losses[seed, index], steps = result["val/loss"], result["steps"]
    return rates, losses.mean(0), steps


class Tuned(Supervised):
    """The module as Lightning's tuner wants it: with an LR and an optimizer of its own."""

    lr = 1e-3
    node: dict[str, Any]
    factory: Any

    def configure_optimizers(self) -> Any:
        """The optimizer of the problem, every parameter alike."""
        node = {name: value for name, value in self.node.items() if name not in ("_target_", "fused")}
        return self.factory(self.parameters(), **{**node, "lr": self.lr})


def lightning(problem: Problem, seed: int) -> float:
    """What Lightning's tuner suggests; not a number where it does not."""
    config = compose([*problem.options, f"seed={seed}"])
    pl.seed_everything(seed, verbose=False)
    data, module = build.build_data(config), build.build_module(config)
    module.__class__ = Tuned
    assert isinstance(module, Tuned)
    module.node, module.factory = config.optimizer.node(), build.locate(config.optimizer.target)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=config.trainer.max_epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        with contextlib.redirect_stderr(io.StringIO()):  # its own bar
            found = Tuner(trainer).lr_find(module, datamodule=data)
    suggestion = found.suggestion() if found else None
    return float("nan") if suggestion is None else suggestion


def main() -> None:
    """Measures every problem and prints a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder of the files of FashionMNIST")
    parser.add_argument("--seeds", type=int, default=8, help="range tests of each problem")
    parser.add_argument("--only", default="", help="problems whose name holds this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    for problem in problems(arguments.root):
        if arguments.only in problem.name:
            report(problem, arguments.seeds)


def report(problem: Problem, seeds: int) -> None:
    """Measure one problem, and print what came out."""
    rates, losses, steps = grid(problem)
    found: dict[str, list[float]] = {}
    spent, sure = 0.0, 0
    for seed in range(100, 100 + 10 * seeds, 10):  # each test takes five seeds from its own on
        result = quietly(find.run, [*problem.options, "task=find", f"seed={seed}"])
        for name, rate in result["marks"].items():
            found.setdefault(name, []).append(rate)
        spent += result["steps"] / seeds
        sure += not result["doubts"]
        found.setdefault("Lightning", []).append(lightning(problem, seed))
    best = int(np.argmin(losses))
    title = f"{problem.name}: best LR {rates[best]:.3g}, validation loss {losses[best]:.4g}, runs of {steps} steps"
    table = Table("rule", "median LR", "error", "spread", "loss / best", title=title)
    known = np.isfinite(losses)
    for name, answers in found.items():
        logs = np.log10(np.array(answers))
        at = np.interp(logs, np.log10(rates[known]), np.log(losses[known]))
        table.add_row(
            f"{name} (the answer)" if name == "halfway" else name,
            f"{10 ** np.median(logs):.3g}",
            f"{np.median(logs) - np.log10(rates[best]):+.2f}",
            f"{np.std(logs):.2f}",
            f"{np.exp(at).mean() / losses[best]:.2f}",
        )
    console = Console(width=100)
    console.print(table)
    share = spent / steps / (len(rates) * RUNS)
    console.print(f"cost: {spent / steps:.2g} runs, {100 * share:.2g}% of the grid; confident in {sure} of {seeds}\n")


if __name__ == "__main__":
    main()
