"""Measure the overhead of a training step: a bare loop, Lightning, and lrflow.

    python benchmarks/step_overhead.py            # about two minutes on one core
    python benchmarks/step_overhead.py --quick

Every loop trains the same MLP (64-128-128-10, batches of 64) with AdamW and a cosine schedule, from the same kind of
loader. Two things are measured, each as the difference between a long and a short run, so that the setup cancels out:

- function calls per step, counted by cProfile: the same on every machine and in every run;
- CPU time of the process per step, in rounds that alternate between the loops; medians of the ratios to the bare loop.

lrflow does more in a step than the others: it also computes the gradient norm, and records the loss, the norm, the
time, and the planned and the actual LR of every group.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import os
import pstats
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger as LightningCSVLogger
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from lrflow.data import ordered
from lrflow.health import NonFinite
from lrflow.layers import Rule, merge, resolve
from lrflow.loggers.loggers import CSVLogger
from lrflow.metric import Metric
from lrflow.optimizers import build_optimizer
from lrflow.plan import Plan
from lrflow.schedules import Cosine, Duration, Horizon, Schedule
from lrflow.training import Checkpoints, Signals, Supervised
from lrflow.training.configure_optimizers import supply_optimizer
from lrflow.training.progress import ProgressBar
from lrflow.training.trainer import build_trainer, quieten_lightning

BATCH, LR, DECAY = 64, 1e-3, 0.01
#: Trains for a number of steps, with or without the fused kernel.
Loop = Callable[[int, bool], None]


def network() -> nn.Module:
    """Return the network that every loop trains."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def loader(steps: int) -> DataLoader[Any]:
    """Return a loader of `steps` shuffled batches, each fetched at once."""
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(steps * BATCH, 64, generator=draw)
    targets = torch.randint(0, 10, (len(inputs),), generator=draw)
    return ordered(DataLoader(TensorDataset(inputs, targets), BATCH, shuffle=True), seed=0)


def bare(steps: int, fused: bool) -> None:
    """Train in a minimal loop of ten lines."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY, fused=fused)
    scheduler = CosineAnnealingLR(optimizer, steps)
    for inputs, targets in loader(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        scheduler.step()


class Plain(pl.LightningModule):
    """A typical LightningModule.

    Args:
        steps: length of the run.
        fused: use the fused kernel.
        logs: log the loss of every step.
    """

    def __init__(self, steps: int, fused: bool, logs: bool) -> None:
        super().__init__()
        self.model = network()
        self.steps, self.fused, self.logs = steps, fused, logs

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch."""
        inputs, targets = batch
        loss = functional.cross_entropy(self.model(inputs), targets)
        if self.logs:
            self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """Return AdamW with a cosine schedule."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=LR, weight_decay=DECAY, fused=self.fused)
        scheduler = CosineAnnealingLR(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def lightning_lean(steps: int, fused: bool) -> None:
    """Train with Lightning and everything optional switched off."""
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Plain(steps, fused, logs=False), loader(steps))


def lightning_full(steps: int, fused: bool) -> None:
    """Train with Lightning's usual features: logged loss and LR, checkpoints, a progress bar."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=steps,
            default_root_dir=folder,
            logger=LightningCSVLogger(folder),
            callbacks=[LearningRateMonitor("step"), ModelCheckpoint(folder)],
            enable_model_summary=False,
        )
        trainer.fit(Plain(steps, fused, logs=True), loader(steps))


def lrflow(steps: int, fused: bool) -> None:
    """Train with lrflow's defaults of `task=train`: metrics.csv, signals, health, checkpoints, progress."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer = build_trainer({"accelerator": "cpu"}, folder, [CSVLogger(folder / "metrics.csv")], 50)
        trainer.run_for(Horizon(steps, steps))
        module = Supervised(network(), "cross_entropy")
        rules = [Rule("no_decay", select=["bias", "norm"], weight_decay=0.0), Rule("decay", match="*")]
        groups = resolve(module.model, rules, LR, DECAY)
        plan = Plan.compile(groups, Schedule(Cosine()), Horizon(steps, steps))
        progress = ProgressBar(steps, Console(quiet=True), bar=False)
        signals = Signals(plan, 50)
        checkpoints = Checkpoints(
            folder / "checkpoints",
            plan.horizon,
            Duration.parse("1 epoch"),
            metric=Metric.parse("val/loss"),
            groups=[[name for group in members for name, _ in group.parameters] for members in merge(groups)],
            extra={"plan": plan.to_dict(), "branches": [], "config": {}},
        )
        trainer.callbacks += [progress, signals, NonFinite(), checkpoints]  # type: ignore[attr-defined]
        settings = {"lr": LR, "weight_decay": DECAY, "fused": fused}
        supply_optimizer(
            module, plan, lambda device: build_optimizer(groups, settings, torch.optim.AdamW, device), settings
        )
        trainer.fit(module, loader(steps))


LOOPS: dict[str, Loop] = {
    "bare torch loop": bare,
    "Lightning, lean": lightning_lean,
    "Lightning, usual callbacks": lightning_full,
    "lrflow, default loggers": lrflow,
}


def calls_per_step(loop: Loop, fused: bool, short: int = 100, long: int = 300) -> float:
    """Return the function calls per step, including C functions, counted by cProfile."""

    def calls(steps: int) -> int:
        profile = cProfile.Profile()
        profile.runcall(loop, steps, fused)
        return pstats.Stats(profile).total_calls  # type: ignore[attr-defined]

    with quiet():
        loop(3, fused)  # work that is only done the first time
        return (calls(long) - calls(short)) / (long - short)


def seconds_per_step(rounds: int, fused: bool, short: int, long: int) -> dict[str, list[float]]:
    """Return the CPU seconds per step of each loop, one value per round."""

    def seconds(loop: Loop, steps: int) -> float:
        started = time.process_time()
        loop(steps, fused)
        return time.process_time() - started

    found: dict[str, list[float]] = {name: [] for name in LOOPS}
    with quiet():
        for _ in range(rounds):
            for name, loop in LOOPS.items():
                found[name].append((seconds(loop, long) - seconds(loop, short)) / (long - short))
    return found


@contextlib.contextmanager
def quiet() -> Any:
    """Suppress output and use one thread."""
    quieten_lightning()
    torch.set_num_threads(1)
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    rounds, short, long = (3, 50, 250) if parser.parse_args().quick else (9, 100, 900)
    console = Console(width=110)
    for fused in (False, True):
        times = seconds_per_step(rounds, fused, short, long)
        table = Table(title=f"AdamW, fused={fused}; {rounds} rounds", title_justify="left")
        for column in ("loop", "calls per step", "to bare", "CPU ms per step", "to bare (median, range)"):
            table.add_column(column, justify="left" if column == "loop" else "right")
        reference = calls_per_step(bare, fused)
        for name, loop in LOOPS.items():
            calls = calls_per_step(loop, fused)
            ratios = [own / other for own, other in zip(times[name], times["bare torch loop"], strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            milliseconds = 1e3 * statistics.median(times[name])
            table.add_row(name, f"{calls:.0f}", f"{calls / reference:.1f}", f"{milliseconds:.3f}", spread)
        console.print(table)


if __name__ == "__main__":
    main()
