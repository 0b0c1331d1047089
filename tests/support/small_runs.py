"""Small complete runs, built from the parts of `task=train`; fixtures for tests of training and health."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import IterableDataset

from lrflow import stops
from lrflow.clip import Clip
from lrflow.data import DataModule
from lrflow.data.module import Examples
from lrflow.health import NonFinite
from lrflow.layers import Group, Rule, merge, resolve
from lrflow.loggers.csv_file import CSVLogger
from lrflow.metric import Metric
from lrflow.optimizers import build_optimizer
from lrflow.plan import Plan
from lrflow.plan.averaging import Averaging
from lrflow.runs import RunFolder, newest_checkpoint
from lrflow.schedules import Cosine, Curve, Duration, Horizon, Schedule
from lrflow.schedules.serialization import to_spec
from lrflow.training import Block, Checkpoints, EvaluationWeights, Freezing, Signals, Supervised, planned_module
from lrflow.training.branches import Branch, compile_branched
from lrflow.training.configure_optimizers import supply_optimizer
from lrflow.training.guard import StepGuard
from lrflow.training.interrupt import StopRequest
from lrflow.training.isolation import UndisturbedByValidation
from lrflow.training.loaders import Position, order_loaders
from lrflow.training.machine import varies
from lrflow.training.monitor import Monitor, Watched
from lrflow.training.resume import Resumed
from lrflow.training.rollback import Rollback
from lrflow.training.trainer import build_trainer, validate_every

FEATURES, CLASSES = 6, 3
HEAD_HIGHER = (
    Rule("no_decay", match="body.*", select=["bias", "norm"], weight_decay=0.0),
    Rule("body", match="body.*"),
    Rule("head", match="head.*", lr="10x"),
)


class Points(DataModule):
    """136 random points in 6 dimensions with 3 classes: 104 to train on in 7 batches of 16 (the last of 8)."""

    def __init__(self, batch_size: int = 16, val_size: int = 32, nan: bool = False, **settings: Any) -> None:
        super().__init__(batch_size, val_size=val_size, **settings)
        self.nan = nan

    def load(self) -> tuple[Examples, None]:
        draw = torch.Generator().manual_seed(7)
        inputs = torch.randn(104 + self.val_size, FEATURES, generator=draw)
        targets = (inputs[:, :CLASSES] + 0.5 * torch.randn(len(inputs), CLASSES, generator=draw)).argmax(1)
        if self.nan:
            inputs[::2] = torch.nan
        return Examples(inputs, targets), None


class Jitter(nn.Module):
    """Scales by noise drawn from each of the three global generators, as augmentations do."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return inputs
        noise = random.random() + np.random.rand() + torch.rand(len(inputs), 1)
        return inputs * (1 + 0.01 * noise)


def network() -> nn.Module:
    """A network with buffers, dropout and jitter, which a resumed run has to restore."""
    body = nn.Sequential(nn.Linear(FEATURES, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2))
    model = nn.Sequential()
    model.add_module("jitter", Jitter())
    model.add_module("body", body)
    model.add_module("head", nn.Linear(12, CLASSES))
    return model


@dataclass(frozen=True)
class Options:
    """Options of a run, named as in the configuration."""

    max_epochs: int | None = 3
    max_steps: int | None = None
    accumulate: int = 1
    clip: float | None = None
    guard: Callable[[], Clip] | None = None
    val_every: str = "1 epoch"
    save_every: str | None = "7 steps"
    keep: int | None = None
    monitor: str | None = "val/loss"
    log_every: int = 4
    norms_every: int | None = 3  # an interruption may fall into a pair of measured steps
    machine: bool = True
    halves_every: int | None = None
    batch_size: int = 16
    val_size: int = 32
    drop_last: bool = False
    workers: int = 0
    batch_norm_batches: int = 4
    averaging: Averaging | None = None
    limit_train_batches: int | None = None
    nan: bool = False
    lr: float = 1e-2
    optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW
    settings: dict[str, Any] = field(default_factory=lambda: {"weight_decay": 0.1, "fused": "auto"})
    tensor_lr: bool = False
    loop: str = "auto"
    precision: str | None = None
    compiled: bool = False
    schedule: Curve = field(default_factory=lambda: Schedule(Cosine(), warmup="10%"))
    rules: Sequence[Rule] = HEAD_HIGHER
    how: Any = None
    seed: int = 0

    def config(self) -> dict[str, Any]:
        """Return the part that a checkpoint stores."""
        optimizer = {"_target_": self.optimizer.__name__, "lr": self.lr, **self.settings}
        return {"optimizer": optimizer, "schedule": to_spec(self.schedule), "data": {"batch_size": self.batch_size}}


