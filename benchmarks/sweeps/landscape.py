"""The runs that the methods are compared on: every LR of a grid, each optimizer, whole and short."""

from __future__ import annotations

import contextlib
import io
import json
import math
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from lrflow.config import Config, compose
from lrflow.plan import Plan
from lrflow.schedules import Horizon
from lrflow.tasks import find
from lrflow.training import Block, Signals
from lrflow.training.monitor import Monitor
from lrflow.tuning.confirmation import short_plan
from lrflow.tuning.short_runs import short_fit, whole_horizon

HERE = Path(__file__).parent
OPTIMIZERS = ("momentum", "adamw")
LOW, HIGH, PER_DECADE = -4, 0, 4
EPOCHS = 9
LENGTHS = (EPOCHS, 3, 1)
"""Epochs of a whole run, then of the rungs at a third and a ninth of it, each annealed to its end."""
SHORT_RUNS = ("find.confirm=true", "find.confirm_length=50%", "find.confirm_runs=5")
"""Settle what a range test finds by annealed runs of half the length."""


@dataclass(frozen=True)
class Run:
    """A run of the landscape, or the search of one optimizer's LR by short runs.

    Args:
        optimizer: which.
        seed: of the run.
        lr: its LR; None: `task=find` with `SHORT_RUNS` looks for it, and a whole run is made with what it finds.
        epochs: how long it is.
    """

    optimizer: str
    seed: int
    lr: float | None = None
    epochs: int = EPOCHS


@dataclass(frozen=True)
class Curve:
    """How a run went.

    Args:
        steps: of each validation.
        losses: the validation loss at each.
        spent: steps in all, those of a search included.
        diverged: whether it ended early for that.
    """

    steps: tuple[int, ...]
    losses: tuple[float, ...]
    spent: int
    diverged: bool

    @property
    def loss(self) -> float:
        """What it ended at; infinite where it diverged."""
        return math.inf if self.diverged or not self.losses else self.losses[-1]


def rates() -> list[float]:
    """The LRs, four a decade."""
    return [float(f"{rate:.3g}") for rate in np.logspace(LOW, HIGH, (HIGH - LOW) * PER_DECADE + 1)]


@dataclass
class Landscape:
    """The validation loss of every LR and optimizer, for several seeds.

    Args:
        name: of the file that keeps the runs.
        title: in the table and the picture.
        options: overrides of every run.
        kept: the runs that were made.
    """

    name: str
    title: str
    options: tuple[str, ...] = ()
    kept: dict[Run, Curve] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """Where the runs are kept."""
        return HERE / f"{self.name}.json"

    def read(self) -> Landscape:
        """Takes what was measured before."""
        if self.file.is_file():
            for row in json.loads(self.file.read_text())["runs"]:
                curve = Curve(tuple(row["steps"]), tuple(row["losses"]), row["spent"], row["diverged"])
                self.kept[Run(row["optimizer"], row["seed"], row["lr"], row["epochs"])] = curve
        return self

    def runs(self, seed: int) -> Iterator[Run]:
        """All runs of a seed, the searches first."""
        for optimizer in OPTIMIZERS:
            yield Run(optimizer, seed)
        for epochs in LENGTHS:
            for rate in rates():
                for optimizer in OPTIMIZERS:
                    yield Run(optimizer, seed, rate, epochs)

    def seeds(self) -> list[int]:
        """The seeds of which every run was made."""
        known = sorted({run.seed for run in self.kept})
        return [seed for seed in known if all(run in self.kept for run in self.runs(seed))]

    def best(self, seed: int) -> float:
        """The least loss that a whole run of a seed ended at, whoever chose its LR."""
        return min(curve.loss for run, curve in self.kept.items() if run.seed == seed and run.epochs == EPOCHS)

    def measure(self, run: Run, extra: Sequence[str] = ()) -> Curve:
        """Makes a run and keeps it."""
        words = (*self.options, *extra, f"optimizer={run.optimizer}", f"trainer.max_epochs={EPOCHS}")
        if run.lr is None:
            lr, steps = _find([*words, f"seed={run.seed}", *SHORT_RUNS])
            found = train(words, lr, run.seed)
            curve = Curve(found.steps, found.losses, found.spent + steps, found.diverged)
        else:
            curve = train(words, run.lr, run.seed, run.epochs / EPOCHS)
        self.kept[run] = curve
        self._write()
        return curve

    def _write(self) -> None:
        versions = {name: version(name) for name in ("torch", "optuna")}
        head = {"command": f"python -m benchmarks.sweeps {self.name}", "python": platform.python_version(), **versions}
        rows = [json.dumps({**vars(run), **vars(curve)}) for run, curve in self.kept.items()]
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(head)[:-1] + ', "runs": [\n' + ",\n".join(rows) + "\n]}\n")
        part.replace(self.file)


def train(words: tuple[str, ...], lr: float, seed: int, share: float = 1.0) -> Curve:
    """The run of `task=train` at an LR, or one of a share of its length; nothing is written.

    A short run has the whole schedule on its length, as those of `sweep.pruning.rungs=annealed` have.
    """
    config, whole = _config(words)
    steps = round(share * whole.steps)
    followed = _Followed()

    def watching(_: pl.Trainer, __: pl.LightningDataModule, plan: Plan) -> list[pl.Callback]:
        return [Signals(plan, config.trainer.log_every), followed]

    plan_of = partial(short_plan, config, lr=lr, whole=whole, steps=steps)
    with contextlib.redirect_stdout(io.StringIO()):
        short_fit(config, seed, steps, Path(), plan_of, watching, val_every=whole.steps_per_epoch)
    marks, spent, finite = followed.marks, followed.spent, followed.finite
    finite = finite and all(math.isfinite(loss) for _, loss in marks)
    return Curve(tuple(step for step, _ in marks), tuple(loss for _, loss in marks), spent, not finite)


@cache
def _config(words: tuple[str, ...]) -> tuple[Config, Horizon]:
    """A run's config, and how long it is."""
    config = compose([*words, "trainer.progress=false"])
    return config, whole_horizon(config, Path())


class _Followed(Monitor):
    """Keeps the validation losses of a run, and ends it where its training loss is no longer finite."""

    def __init__(self) -> None:
        self.marks: list[tuple[int, float]] = []
        self.spent, self.finite = 0, True

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        self.spent += len(block.loss)
        self.finite &= bool(np.isfinite(block.loss).all())
        trainer.should_stop |= not self.finite

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.marks.append((trainer.global_step, float(trainer.callback_metrics["val/loss"])))


def _find(words: Sequence[str]) -> tuple[float, int]:
    """The LR that `task=find` finds, and the steps that it takes."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        result = find.run(compose([*words, "task=find", f"output={folder}", "trainer.progress=false"]))
        answer: Mapping[str, Any] = json.loads((Path(result["folder"]) / "find.json").read_text())
    return float(answer["lr"]), int(answer["steps"])


LANDSCAPES = (
    Landscape("digits", "digits, MLP, 9 epochs"),
    Landscape("fashion_mnist", "FashionMNIST, small MLP, 50 batches an epoch", (
        "data=fashion_mnist", "model.widths=[64]", "trainer.limit_train_batches=50", "trainer.limit_val_batches=20",
    )),
)  # fmt: skip
