"""task=evaluate: evaluate a checkpoint on the test or validation set; `run_test` tests a run after its training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden
from rich.table import Table

from lrflow import assemble
from lrflow.config import Config, locate
from lrflow.config.schemas.task import Evaluate
from lrflow.display import QuietConsole
from lrflow.errors import ConfigError, LrflowError, Problem, did_you_mean
from lrflow.files import is_file, is_folder, user_lock, write_json
from lrflow.runs import RunFolder, find_checkpoint, read_json
from lrflow.tasks.run_record import own_environment
from lrflow.training.loaders import order_loaders
from lrflow.training.preprocessing import restore_preprocessing
from lrflow.training.resume import Resumed
from lrflow.training.scalars import restore_scalars
from lrflow.training.trainer import build_trainer, check_launched
from lrflow.training.trainer_options import lightning_options

log = logging.getLogger("lrflow")

EVALUATIONS = "evaluations.json"
"""The file in a run folder that lists its evaluations: the data, the weights and their step, the metrics."""


def run(config: Config) -> dict[str, Any]:
    """Evaluate a checkpoint with the model and data of the configuration.

    The command line takes both from the config of the run and applies its overrides to it.

    Returns:
        The metrics by name, and the run folder under `folder`.

    Raises:
        LrflowError: the checkpoint is broken or belongs to another model.
    """
    task = config.task
    assert isinstance(task, Evaluate)
    source = find_checkpoint(task.source, Path(config.output), "task.from")
    checkpoint = find_weights(task.source, task.weights, Path(config.output))
    saved = Resumed.read(checkpoint, locate)
    folder = RunFolder.of(source)
    pl.seed_everything(config.seed, verbose=False)
    with own_environment(folder):
        trainer = build_trainer(lightning_options(config), folder.path, [], config.trainer.log_every)
        check_launched(trainer)
        data = assemble.build_data(config)
        restore_preprocessing(data, saved.preprocessing)
        order_loaders(data, config.seed, rank=trainer.global_rank, world=trainer.world_size)
        stage, evaluate = ("test", trainer.test) if task.split == "test" else ("validate", trainer.validate)
        with user_lock("data"):
            data.prepare_data()
        data.setup(stage)  # before the module is built, since that may read the data
        module = assemble.build_module(config, start=False, trainer=trainer, data=data, stage=stage)
        saved.check(module)
        restore_scalars(config, module, saved)
        found = evaluate(module, datamodule=data, ckpt_path=str(checkpoint), verbose=False)
    if not found:
        raise LrflowError(f"task.split = {task.split!r}: expected data of this split and a module with a step for it")
    metrics = {name: float(value) for values in found for name, value in values.items()}
    table = Table("metric", "value", box=None, pad_edge=False, header_style="bold")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.6g}")
    if trainer.is_global_zero:
        named = task.weights if task.weights in ("best", "last") else checkpoint.stem
        used = Weights(named, str(checkpoint), saved.step)
        record_evaluation(
            folder,
            {"split": task.split, **used.record(), "checkpoint": folder.relative(checkpoint), "metrics": metrics},
        )
        console = QuietConsole()
        console.print(f"{task.split} set, {used}\n", soft_wrap=True, highlight=False)
        console.print(table)
    return {**metrics, "folder": str(folder.path)}


def record_evaluation(folder: RunFolder, evaluation: dict[str, Any]) -> None:
    """Add an evaluation to the run folder's evaluations.json; replace an earlier one of the same weights and data."""
    path = folder.path / EVALUATIONS
    earlier = read_json(path, list)
    same = ("split", "checkpoint", "step")
    found = [one for one in earlier if isinstance(one, dict)]
    kept = [one for one in found if any(one.get(key) != evaluation[key] for key in same)]
    try:
        write_json(path, [*kept, evaluation])
    except OSError as error:  # a run in a folder without write permission can be evaluated too
        log.warning("%s: could not be written: %s", path, error.strerror)


@dataclass(frozen=True)
class Weights:
    """The weights that a run was tested with.

    Args:
        weights: `best`, `last`, or the name of a checkpoint.
        checkpoint: the file of the weights; None: they were in memory.
        step: the optimizer step that they are of.
    """

    weights: str
    checkpoint: str | None
    step: int

    def __str__(self) -> str:
        where = f" ({self.checkpoint})" if self.checkpoint else ""
        return f"the {self.weights} weights, of step {self.step}{where}"

    def record(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


def run_test(
    config: Config,
    wanted: bool | str,
    folder: RunFolder,
    trainer: pl.Trainer,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    report: Callable[[str], None],
) -> Weights | None:
    """Test a run after its training; the metrics are in the trainer's `callback_metrics` afterwards.

    Args:
        config: of the run.
        wanted: `task.test`.
        folder: the folder of the run.
        trainer: the trainer of the run.
        module: the trained module; afterwards it holds the weights that were tested.
        data: the data of the run.
        report: prints which weights are tested.

    Returns:
        The weights that were tested; None: no test was requested, or the module or the data have none.
    """
    if not (wanted and is_overridden("test_step", module) and is_overridden("test_dataloader", data)):
        return None
    used, best = Weights("last", None, trainer.global_step), folder.best
    path = None
    # The first process decides: the others may not see the file yet.
    if wanted == "best" and trainer.strategy.broadcast(best.exists()):
        path = str(best)
        saved = Resumed.read(best, locate)
        used = Weights("best", folder.relative(best), saved.step)
        restore_scalars(config, module, saved)
    elif wanted == "best":
        report("no best weights were saved: the last ones are tested")
    trainer.test(module, datamodule=data, ckpt_path=path, verbose=False)
    report(f"tested {used}")
    return used


def find_weights(source: str, weights: str | None, output: Path) -> Path:
    """Return the checkpoint that `task=evaluate` evaluates.

    Args:
        source: `task.from`: the run, or a checkpoint of it.
        weights: `task.weights`: `best`, `last` or a checkpoint; None: the checkpoint `source`, or the run's last one.
        output: the folder that holds the run folders.

    Raises:
        ConfigError: there is no such checkpoint.
    """
    found = find_checkpoint(source, output, "task.from")
    run = RunFolder.of(found)
    if weights is None:
        return found
    if weights == "best":
        if not run.best.exists():
            hint = "a run saves it where trainer.checkpoint.monitor is set; task.weights=last"
            raise ConfigError([Problem("task.weights", f"{run.path} has no best checkpoint", weights, hint)])
        return run.best
    if weights != "last" and not (is_file(Path(weights)) or is_folder(Path(weights))):
        message = "expected best, last or a checkpoint that exists"
        raise ConfigError([Problem("task.weights", message, weights, did_you_mean(weights, ("best", "last")))])
    return find_checkpoint(str(run.path) if weights == "last" else weights, output, "task.weights")
