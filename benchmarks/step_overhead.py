"""Measure the overhead of a training step: a bare loop, other trainers, and lrflow with both of its loops.

    python benchmarks/step_overhead.py                # minutes on one core
    python benchmarks/step_overhead.py --quick
    python benchmarks/step_overhead.py --model cnn    # batches of 128 images; no calls, which arithmetic hides

Every loop trains lrflow's default MLP (or its small CNN) on batches of 64 from the same kind of loader, with AdamW, no
weight decay of biases and norms, and a cosine schedule. The bare loop also keeps what lrflow records of each step: the
loss and the norm of the gradients. lrflow runs with all its defaults: signals, update ratios, findings, metrics.csv.
A trainer that is not installed is left out. Two things are measured, each as the difference between a long and a short
run, so that the setup cancels out:

- function calls per step, counted by cProfile: the same on every machine and in every run;
- CPU time of the process per step, in rounds that alternate between the loops; medians of the ratios to the bare loop.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import importlib.util
import logging
import os
import pstats
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
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
from torch.utils.data import DataLoader, Dataset, TensorDataset

import lrflow as program
from lrflow import stops
from lrflow.data import ordered
from lrflow.loggers.csv_file import CSVLogger
from lrflow.models import CNN, MLP
from lrflow.runs import RunFolder
from lrflow.tasks.prepare import prepare
from lrflow.training.trainer import quieten_lightning

LR, DECAY = 1e-3, 0.01
#: Trains for a number of steps, with or without the fused kernel.
Loop = Callable[[int, bool], None]


class Problem:
    """What every loop trains: `mlp`, lrflow's default, or `cnn`."""

    name = "mlp"

    @classmethod
    def network(cls) -> nn.Module:
        """Return the network."""
        torch.manual_seed(0)
        return MLP([1, 8, 8], 10) if cls.name == "mlp" else CNN([1, 28, 28], 10)

    @classmethod
    def batch(cls) -> int:
        """Return the number of examples in a batch."""
        return 64 if cls.name == "mlp" else 128

    @classmethod
    def data(cls, steps: int) -> Dataset[Any]:
        """Return the examples of so many batches."""
        draw = torch.Generator().manual_seed(1)
        size = 8 if cls.name == "mlp" else 28
        inputs = torch.randn(steps * cls.batch(), 1, size, size, generator=draw)
        return TensorDataset(inputs, torch.randint(0, 10, (len(inputs),), generator=draw))


def loader(steps: int) -> DataLoader[Any]:
    """Return a loader of `steps` shuffled batches, each fetched at once."""
    return ordered(DataLoader(Problem.data(steps), Problem.batch(), shuffle=True), seed=0)


def adamw(model: nn.Module, fused: bool) -> torch.optim.Optimizer:
    """Return the optimizer, without weight decay of biases and norms."""
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": 0.0}, {"params": [], "weight_decay": DECAY}]
    for parameter in model.parameters():
        groups[parameter.ndim > 1]["params"].append(parameter)
    return torch.optim.AdamW(groups, lr=LR, fused=fused)


def bare(steps: int, fused: bool) -> None:
    """Train in a minimal loop that keeps the loss and the norm of the gradients of each step."""
    model = Problem.network()
    optimizer = adamw(model, fused)
    scheduler = CosineAnnealingLR(optimizer, steps)
    kept, parameters = [], [*model.parameters()]
    for inputs, targets in loader(steps):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(inputs), targets)
        loss.backward()
        norm = nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
        optimizer.step()
        scheduler.step()
        kept.append((loss.detach(), norm))


def fabric(steps: int, fused: bool) -> None:
    """Train with Lightning Fabric."""
    from lightning_fabric import Fabric

    own = Fabric(accelerator="cpu", devices=1)
    net = Problem.network()
    model, optimizer = own.setup(net, adamw(net, fused))
    scheduler = CosineAnnealingLR(optimizer.optimizer, steps)
    for inputs, targets in own.setup_dataloaders(loader(steps), use_distributed_sampler=False):
        optimizer.zero_grad()
        own.backward(functional.cross_entropy(model(inputs), targets))
        optimizer.step()
        scheduler.step()


def accelerate(steps: int, fused: bool) -> None:
    """Train with Hugging Face's accelerate."""
    from accelerate import Accelerator  # type: ignore[import-untyped]

    own = Accelerator(cpu=True)
    net = Problem.network()
    plain = DataLoader(Problem.data(steps), Problem.batch(), shuffle=True)
    optimizer = adamw(net, fused)
    model, optimizer, batches, scheduler = own.prepare(net, optimizer, plain, CosineAnnealingLR(optimizer, steps))
    for inputs, targets in batches:
        optimizer.zero_grad()
        own.backward(functional.cross_entropy(model(inputs), targets))
        optimizer.step()
        scheduler.step()


class _Named(Dataset[Any]):
    """Examples by the names that transformers expects."""

    def __init__(self, steps: int) -> None:
        self.data = Problem.data(steps)

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, Any]:
        inputs, labels = self.data[index]
        return {"inputs": inputs, "labels": labels}


