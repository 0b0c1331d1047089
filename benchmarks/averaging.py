"""Compare ways to end a run at the same number of steps: averages and merges of a constant LR, decays, schedule-free.

Each way trains at three peak LRs (half, once and twice the one in `RECIPES`) and with three seeds; the table has the
peak whose mean validation loss is best. All runs are small: charlm at half its width and depth, cnn at half its width.

python -m benchmarks.averaging --out benchmarks/averaging.json   # keeps what the file has of other recipes
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lrflow.config import compose
from lrflow.tasks import merge, train

QUIET = ["trainer=cpu", "trainer.progress=false", "logger=none", "task.test=false", "trainer.val_every=100%"]
RECIPES: dict[str, dict[str, Any]] = {
    "charlm": {
        "options": ["recipe=charlm", "model.width=64", "model.depth=2", "trainer.max_steps=300", "data.length=48"],
        "lr": 3e-3,
        "schedule-free": {"options": ["optimizer=schedule_free_adamw"], "lr": 3e-3},
    },
    "cnn": {
        "options": ["recipe=cnn", "model.widths=[16,32]", "trainer.max_steps=400"],
        "lr": 0.1,
        "schedule-free": {"options": ["optimizer=schedule_free_sgd"], "lr": 0.8},
    },
}
"""Options of all ways, their middle peak LR, and those of the way that has another optimizer."""
CONSTANT = ["schedule=constant_with_warmup", "schedule.warmup=10%"]
KEPT = ["trainer.checkpoint.keep=null", "trainer.checkpoint.every=1%"]
RUNS: dict[str, list[str]] = {
    "constant": [*CONSTANT, *KEPT],
    "constant + EMA over 10%": [*CONSTANT, "average=ema", "average.over=10%"],
    "WSD, 1-sqrt over 20%": ["schedule=wsd", "schedule.warmup=10%", "schedule.cooldown=20%",
                             "schedule.cooldown_shape=1-sqrt"],
    "cosine": ["schedule=cosine", "schedule.warmup=10%"],
    "schedule-free": CONSTANT,
}  # fmt: skip
MERGES = {
    "constant + merge, 1-sqrt over 20%": ["task.as=1-sqrt", "task.over=20%"],
    "constant + merge, linear over 50%": ["task.as=linear", "task.over=50%"],
}
FACTORS = (0.5, 1.0, 2.0)
SEEDS = (0, 1, 2)


def losses(recipe: str, factor: float, seed: int, output: Path) -> Iterator[tuple[str, float]]:
    """Train a recipe in each way at one peak LR and seed, and yield the validation loss after the last step."""
    given = RECIPES[recipe]
    common = [*given["options"], f"seed={seed}", f"output={output}"]
    for way, options in RUNS.items():
        own = given.get(way, {}).get("options", [])
        done = train.run(compose([*common, f"optimizer.lr={peak(recipe, way, factor)}", *QUIET, *options, *own]))
        yield way, done["val/loss"]
        if way == "constant":
            for name, decay in MERGES.items():
                words = ["task=merge", f"task.from={done['folder']}", *decay]
                yield name, merge.run(compose(words, earlier=True))["val/loss"]


def peak(recipe: str, way: str, factor: float) -> float:
    """Return the peak LR of a way at a factor on its middle one."""
    given = RECIPES[recipe]
    return float(given.get(way, given)["lr"] * factor)


def measure(recipes: list[str]) -> dict[str, Any]:
    """Return the losses of each recipe: by way and by factor on the peak LR, a list over seeds."""
    found: dict[str, Any] = {}
    for recipe in recipes:
        started = time.process_time()
        table: dict[str, dict[str, list[float]]] = {}
        for factor in FACTORS:
            for seed in SEEDS:
                with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                    for way, loss in losses(recipe, factor, seed, Path(folder)):
                        table.setdefault(way, {}).setdefault(f"{factor:g}", []).append(loss)
        found[recipe] = {"losses": table, "cpu_seconds": round(time.process_time() - started)}
    return found


def best(by_factor: dict[str, list[float]]) -> tuple[str, float, float]:
    """Return the best factor on the peak LR, and mean and standard deviation of its losses."""
    factor = min(by_factor, key=lambda one: statistics.mean(by_factor[one]))
    return factor, statistics.mean(by_factor[factor]), statistics.stdev(by_factor[factor])


def main() -> None:
    """Measure, print the table, and write the losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(arguments.recipes)
    for recipe, result in found.items():
        table = Table("way", "peak LR", "val/loss", "at the middle LR", title=recipe, box=None, header_style="bold")
        for way, by_factor in result["losses"].items():
            factor, mean, deviation = best(by_factor)
            own = by_factor["1"]
            alone = f"{statistics.mean(own):.4f} ± {statistics.stdev(own):.4f}"
            table.add_row(way, f"{peak(recipe, way, float(factor)):g}", f"{mean:.4f} ± {deviation:.4f}", alone)
        Console(width=120).print(table, f"{result['cpu_seconds']} s of CPU\n")
    if arguments.out:
        earlier = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
        arguments.out.write_text(json.dumps({**earlier, **found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