class Recorder(pl.Callback):
    """Records each batch and each optimizer step."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []  # the first feature of each example
        self.losses: list[float] = []  # as the training step returned them
        self.rates: list[list[float]] = []  # per parameter group, read within the step

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step = pl_module.training_step

        def training_step(*args: Any) -> Any:
            result = step(*args)
            loss = result["loss"] if isinstance(result, dict) else result
            if loss is not None:
                self.losses.append(loss.item())
            return result

        pl_module.training_step = training_step  # type: ignore[method-assign]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        optimizer = trainer.optimizers[0]
        optimizer.register_step_pre_hook(
            lambda used, *_: self.rates.append([float(group["lr"]) for group in used.param_groups])
        )

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch[0][:, 0].tolist())


class Blocks(Monitor):
    """Collects the blocks of signals that monitors receive."""

    def __init__(self) -> None:
        self.all: list[Block] = []

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        self.all.append(block)


class Interrupted(Exception):  # noqa: N818
    """An error that lrflow does not know; it represents the end of a process."""


class Interrupt(pl.Callback):
    """Ends a run at the start of a batch, counted over all epochs."""

    def __init__(self, batch: int) -> None:
        self.left = batch

    def on_train_batch_start(self, *_: Any) -> None:
        if self.left == 0:
            raise Interrupted
        self.left -= 1


@dataclass
class Run:
    """A run that is ready; `fit` trains it."""

    folder: Path
    options: Options
    trainer: pl.Trainer
    module: pl.LightningModule
    data: pl.LightningDataModule
    groups: list[Group]
    plan: Plan
    horizon: Horizon
    signals: Signals
    checkpoints: Checkpoints
    record: Recorder
    resumed: Resumed | None = None
    blocks: list[Block] = field(default_factory=list)

    def fit(self) -> Run:
        with stops.deferred():  # as the task does
            self.trainer.fit(self.module, datamodule=self.data, ckpt_path=self.resumed.path if self.resumed else None)
        return self

    def watched(self) -> Watched:
        """Return the run as its monitors see it."""
        return Watched(
            self.trainer, self.data, self.plan, self.folder, self.options.seed, self.signals, self.options.lr
        )

    def watch(self, name: str, monitor: Monitor) -> None:
        """Add a monitor at the position of `task=train`."""
        monitor.begin(name, self.watched())
        self.trainer.callbacks.insert(-1, monitor)  # type: ignore[attr-defined]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return self.module.state_dict()

    @property
    def saved(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("step-*.ckpt"))

    @property
    def newest(self) -> Path | None:
        return newest_checkpoint(self.folder)

    def rows(self, timeless: bool = True) -> list[dict[str, str]]:
        """Return the rows of metrics.csv as text, without the columns that differ between equal runs."""
        with (self.folder / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [{key: value for key, value in row.items() if not (timeless and varies(key))} for row in rows]

    def column(self, name: str) -> list[float]:
        """Return the numbers of one column, without empty cells."""
        return [float(row[name]) for row in self.rows(timeless=False) if row[name]]


def horizon_of(loader: Any, options: Options) -> Horizon:
    if isinstance(getattr(loader, "dataset", None), IterableDataset):
        assert options.max_steps is not None
        return Horizon(options.max_steps)
    return Horizon.count(
        batches=len(loader),
        accumulate=options.accumulate,
        max_epochs=options.max_epochs,
        max_steps=options.max_steps,
        limit_batches=options.limit_train_batches or 1.0,
    )


def build(
    folder: Path,
    options: Options,
    resume: Path | None = None,
    callbacks: Sequence[pl.Callback] = (),
    module: pl.LightningModule | None = None,
    data: pl.LightningDataModule | None = None,
    stop: StopRequest | None = None,
    rollback: Callable[..., Rollback] | None = None,
) -> Run:
    """Build the parts of `task=train`, in its order."""
    resumed = Resumed.read(resume) if resume else None
    pl.seed_everything(options.seed, verbose=False)
    lightning: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "accumulate_grad_batches": options.accumulate,
        "gradient_clip_val": options.clip,
        "limit_train_batches": options.limit_train_batches,
        "precision": options.precision,
        "loop": options.loop,
    }
    trainer = build_trainer(lightning, folder, [CSVLogger(folder / "metrics.csv")], options.log_every)
    data = data or Points(
        options.batch_size,
        options.val_size,
        options.nan,
        num_workers=options.workers,
        drop_last=options.drop_last,
    )
    order_loaders(data, options.seed, resumed.position if resumed else Position())
    data.setup("fit")
    horizon = horizon_of(data.train_dataloader(), options)
    module = module or Supervised(network(), "cross_entropy")
    groups = resolve(planned_module(module), options.rules, options.lr, options.settings.get("weight_decay"))
    layout = [[name for group in members for name, _ in group.parameters] for members in merge(groups)]
    branches: tuple[Branch, ...] = ()
    settings = {"lr": options.lr, **options.settings}
    if resumed:
        resumed.check(module)
        horizon = resumed.horizon(horizon, options.max_epochs, options.max_steps, options.accumulate)
        branches = resumed.branched(horizon, options.how, groups, options.schedule, settings)
    plan = compile_branched(groups, options.schedule, horizon, branches, settings)
    record, blocks = Recorder(), Blocks()
    back = rollback(folder=RunFolder(folder), source=resume) if rollback else None
    guard = StepGuard(options.guard(), groups) if options.guard else None
    signals = Signals(plan, options.log_every, options.norms_every, options.halves_every, options.machine, guard)
    checkpoints = Checkpoints(
        folder / "checkpoints",
        horizon,
        Duration.parse(options.save_every) if options.save_every else None,
        keep=options.keep,
        metric=Metric.parse(options.monitor) if options.monitor else None,
        stop=stop,
        groups=layout,
        extra={
            "plan": plan.to_dict(),
            "branches": [branch.as_dict() for branch in branches],
            "config": options.config(),
        },
        source=resume,
        rollback=back,
    )
    weights = EvaluationWeights(options.batch_norm_batches, options.seed, options.averaging)
    freezing = Freezing(
        planned_module(module),
        groups,
        plan.first_steps,
        resumed.step if resumed else 0,
        options.compiled,
        plan.frozen_from,
    )
    first = [UndisturbedByValidation(), weights, freezing]
    health = [back, NonFinite()] if back else []
    added = [*callbacks, signals, *([guard] if guard else []), blocks, checkpoints]
    trainer.callbacks += [*first, record, *health, *added]  # type: ignore[attr-defined]
    trainer.run_for(horizon)
    validate_every(trainer, Duration.parse(options.val_every), horizon)
    supply_optimizer(
        module,
        plan,
        lambda device: build_optimizer(groups, settings, options.optimizer, device, options.tensor_lr),
        settings | dict.fromkeys(resumed.scheduled_settings if resumed else ()),
    )
    return Run(
        folder, options, trainer, module, data, groups, plan, horizon, signals, checkpoints, record, resumed, blocks.all
    )


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def prepare() -> Callable[..., Run]:
    """Makes a run that is ready to train: prepare(folder, resume=, callbacks=, module=, ..., **options)."""
    names = {option.name for option in fields(Options)}

    def make(folder: Path, **settings: Any) -> Run:
        options = Options(**{name: value for name, value in settings.items() if name in names})
        return build(folder, options, **{name: value for name, value in settings.items() if name not in names})

    return make


@pytest.fixture
def train(prepare: Callable[..., Run]) -> Callable[..., Run]:
    """Trains a run to its end, or interrupts it at the batch `interrupt`, counted over all epochs."""

    def go(folder: Path, interrupt: int | None = None, **settings: Any) -> Run:
        if interrupt is None:
            return prepare(folder, **settings).fit()
        callbacks = [*settings.pop("callbacks", []), Interrupt(interrupt)]
        run = prepare(folder, callbacks=callbacks, **settings)
        with pytest.raises(Interrupted):
            run.fit()
        return run

    return go


@pytest.fixture
def network_of_points() -> Callable[[], nn.Module]:
    """Makes the small network that runs train by default."""
    return network


@pytest.fixture
def points() -> type[Points]:
    """The data module that runs train on by default."""
    return Points
