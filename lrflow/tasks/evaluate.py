"""task=evaluate: the metrics of a trained run on its test or validation set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.table import Table

from lrflow.config import Config, locate
from lrflow.config.settings import Evaluate
from lrflow.console import QuietConsole
from lrflow.errors import LrflowError
from lrflow.runs import RunFolder, find_checkpoint
from lrflow.tasks import build
from lrflow.tasks.record import own_environment
from lrflow.tasks.train import lightning_options
from lrflow.training.loaders import put_in_order
from lrflow.training.resume import Resumed
from lrflow.training.trainer import build_trainer


def run(config: Config) -> dict[str, Any]:
    """Evaluate a checkpoint with the model and data of the configuration.

    The command line takes both from the run itself, with what is typed on top.

    Returns:
        The metrics by name, and the run folder under `folder`.

    Raises:
        LrflowError: the checkpoint is broken or belongs to another model.
    """
    task = config.task
    assert isinstance(task, Evaluate)
    checkpoint = find_checkpoint(task.source, Path(config.output), "task.from")
    saved = Resumed.read(checkpoint, locate)
    folder = RunFolder(checkpoint.parent.parent)
    pl.seed_everything(config.seed, verbose=False)
    with own_environment(folder):
        trainer = build_trainer(lightning_options(config), folder.path, [], config.trainer.log_every)
        data = build.build_data(config)
        put_in_order(data, config.seed, rank=trainer.global_rank, world=trainer.world_size)
        stage, evaluate = ("test", trainer.test) if task.split == "test" else ("validate", trainer.validate)
        with build.one_at_a_time("data"):
            data.prepare_data()
        data.setup(stage)  # which the module may look at as it makes its parts
        module = build.build_module(config, start=False, trainer=trainer, data=data, stage=stage)
        saved.check(module)
        found = evaluate(module, datamodule=data, ckpt_path=str(checkpoint), verbose=False)
    if not found:
        raise LrflowError(f"task.split = {task.split!r}: there is no such data, or the module has no step for it")
    metrics = {name: float(value) for values in found for name, value in values.items()}
    table = Table("metric", "value", box=None, pad_edge=False, header_style="bold")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.6g}")
    if trainer.is_global_zero:
        console = QuietConsole()
        console.print(f"{task.split} set, {checkpoint}\n", soft_wrap=True, highlight=False)
        console.print(table)
    return {**metrics, "folder": str(folder.path)}
