"""What `signals=default` and `health=watch` cost per step: the same run without either, with one, and with both.

    python -m benchmarks.health_overhead                  # both networks; about ten minutes on one core
    python -m benchmarks.health_overhead mlp --rounds 5
    python -m benchmarks.health_overhead mlp --profile    # which functions the time goes to

The three runs of a round train side by side: each has its own thread, and they take turns, one epoch each, in an order
that is reversed every time. So a change of the machine's speed meets all of them. What counts is the CPU time of the
process during a run's turns, in all its threads: steps, validations, checkpoints and metrics.csv; not the start of the
run.

The ratio of a round is that of its sums over all epochs. The table has the median over the rounds with a 95% interval
by resampling them, and the ratio of sums of minima: of each epoch, the shortest time of all rounds. What was measured
is written to `health_overhead.json` beside this file.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import tempfile
import threading
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from rich.console import Console

import lrflow
from lrflow.loggers.loggers import CSVLogger
from lrflow.runs import RunFolder
from lrflow.tasks.prepare import Prepared, prepare
from lrflow.training.trainer import quieten_lightning

FILE = Path(__file__).with_name("health_overhead.json")
COMMON = ("trainer=cpu", "trainer.progress=false", "task.test=false")
NETWORKS = {
    "mlp": ("data=digits", "model=mlp"),  # the default
    "cnn": ("data=digits", "model=cnn"),
}
VARIANTS = {
    "none": ("signals=none", "health=none"),
    "signals": ("signals=default", "health=none"),
    "both": ("signals=default", "health=watch"),
}
RATIOS = {
    "`signals=default` over `signals=none`": ("signals", "none"),
    "`health=watch` over `health=none`": ("both", "signals"),
    "both over neither": ("both", "none"),
}
LIMIT = 0.01
"""The most that each may add."""


class Turns:
    """Lets threads run one after the other, in an order that is reversed every time.

    Args:
        count: number of threads.
    """

    def __init__(self, count: int) -> None:
        self._count, self._turn, self._done = count, 0, threading.Condition()

    def wait(self, number: int) -> None:
        """Wait until it is a thread's turn."""
        with self._done:
            self._done.wait_for(lambda: self._whose() == number)

    def end(self) -> None:
        """End the turn."""
        with self._done:
            self._turn += 1
            self._done.notify_all()

    def _whose(self) -> int:
        times, place = divmod(self._turn, self._count)
        return place if times % 2 == 0 else self._count - 1 - place


