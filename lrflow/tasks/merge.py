"""task=merge: merge checkpoints of a constant LR into the weights that a decay would have given, and validate them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.table import Table

from lrflow.config import Config, locate
from lrflow.config.composition.options import Catalogue
from lrflow.config.origins import read_yaml
from lrflow.config.schemas.task import Merge
from lrflow.config.targets import optimizer_traits
from lrflow.display import QuietConsole
from lrflow.errors import ConfigError, LrflowError, Problem, did_you_mean
from lrflow.files import remove_parts
from lrflow.plan import Plan
from lrflow.plan.merging import chosen, decay, shares, shares_of_averages
from lrflow.runs import RunFolder, checkpoints_in, find_checkpoint, step_of
from lrflow.schedules import Constant, Curve, Horizon, Schedule
from lrflow.schedules.ramps import COOLDOWNS
from lrflow.schedules.serialization import from_spec
from lrflow.tasks.evaluate import Weights, record_evaluation
from lrflow.tasks.run_record import own_environment
from lrflow.training.checkpoint_file import damage_of, read_checkpoint, step_in
from lrflow.training.evaluation_weights import estimate_statistics
from lrflow.training.merging import Merged, check_constant, merged_weights, write_merged
from lrflow.training.resume import Resumed
from lrflow.training.trainer import SHORT_RUN_DONE, Trainer
from lrflow.tuning.short_runs import short_fit
from lrflow.wording import counted


def run(config: Config) -> dict[str, Any]:
    """Merge the checkpoints of a run, validate the merged weights, and write them as a checkpoint of the run.

    The command line takes the model and the data from the config of the run and applies its overrides to it.

    Returns:
        The validation metrics by name, `folder`, and the `checkpoint`.

    Raises:
        ConfigError: the run does not have the checkpoints that the decay needs, or its LR is not constant there.
    """
    task = config.task
    assert isinstance(task, Merge)
    last = find_checkpoint(task.source, Path(config.output), "task.from")
    folder = RunFolder.of(last)
    merged, paths, saved = plan_merge(task, last, config)
    placed = _Placed(saved, paths, merged, config.trainer.batch_norm_batches, config.seed)
    with own_environment(folder):
        trainer, module, data = short_fit(
            config,
            config.seed,
            1,
            folder.path,
            lambda groups: Plan.compile(groups, Schedule(Constant()), Horizon(1)),
            lambda *_: [placed],
        )
        path = folder.checkpoints / merged.name
        if trainer.is_global_zero:
            remove_parts(path)
            try:
                write_merged(path, paths[-1], module.state_dict(), merged)
            except OSError as error:
                raise LrflowError(f"{path}: could not be written: {error.strerror}") from error
        found = trainer.validate(module, datamodule=data, verbose=False)
    metrics = {name: float(value) for values in found for name, value in values.items()}
    if trainer.is_global_zero:
        console = QuietConsole()
        used = Weights(path.stem, str(path), saved.step)
        if metrics:
            record_evaluation(
                folder,
                {"split": "val", **used.record(), "checkpoint": folder.relative(path), "metrics": metrics},
            )
        console.print(_table(merged))
        console.print(f"\nmerged {merged}, to {path}", soft_wrap=True, highlight=False)
        scores = "  ".join(f"{name} {value:.6g}" for name, value in metrics.items())
        console.print(scores or "not validated: the run has no validation", soft_wrap=True, highlight=False)
    return {**metrics, "folder": str(folder.path), "checkpoint": str(path)}


def plan_merge(task: Merge, last: Path, config: Config) -> tuple[Merged, list[Path], Resumed]:
    """Return how a decay is merged, from which checkpoints, and what the last of them says about the run.

    Args:
        task: the decay.
        last: the checkpoint at its end.
        config: of the run.

    Raises:
        ConfigError: the decay cannot be merged from the checkpoints of the run.
    """
    saved = Resumed.read(last, locate)
    if task.shape == "average" or task.width is not None:
        merged, paths_ = _of_averages(task, last)
        return merged, paths_, saved
    if saved.feedback:
        message = "merging needs a constant LR, but feedback changed that of the run"
        raise ConfigError([Problem("task.from", message, str(RunFolder.of(last).path), "train with feedback=none")])
    for optimizer in (config.optimizer, *config.optimizer.routes.values()):
        if optimizer_traits(optimizer.target).modes:
            name = optimizer.target.rpartition(".")[2]
            message = f"{name} averages the weights itself, so nothing is left to merge"
            raise ConfigError([Problem("task.from", message, str(RunFolder.of(last).path))])
    horizon, end = saved.plan.horizon, saved.step
    try:
        over = task.over.steps_at_end(replace(horizon, steps=end) if horizon.batch else horizon)
    except ValueError as error:
        raise ConfigError([Problem("task.over", str(error), str(task.over))]) from None
    if not 0 < over <= end:
        message = f"is {counted(over, 'step')}, but the checkpoint is of step {end:,}"
        raise ConfigError([Problem("task.over", message, str(task.over), "a shorter decay")])
    start, stretch = end - over, Horizon(over, horizon.steps_per_epoch, horizon.samples_per_step)
    multipliers = decay(task.shape, task.floor, stretch, curve_named(task.shape, task.floor))
    paths = {step_of(path): path for path in checkpoints_in(last.parent) if damage_of(path) is None} | {end: last}
    points = chosen(sorted(step for step in paths if step <= end), start, end, str(last.parent))
    check_constant(saved.plan, points[0], end, points, last.parent)
    merged = Merged(task.shape, tuple(points), tuple(shares(points, start, multipliers)), over, task.floor)
    return merged, [paths[step] for step in points], saved


def _of_averages(task: Merge, last: Path) -> tuple[Merged, list[Path]]:
    """Return how averages that a run kept are merged: the evaluated one alone, or all to one of another width.

    Raises:
        ConfigError: the run kept none, or none of a power function.
    """
    run, end = str(RunFolder.of(last).path), step_in(last) or 0
    kind, *widths = _kept_average(last).get("continues", [None])
    if kind is None or (task.width is not None and kind != "power"):
        wanted = "average=power" if task.width is not None else "average=ema, swa, tail or power"
        key, value = ("task.width", task.width) if task.width is not None else ("task.as", task.shape)
        raise ConfigError(
            [Problem(key, f"the checkpoint {last.name} keeps no such average", value, f"a run with {wanted}")]
        )
    if task.width is None:
        return Merged("average", (end,), (1.0,), averages=(0,)), [last]
    before = [path for path in checkpoints_in(last.parent) if step_of(path) < end and damage_of(path) is None]
    kept = [(path, step_of(path)) for path in before if _kept_average(path).get("continues") == [kind, *widths]]
    each = [(path, step, index) for path, step in [*kept, (last, end)] for index in range(len(widths))]
    if len(each) < 2:
        hint = "trainer.checkpoint.keep=null keeps all checkpoints, average.also=[0.05] further averages"
        raise ConfigError([Problem("task.width", f"{run} keeps a single average", task.width, hint)])
    found = shares_of_averages([(step, widths[index]) for _, step, index in each], task.width)
    steps, indices = tuple(step for _, step, _ in each), tuple(index for _, _, index in each)
    return Merged("average", steps, tuple(found), width=task.width, averages=indices), [path for path, *_ in each]


def _kept_average(path: Path) -> dict[str, Any]:
    """Return the state of the averages in a checkpoint; empty if there are none yet."""
    found: dict[str, Any] = read_checkpoint(path, map_location="cpu", mmap=True)["lrflow"].get("average", {})
    return found if found.get("entered") else {}


def curve_named(name: str, floor: float) -> Curve | None:
    """Return the schedule of an option of `schedule`, without its warmup; None for the name of a cooldown.

    Raises:
        ConfigError: there is no such shape.
    """
    if name in COOLDOWNS:
        return None
    options = Catalogue().options("schedule")
    if name not in options:
        known = list(dict.fromkeys([*COOLDOWNS, *options]))
        hint = did_you_mean(name, known) or f"one of {', '.join(known)}"
        raise ConfigError([Problem("task.as", "there is no such shape of a decay", name, hint)])
    spec = read_yaml(options[name].path)
    kept = {key: value for key, value in spec.items() if key in ("_target_", "shape", "cooldown", "cooldown_shape")}
    try:
        return from_spec({**kept, "floor": floor}, "task.as")
    except ConfigError as error:
        message = f"is no decay by itself: {error.problems[0].message}"
        raise ConfigError([Problem("task.as", message, name, f"such as {', '.join(COOLDOWNS)}")]) from None


def _table(merged: Merged) -> Table:
    table = Table("checkpoint", "share", box=None, pad_edge=False, header_style="bold")
    rows = list(zip(merged.steps, merged.shares, strict=True))
    for step, share in rows if len(rows) <= 12 else [*rows[:6], (None, None), *rows[-5:]]:
        table.add_row("..." if step is None else f"step {step:,}", "" if share is None else f"{share:.4f}")
    return table


class _Placed(pl.Callback):
    """Puts merged weights into the module, estimates BatchNorm statistics there, and ends the run before a step.

    Args:
        saved: the last of the checkpoints, which has to fit the module.
        paths: the checkpoints.
        merged: share of each.
        batches: training batches for the statistics.
        seed: of their order.
    """

    def __init__(self, saved: Resumed, paths: Sequence[Path], merged: Merged, batches: int, seed: int) -> None:
        self._saved, self._paths, self._merged = saved, paths, merged
        self._batches, self._seed = batches, seed

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Place the weights, and stop."""
        self._saved.check(pl_module)
        names = [name for name, _ in pl_module.named_parameters()]
        pl_module.load_state_dict(merged_weights(self._paths, self._merged, names))
        estimate_statistics(trainer, pl_module, self._batches, self._seed)
        assert isinstance(trainer, Trainer)
        trainer.stop(SHORT_RUN_DONE)
