"""The runs on which the methods are compared: a grid of LRs for each optimizer, at full length and shorter."""

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
from lrflow.tuning.short_runs import short_fit, short_plan, whole_horizon

HERE = Path(__file__).parent
OPTIMIZERS = ("momentum", "adamw")
LOW, HIGH, PER_DECADE = -4, 0, 4
EPOCHS = 9
LENGTHS = (EPOCHS, 3, 1)
"""Epochs of a full run, and of the rungs at a third and a ninth of it, each with a complete schedule."""
SHORT_RUNS = ("find.confirm=true", "find.confirm_length=50%", "find.confirm_runs=5")
"""Confirm the result of a range test by annealed runs of half the length."""


@dataclass(frozen=True)
class Run:
    """A run of the landscape, or the search for one optimizer's LR by short runs.

    Args:
        optimizer: option of the optimizer.
        seed: seed of the run.
        lr: peak LR; None: `task=find` with `SHORT_RUNS` finds it, and a full run uses the result.
        epochs: length of the run.
    """

    optimizer: str
    seed: int
    lr: float | None = None
    epochs: int = EPOCHS


@dataclass(frozen=True)
class Curve:
    """The validation curve of a run.

    Args:
        steps: step of each validation.
        losses: validation loss at each of these steps.
        spent: total number of steps, including those of a search.
        diverged: True if the run diverged and was stopped.
    """

    steps: tuple[int, ...]
    losses: tuple[float, ...]
    spent: int
    diverged: bool

    @property
    def loss(self) -> float:
        """Final loss; infinite if the run diverged."""
        return math.inf if self.diverged or not self.losses else self.losses[-1]


def rates() -> list[float]:
    """Return the LRs of the grid, four per decade."""
    return [float(f"{rate:.3g}") for rate in np.logspace(LOW, HIGH, (HIGH - LOW) * PER_DECADE + 1)]


@dataclass
class Landscape:
    """The validation loss of every LR and optimizer, for several seeds.

    Args:
        name: name of the file of the runs.
        title: title in the table and the picture.
        options: overrides of every run.
        kept: finished runs.
    """

    name: str
    title: str
    options: tuple[str, ...] = ()
    kept: dict[Run, Curve] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """File of the runs."""
        return HERE / f"{self.name}.json"

    def read(self) -> Landscape:
        """Read the finished runs."""
        if self.file.is_file():
            for row in json.loads(self.file.read_text())["runs"]:
                curve = Curve(tuple(row["steps"]), tuple(row["losses"]), row["spent"], row["diverged"])
                self.kept[Run(row["optimizer"], row["seed"], row["lr"], row["epochs"])] = curve
        return self

    def runs(self, seed: int) -> Iterator[Run]:
        """Yield all runs of a seed, the searches first."""
        for optimizer in OPTIMIZERS:
            yield Run(optimizer, seed)
        for epochs in LENGTHS:
            for rate in rates():
                for optimizer in OPTIMIZERS:
                    yield Run(optimizer, seed, rate, epochs)

    def seeds(self) -> list[int]:
        """Return the seeds for which every run is finished."""
        known = sorted({run.seed for run in self.kept})
        return [seed for seed in known if all(run in self.kept for run in self.runs(seed))]

    def best(self, seed: int) -> float:
        """Return the lowest final loss of all full runs of a seed."""
        return min(curve.loss for run, curve in self.kept.items() if run.seed == seed and run.epochs == EPOCHS)

    def measure(self, run: Run, extra: Sequence[str] = ()) -> Curve:
        """Make a run and save it."""
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
    """Train at an LR as `task=train` does, or for a share of the length, without writing files.

    A shorter run has the complete schedule scaled to its length, as in `sweep.pruning.rungs=annealed`.
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
    """Return the config of a run and its horizon."""
    config = compose([*words, "trainer.progress=false"])
    return config, whole_horizon(config, Path())


class _Followed(Monitor):
    """Records the validation losses of a run, and stops it when its training loss is no longer finite."""

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
    """Return the LR that `task=find` finds, and the number of steps it makes."""
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