class _WithLoss(nn.Module):
    """The network with its loss, as transformers expects it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Problem.network()

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        """Return the loss of a batch."""
        output = self.model(inputs)
        return {"loss": functional.cross_entropy(output, labels), "logits": output}


def transformers(steps: int, fused: bool) -> None:
    """Train with the Trainer of transformers, without checkpoints and progress bar."""
    from transformers import Trainer, TrainingArguments

    with tempfile.TemporaryDirectory() as folder:
        model = _WithLoss()
        optimizer = adamw(model, fused)
        arguments = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=Problem.batch(), use_cpu=True, report_to=[],
            disable_tqdm=True, save_strategy="no", logging_steps=50, max_grad_norm=0.0,
        )  # fmt: skip
        schedule = CosineAnnealingLR(optimizer, steps)
        Trainer(model, arguments, train_dataset=_Named(steps), optimizers=(optimizer, schedule)).train()


class Plain(pl.LightningModule):
    """A typical LightningModule.

    Args:
        steps: length of the run.
        fused: use the fused kernel.
        logs: log the loss of every step.
    """

    def __init__(self, steps: int, fused: bool, logs: bool) -> None:
        super().__init__()
        self.model = Problem.network()
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
        optimizer = adamw(self, self.fused)
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


class _Data(pl.LightningDataModule):
    """The data of lrflow's runs."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the other loops."""
        return DataLoader(Problem.data(self.steps), Problem.batch(), shuffle=True)


def lrflow(steps: int, fused: bool, loop: str = "lean") -> None:
    """Train with lrflow's defaults of `task=train`: metrics.csv, signals, health, checkpoints, progress."""
    with tempfile.TemporaryDirectory() as name:
        data = {"mlp": "data=digits", "cnn": "data=fashion_mnist"}[Problem.name]
        config = program.compose(
            f"model={Problem.name}", data, "trainer=cpu", f"trainer.max_steps={steps}", f"trainer.loop={loop}",
            "trainer.checkpoint.monitor=null", f"optimizer.fused={fused}", f"optimizer.weight_decay={DECAY}",
            f"optimizer.lr={LR}", f"output={name}",
        )  # fmt: skip
        folder = RunFolder.at(Path(name) / "run")
        loggers = [CSVLogger(folder.metrics)]
        run = prepare(config, folder, None, loggers, Console(quiet=True), _Data(steps))
        assert run is not None
        with stops.deferred():
            run.trainer.fit(run.module, datamodule=run.data)
        assert run.trainer.global_step == steps


def lrflow_usual(steps: int, fused: bool) -> None:
    """Train with lrflow in Lightning's own loop over the batches."""
    lrflow(steps, fused, "lightning")


def _installed() -> Iterator[tuple[str, Loop]]:
    """Yield the loops of the packages that are installed, by their names in the table."""
    yield "bare torch loop", bare
    for package, name, loop in (
        ("lightning_fabric", "Fabric", fabric),
        ("accelerate", "accelerate", accelerate),
        ("transformers", "transformers' Trainer", transformers),
    ):
        if importlib.util.find_spec(package) is None:
            print(f"{name}: not measured, as {package} is not installed")
        else:
            yield name, loop
    yield "Lightning, lean", lightning_lean
    yield "Lightning, usual callbacks", lightning_full
    yield "lrflow, Lightning's loop", lrflow_usual
    yield "lrflow, lean loop", lrflow


def calls_per_step(loop: Loop, fused: bool, short: int = 100, long: int = 300) -> float:
    """Return the function calls per step, including C functions, counted by cProfile."""

    def calls(steps: int) -> int:
        profile = cProfile.Profile()
        profile.runcall(loop, steps, fused)
        return pstats.Stats(profile).total_calls  # type: ignore[attr-defined]

    with quiet():
        loop(3, fused)  # work that is only done the first time
        return (calls(long) - calls(short)) / (long - short)


def seconds_per_step(loops: dict[str, Loop], rounds: int, fused: bool, short: int, long: int) -> dict[str, list[float]]:
    """Return the CPU seconds per step of each loop, one value per round."""

    def seconds(loop: Loop, steps: int) -> float:
        started = time.process_time()
        loop(steps, fused)
        return time.process_time() - started

    found: dict[str, list[float]] = {name: [] for name in loops}
    with quiet():
        for _ in range(rounds):
            for name, loop in loops.items():
                found[name].append((seconds(loop, long) - seconds(loop, short)) / (long - short))
    return found


@contextlib.contextmanager
def quiet() -> Any:
    """Suppress output and use one thread."""
    quieten_lightning()
    logging.getLogger("lrflow").setLevel(logging.ERROR)
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
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, of the fused kernel alone")
    parser.add_argument("--model", choices=("mlp", "cnn"), default="mlp", help="what every loop trains")
    given = parser.parse_args()
    Problem.name = given.model
    rounds, short, long = (3, 50, 250) if given.quick else (9, 100, 900)
    if given.model == "cnn":
        short, long = short // 10, long // 10
    loops = dict(_installed())
    console = Console(width=110)
    for fused in (True,) if given.quick else (False, True):
        times = seconds_per_step(loops, rounds, fused, short, long)
        title = f"{given.model}: AdamW, fused={fused}; {rounds} rounds"
        table = Table(title=title, title_justify="left")
        for column in ("loop", "calls per step", "to bare", "CPU ms per step", "to bare (median, range)"):
            table.add_column(column, justify="left" if column == "loop" else "right")
        calls = {name: calls_per_step(loop, fused, short, long) for name, loop in loops.items()}
        for name in loops:
            ratios = [own / other for own, other in zip(times[name], times["bare torch loop"], strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            milliseconds = 1e3 * statistics.median(times[name])
            share = f"{calls[name] / calls['bare torch loop']:.2f}"
            table.add_row(name, f"{calls[name]:.0f}", share, f"{milliseconds:.3f}", spread)
        console.print(table)


if __name__ == "__main__":
    main()
