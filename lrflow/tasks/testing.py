"""The test at the end of a run, and which of its weights it is made with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.runs import RunFolder, find_checkpoint
from lrflow.training.checkpoint_io import read_checkpoint


@dataclass(frozen=True)
class Weights:
    """The weights that a run was tested with.

    Args:
        weights: `best`, `last`, or the name of a checkpoint.
        checkpoint: their file; None: they were in memory.
        step: optimizer steps behind them.
    """

    weights: str
    checkpoint: str | None
    step: int

    def __str__(self) -> str:
        where = f" ({self.checkpoint})" if self.checkpoint else ""
        return f"the {self.weights} weights, of step {self.step}{where}"

    def record(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def test_run(
    wanted: bool | str,
    folder: RunFolder,
    trainer: pl.Trainer,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    tell: Callable[[str], None],
) -> Weights | None:
    """Test a run that has just been trained; its metrics are the trainer's then.

    Args:
        wanted: `task.test`.
        folder: of the run.
        trainer: of the run.
        module: what was trained; it keeps the weights that were tested.
        data: of the run.
        tell: is given a line that says what is tested.

    Returns:
        What was tested; None: nothing was asked for, or there is no test.
    """
    if not (wanted and is_overridden("test_step", module) and is_overridden("test_dataloader", data)):
        return None
    used, best = Weights("last", None, trainer.global_step), folder.best
    path = None
    # The first process decides: others may not see the file yet.
    if wanted == "best" and trainer.strategy.broadcast(best.exists()):
        path = str(best)
        step = read_checkpoint(best, map_location="cpu", mmap=True)["global_step"]
        used = Weights("best", folder.relative(best), step)
    elif wanted == "best":
        tell("no best weights were kept: the last ones are tested")
    trainer.test(module, datamodule=data, ckpt_path=path, verbose=False)
    tell(f"tested {used}")
    return used


def find_weights(source: str, weights: str | None, output: Path) -> Path:
    """The checkpoint that `task=evaluate` is to evaluate.

    Args:
        source: `task.from`: the run, or a checkpoint of it.
        weights: `task.weights`: `best`, `last` or a checkpoint; None: the checkpoint of `source`, or its last one.
        output: where run folders are made.

    Raises:
        ConfigError: there is no such checkpoint.
    """
    found = find_checkpoint(source, output, "task.from")
    run = RunFolder.of(found)
    if weights is None:
        return found
    if weights == "best":
        if not run.best.exists():
            hint = "trainer.checkpoint.monitor chooses it as a run trains; task.weights=last"
            raise ConfigError([Problem("task.weights", f"{run.path} has no best checkpoint", weights, hint)])
        return run.best
    if weights != "last" and not Path(weights).exists():
        message = "expected best, last or a checkpoint that exists"
        raise ConfigError([Problem("task.weights", message, weights, did_you_mean(weights, ("best", "last")))])
    return find_checkpoint(str(run.path) if weights == "last" else weights, output, "task.weights")