class Clock(pl.Callback):
    """Measures the CPU seconds of a run, epoch by epoch, and hands over after each.

    Args:
        turns: of the runs of a round.
        number: of this run.
        every: steps per turn.
    """

    def __init__(self, turns: Turns, number: int, every: int) -> None:
        self.turns, self.number, self.every = turns, number, every
        self.seconds: list[float] = []
        self._since = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._since = time.process_time()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Hand over if another epoch begins."""
        if trainer.global_step and trainer.global_step % self.every == 0:
            self._stop()
            self.turns.end()
            self.turns.wait(self.number)
            self._since = time.process_time()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._stop()

    def _stop(self) -> None:
        self.seconds.append(time.process_time() - self._since)


def build(words: tuple[str, ...], folder: Path, logs: bool = True) -> Prepared:
    """Return a run that is ready for its first step, with metrics.csv."""
    folder.mkdir(parents=True)
    config = lrflow.compose(*COMMON, *words)
    loggers = [CSVLogger(folder / "metrics.csv")] if logs else []
    ready = prepare(config, RunFolder(folder), None, loggers, Console(quiet=True))
    assert ready is not None
    return ready


def measure(words: tuple[str, ...], first: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each epoch of each run of a round.

    Args:
        words: of the network.
        first: number of the variant that begins.
    """
    names = list(VARIANTS)
    names = [*names[first:], *names[:first]]
    turns, clocks, failures = Turns(len(names)), dict[str, Clock](), list[BaseException]()

    def train(name: str, ready: Prepared) -> None:
        clock = clocks[name]
        clock.turns.wait(clock.number)
        try:
            ready.trainer.fit(ready.module, datamodule=ready.data)
        except BaseException as error:
            failures.append(error)
        clock.turns.end()

    with tempfile.TemporaryDirectory() as base:
        threads = []
        for number, name in enumerate(names):
            ready = build((*words, *VARIANTS[name]), Path(base) / name)
            assert ready.trainer.horizon is not None
            assert ready.trainer.horizon.steps_per_epoch is not None
            clocks[name] = Clock(turns, number, ready.trainer.horizon.steps_per_epoch)
            ready.trainer.callbacks.append(clocks[name])  # type: ignore[attr-defined]
            threads.append(threading.Thread(target=train, args=(name, ready)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return {name: clocks[name].seconds for name in VARIANTS}


def table(found: dict[str, dict[str, list[list[float]]]], steps: dict[str, int]) -> tuple[str, bool]:
    """Return what was measured as a Markdown table, and whether all is within the limit."""
    lines = [
        "| network | what | added per step | median (95% interval) | by minima | limit |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    within = True
    for network, seconds in found.items():
        for what, (with_it, without) in RATIOS.items():
            own, other = (np.array(seconds[name]) for name in (with_it, without))  # [rounds, epochs]
            ratios = own.sum(axis=1) / other.sum(axis=1)
            drawn = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
            low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
            least = own.min(axis=0).sum(), other.min(axis=0).sum()
            added = 1e6 * (least[0] - least[1]) / steps[network]
            middle = float(np.median(ratios))
            within &= what == "both over neither" or middle - 1 <= LIMIT
            lines.append(
                f"| {network} | {what} | {added:.1f} µs of {1e6 * least[1] / steps[network]:.0f} | {middle:.4f}"
                f" ({low:.4f} to {high:.4f}) | {least[0] / least[1]:.4f} | {1 + LIMIT} |"
            )
    return "\n".join(lines), within


def profile(words: tuple[str, ...]) -> None:
    """Print the functions that take most of the time of a run with both."""
    with tempfile.TemporaryDirectory() as base:
        ready = build((*words, *VARIANTS["both"]), Path(base) / "run")
        profiler = cProfile.Profile()
        profiler.runcall(ready.trainer.fit, ready.module, datamodule=ready.data)
    statistics = pstats.Stats(profiler).sort_stats("cumulative")
    statistics.print_stats(r"lrflow/(health|training)", 60)


def main() -> int:
    """Measure, print the table and write the file; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", choices=[[], *NETWORKS], help="none: all")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    chosen = parser.parse_args()
    quieten_lightning()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    networks = chosen.networks or list(NETWORKS)
    if chosen.profile:
        for network in networks:
            profile(NETWORKS[network])
        return 0
    found: dict[str, dict[str, list[list[float]]]] = {}
    steps = {}
    for network in networks:
        with tempfile.TemporaryDirectory() as base:
            horizon = build(NETWORKS[network], Path(base) / "run").trainer.horizon
            assert horizon is not None
            steps[network] = horizon.steps
        measure(NETWORKS[network], 0)  # work that is only done the first time
        found[network] = {name: [] for name in VARIANTS}
        for number in range(chosen.rounds):
            for name, seconds in measure(NETWORKS[network], number % len(VARIANTS)).items():
                found[network][name].append([round(one, 6) for one in seconds])
    text, within = table(found, steps)
    print(text)
    if len(found) == len(NETWORKS):
        head: dict[str, Any] = {"command": f"python -m benchmarks.health_overhead --rounds {chosen.rounds}"}
        head |= {"python": platform.python_version()}
        head |= {name: version(name) for name in ("torch", "pytorch-lightning")}
        rows = {network: {name: [round(sum(one), 4) for one in rounds] for name, rounds in variants.items()}
                for network, variants in found.items()}  # fmt: skip
        FILE.write_text(json.dumps({**head, "steps": steps, "seconds": rows}, indent=1) + "\n", encoding="utf-8")
    return 0 if within else 1


if __name__ == "__main__":
    raise SystemExit(main())
