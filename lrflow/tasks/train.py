"""task=train: train the model under the plan, then test it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from rich.console import Console

from lrflow.config import Config, locate, save_config
from lrflow.config.schema import Train
from lrflow.health import NonFinite
from lrflow.layers import merge
from lrflow.plan import Plan
from lrflow.runs import RunFolder, find_checkpoint
from lrflow.schedules import Duration
from lrflow.tasks import build
from lrflow.training import Block, Checkpoints, Signals
from lrflow.training.interrupt import StopRequest
from lrflow.training.loaders import put_in_order
from lrflow.training.loggers import build_loggers
from lrflow.training.position import Position
from lrflow.training.progress import ProgressBar
from lrflow.training.ranks import rank
from lrflow.training.resume import Resumed
from lrflow.training.supply import supply_optimizer
from lrflow.training.trainer import build_trainer, validate_every


def run(config: Config) -> dict[str, Any]:
    """Train as the configuration says.

    Returns:
        The last metrics by name, and the run folder under `folder`.

    Raises:
        LrflowError: the run cannot start, diverged, was asked to stop, or could not be saved.
    """
    resumed = None
    if config.resume.source:
        resumed = Resumed.read(find_checkpoint(config.resume.source, Path(config.output), "resume.from"), locate)
    folder = open_folder(config, resumed)
    console = Console(quiet=rank() > 0)
    with own_environment(folder):
        try:
            metrics = _train(config, folder, resumed, console)
        except BaseException as error:
            _conclude(folder, "stopped" if isinstance(error, KeyboardInterrupt) else "failed", error=error)
            raise
    return {**metrics, "folder": str(folder.path)}


def _train(config: Config, folder: RunFolder, resumed: Resumed | None, console: Console) -> dict[str, float]:
    started = time.monotonic()
    assert isinstance(config.task, Train)
    pl.seed_everything(config.seed, verbose=False)
    loggers = build_loggers(config.logger.plain(), folder.path, config.title, build.record(config))
    trainer = build_trainer(lightning_options(config), folder.path, loggers, config.trainer.log_every)

    # What is trained, on what, for how long and at which LR: all of it is known before the first step.
    data = build.build_data(config)
    put_in_order(data, trainer, config.seed, resumed.position if resumed else Position())
    data.trainer = trainer
    with build.one_at_a_time("data"):
        data.prepare_data()
    data.setup("fit")
    horizon = build.count_horizon(config, data, trainer.world_size)
    module = build.build_module(config)
    groups = build.build_groups(config, module)
    schedule = build.build_schedule(config)
    layout = [[name for group in members for name, _ in group.parameters] for members in merge(groups)]
    branches = []
    if resumed:
        resumed.check(module)
        branch = resumed.branch(horizon, config.resume.horizon, groups, schedule)
        plan = resumed.compile(groups, schedule, horizon, branch)
        branches = [*resumed.branches, *([branch] if branch else [])]
        console.print(resumed.describe(plan, build.record(config)))
    else:
        plan = Plan.compile(groups, schedule, horizon)
    build.check_plan(plan)
    console.print(plan.table())
    if trainer.is_global_zero:
        save_config(config, folder.config)
        folder.write_environment()
        plan.write(folder.path)

    nonfinite = NonFinite(config.health.nonfinite, skipped_steps=config.trainer.precision in ("16-mixed", "16", 16))
    bar = config.trainer.progress if isinstance(config.trainer.progress, bool) else console.is_terminal
    progress = ProgressBar(horizon.steps, console, bar)

    def watch(trainer: pl.Trainer, block: Block) -> None:
        nonfinite.watch(block.first, block.loss, block.grad_norm, block.actual)

    signals = Signals(plan, config.trainer.log_every, listeners=[progress, watch])
    saving = config.trainer.checkpoint
    checkpoints = Checkpoints(
        folder.checkpoints,
        horizon,
        Duration.parse(saving.every),
        keep=saving.keep,
        monitor=saving.monitor,
        mode=saving.mode,
        stop=StopRequest(),
        agree_every=config.trainer.log_every,
        groups=layout,
        extra={
            "plan": plan.to_dict(),
            "branches": [branch.as_dict() for branch in branches],
            "config": build.record(config),
            "devices": trainer.world_size,
        },
        vet=signals.flush,  # a step that is not finite raises there, so it is never saved
    )
    trainer.callbacks += [progress, signals, checkpoints]  # type: ignore[attr-defined]
    validate_every(trainer, Duration.parse(config.trainer.val_every), horizon)
    settings = config.optimizer.node()
    supply_optimizer(
        module, plan, lambda device: build.make_optimizer(config, groups, device), settings, config.trainer.compile
    )

    trainer.fit(module, datamodule=data, ckpt_path=resumed.path if resumed else None)
    metrics = _values(trainer.callback_metrics)
    if config.task.test and is_overridden("test_step", module) and is_overridden("test_dataloader", data):
        trainer.test(module, datamodule=data, verbose=False)
        metrics |= _values(trainer.callback_metrics)
    seconds = time.monotonic() - started
    _conclude(folder, "finished", metrics, steps=trainer.global_step, seconds=round(seconds, 2))
    _say_goodbye(console, folder, metrics, trainer.global_step, seconds)
    return metrics


def open_folder(config: Config, resumed: Resumed | None) -> RunFolder:
    """The folder of the run: a new one, the sweep's, or the one of the run that goes on.

    A run goes on where it was only from its newest checkpoint; from an older one it branches into a new folder,
    so that nothing of the first is overwritten.
    """
    if inherited := os.environ.get("LRFLOW_RUN_FOLDER"):
        return RunFolder(Path(inherited))
    if rank() > 0:
        return RunFolder(Path(config.output))  # another node's rank: it writes nothing
    if resumed and resumed.is_newest:
        return RunFolder(resumed.path.parent.parent)
    if config.run_folder:
        return RunFolder.claim(config.run_folder)
    return RunFolder.create(Path(config.output), config.title)


@contextmanager
def own_environment(folder: RunFolder) -> Iterator[None]:
    """Tell the processes that Lightning starts which run they belong to, and leave no trace for the next run.

    Lightning takes the variables that it sets itself for a launcher's when it meets them again (2.6.6), so the
    second job of a sweep would wait for ever for processes that nobody starts.
    """
    before = dict(os.environ)
    if rank() == 0:
        os.environ["LRFLOW_RUN_FOLDER"] = str(folder.path.resolve())
    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        os.environ.clear()
        os.environ.update(before)


def lightning_options(config: Config) -> dict[str, Any]:
    """Lightning's own arguments among the trainer's."""
    trainer = config.trainer
    names = (
        "accelerator devices num_nodes strategy precision max_epochs max_steps accumulate_grad_batches "
        "gradient_clip_val gradient_clip_algorithm limit_train_batches limit_val_batches deterministic"
    )
    options = {name: getattr(trainer, name) for name in names.split()}
    if trainer.max_epochs is None and trainer.max_steps is not None:
        options["max_epochs"] = -1
    if trainer.gradient_clip_val is None:
        del options["gradient_clip_algorithm"]
    return options


def _values(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def _conclude(folder: RunFolder, status: str, metrics: Mapping[str, float] | None = None, **facts: Any) -> None:
    """Write how the run ended; only the first process does."""
    if rank() > 0 or not folder.path.is_dir():
        return
    error = facts.pop("error", None)
    if error is not None:
        facts["error"] = str(error) or type(error).__name__
    folder.write_summary({"status": status, **facts, "metrics": dict(metrics or {})})


def _say_goodbye(console: Console, folder: RunFolder, metrics: Mapping[str, float], steps: int, seconds: float) -> None:
    shown = "  ".join(f"[bold]{name}[/] {value:.4g}" for name, value in metrics.items())
    console.print(f"\n{steps} steps in {seconds:.1f} s  {shown}", soft_wrap=True)
    written = ["config.yaml", "plan.png", "metrics.csv", "summary.json"]
    last = sorted(folder.checkpoints.glob("*.ckpt"))
    written += [f"checkpoints/{path.name}" for path in last]
    names = ", ".join(name for name in written if (folder.path / name).exists())
    console.print(f"{folder.path}/: {names}", soft_wrap=True, highlight=False)
