"""What the snapshots of `health=recover` cost in a run that never rolls back: the same run with `health=watch`.

    python -m benchmarks.recovery                     # both networks; some minutes on one core
    python -m benchmarks.recovery mlp --rounds 3

Runs of both kinds alternate, in an order that is reversed every round. What counts is the CPU time of the training
loop: steps, validations, snapshots and checkpoints with the snapshots beside them; not the start of the run. The table
has the median of the ratios of the rounds, their range, and the ratio of the shortest times. The result is written to
`recovery.json` beside this file.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console

import lrflow
from lrflow.loggers.loggers import CSVLogger
from lrflow.runs import RunFolder
from lrflow.tasks.prepare import prepare
from lrflow.training.trainer import quieten_lightning

FILE = Path(__file__).with_name("recovery.json")
COMMON = (
    "trainer=cpu",
    "trainer.progress=false",
    "task.test=false",
    "trainer.max_steps=2000",
    "trainer.max_epochs=1000",
)
NETWORKS = {
    "mlp": ("data=digits", "model=mlp"),  # the default
    "cnn": ("data=digits", "model=cnn"),
}
VARIANTS = ("watch", "recover")


class Clock(pl.Callback):
    """Measures the CPU seconds of a training loop."""

    seconds = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._since = time.thread_time()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop it."""
        self.seconds = time.thread_time() - self._since


def measure(network: str, variant: str) -> tuple[float, int]:
    """Return the CPU seconds of a run, and the size of its snapshots on the disk in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        config = lrflow.compose(*COMMON, *NETWORKS[network], f"health={variant}")
        loggers = [CSVLogger(Path(folder) / "metrics.csv")]
        ready = prepare(config, RunFolder(Path(folder)), None, loggers, Console(quiet=True))
        assert ready is not None
        clock = Clock()
        ready.trainer.callbacks.append(clock)  # type: ignore[attr-defined]
        ready.trainer.fit(ready.module, datamodule=ready.data)
        rollback = ready.trainer.rollback
        assert rollback is None or not rollback.recoveries, "the run rolled back, so that the two are not alike"
        size = sum(path.stat().st_size for path in Path(folder).glob("checkpoints/snapshots/*"))
        return clock.seconds, size


def main() -> None:
    """Measure, print the table and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", choices=[[], *NETWORKS], help="none: all")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    quieten_lightning()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    print("| network | seconds with `watch` | `recover` / `watch` | range | of the shortest | snapshots |")
    print("| --- | --- | --- | --- | --- | --- |")
    for network in chosen.networks or NETWORKS:
        seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        size = 0
        for number in range(chosen.rounds):
            for variant in VARIANTS[:: -1 if number % 2 else 1]:
                spent, size_now = measure(network, variant)
                seconds[variant].append(round(spent, 4))
                size = max(size, size_now)
        ratios = [one / other for one, other in zip(seconds["recover"], seconds["watch"], strict=True)]
        shortest = min(seconds["recover"]) / min(seconds["watch"])
        print(
            f"| {network} | {median(seconds['watch']):.2f} | {median(ratios):.3f} | {min(ratios):.3f} to"
            f" {max(ratios):.3f} | {shortest:.3f} | {size / 1e6:.1f} MB |",
            flush=True,
        )
        found[network] = {"seconds": seconds, "bytes": size}
    if len(found) == len(NETWORKS):
        head: dict[str, Any] = {"command": f"python -m benchmarks.recovery --rounds {chosen.rounds}"}
        head |= {"python": platform.python_version()}
        head |= {name: version(name) for name in ("torch", "pytorch-lightning")}
        FILE.write_text(json.dumps({**head, **found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
