"""The batch-size search (`find=batch_size`): the largest batch whose steps fit into memory, and the speed of each."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from lrflow import assemble
from lrflow.config import Config
from lrflow.config.failures import is_out_of_memory
from lrflow.config.schemas.average import averaging_of
from lrflow.config.schemas.find import BatchSizeFind
from lrflow.config.targets import takes
from lrflow.errors import ConfigError, Problem
from lrflow.layers import Group
from lrflow.memory import (
    available_memory,
    clear_locals,
    freed_after,
    peak_memory,
    release_memory,
    reset_peak_memory,
    resident_memory,
)
from lrflow.plan import Plan
from lrflow.plan.averaging import Averaging
from lrflow.schedules import Constant, Horizon, Schedule
from lrflow.training.loaders import samples_per_batch, set_up_data
from lrflow.training.look_ahead import combine
from lrflow.training.trainer import SHORT_RUN_DONE, build_trainer, check_launched
from lrflow.training.trainer_options import lightning_options
from lrflow.tuning.short_runs import short_fit

log = logging.getLogger("lrflow")

FINEST = 32  # the bisection ends at this share of the largest power of two that fits
ENOUGH = 4.0  # seconds after which no further steps of a batch size are waited for, nor timed
SATURATED = 0.95  # share of the highest throughput from which on a batch size counts as equally fast


@dataclass(frozen=True)
class Try:
    """The training steps of one batch size.

    Args:
        batch_size: examples per batch and device.
        throughput: examples per second; None: the steps do not fit into memory.
        step_seconds: median time of an optimizer step.
        memory: most bytes held during the steps; None: unknown.
        reason: why the steps do not fit; empty: they do.
    """

    batch_size: int
    throughput: float | None = None
    step_seconds: float | None = None
    memory: int | None = None
    reason: str = ""

    @property
    def fits(self) -> bool:
        """Whether the steps fit into memory."""
        return self.throughput is not None


def search_sizes(fits: Callable[[int], bool], start: int, most: int) -> int:
    """Return the largest batch size that fits, to a part in `FINEST`; 0 if not even 1 does.

    The size doubles while it fits, or halves until it does; then the gap to the smallest that does not fit is bisected.

    Args:
        fits: whether a size fits; sizes above one that does not are not tried.
        start: first size.
        most: largest size.
    """
    size, failed = min(start, most), 0
    while not fits(size):
        failed, size = size, size // 2
        if not size:
            return 0
    while not failed and size < most:
        larger = min(2 * size, most)
        if fits(larger):
            size = larger
        else:
            failed = larger
    unit = max(1, size // FINEST)
    while failed - size > unit:
        middle = size + max(1, (failed - size) // 2 // unit) * unit
        if fits(middle):
            size = middle
        else:
            failed = middle
    return size


def saturated_size(tries: Sequence[Try]) -> int:
    """Return the smallest batch size with a throughput of at least `SATURATED` of the highest one."""
    throughputs = {one.batch_size: one.throughput for one in tries if one.throughput is not None}
    highest = max(throughputs.values())
    return min(size for size, throughput in throughputs.items() if throughput >= SATURATED * highest)


def measure_sizes(
    config: Config, find: BatchSizeFind, folder: Path, report: Callable[[Try], None] = lambda _: None
) -> tuple[list[Try], int]:
    """Train a few steps at each batch size that the search tries, and at the configured one.

    Each size gets a model, an optimizer and its state of its own, and their memory is freed before the next one.

    Args:
        config: of the run.
        find: the settings of the search.
        folder: of the run; nothing is written there.
        report: is called with each try.

    Returns:
        The tries, by size, and the number of training examples or `find.max`, if that is less.

    Raises:
        ConfigError: the batch size of the data cannot be changed, the number of examples is unknown, or the run uses
            several devices.
    """
    trial = _Trial(config, find.steps, folder)
    most = trial.largest(find)
    tries: dict[int, Try] = {}

    def fits(size: int) -> bool:
        if size not in tries:
            tries[size] = trial.run(size)
            report(tries[size])
        return tries[size].fits

    largest = search_sizes(fits, find.min, most)
    if config.data.batch_size is not None and config.data.batch_size <= largest:
        fits(config.data.batch_size)
    return [tries[size] for size in sorted(tries)], most


class _Trial:
    """Trains the model of a run for a few steps at one batch size after another.

    Args:
        config: of the run.
        steps: optimizer steps per size.
        folder: of the run.
    """

    def __init__(self, config: Config, steps: int, folder: Path) -> None:
        self._config = config
        self._steps = steps
        self._folder = folder
        trainer = build_trainer(lightning_options(config), folder, [], config.trainer.log_every)
        check_launched(trainer)
        if trainer.world_size > 1:
            message = "one process that runs out of memory would leave the others waiting"
            hint = "find the batch size on one of the devices: trainer.devices=1 trainer.strategy=auto"
            raise ConfigError([Problem("trainer.devices", message, config.trainer.devices, hint)])
        self._device = trainer.strategy.root_device
        self._data: pl.LightningDataModule | None = None
        self._examples: int | None = None
        self._forecast = _Forecast()

    def largest(self, find: BatchSizeFind) -> int:
        """Return the largest size to try: the number of training examples, or `find.max` if that is less.

        Raises:
            ConfigError: the loaders do not have the batch size that they are given, or the number is unknown.
        """
        data = self._config.data
        name = data.target.rpartition(".")[2]
        if data.batch_size is None and not takes(data.target, "batch_size"):
            message = f"it changes data.batch_size, and {name} has no argument batch_size"
            raise ConfigError([Problem("find", message, "batch_size", "add one, with which the loaders are made")])
        size = data.batch_size or find.min
        loaded = set_up_data(assemble.build_data(_with_size(self._config, size)), None, self._config.seed)
        loaders = combine(loaded.train_dataloader()).flattened
        made = {samples_per_batch(loader) for loader in loaders if isinstance(loader, DataLoader)} - {None}
        if made and size not in made:
            batches = " and ".join(f"{one:g}" for one in made if one is not None)
            message = f"it changes data.batch_size, but with {size} the batches of {name} have {batches} examples"
            raise ConfigError([Problem("find", message, "batch_size", "make the training loader with its batch_size")])
        self._examples = _count_examples(loaders)
        if self._examples is None and find.max is None:
            message = "expected a number: the training data has no length, which limits the batch size otherwise"
            raise ConfigError([Problem("find.max", message, None, "find.max=1024")])
        if type(loaded).__module__.startswith("lrflow.data."):  # their loaders are made with the attribute
            self._data = loaded
        return min(one for one in (self._examples, find.max) if one is not None)

    def run(self, size: int) -> Try:
        """Train some steps at a batch size, and free their memory."""
        if self._device.type == "cpu" and (reason := self._forecast.exceeded(size)):
            return Try(size, reason=reason)
        with freed_after():
            found = self._attempt(size)
            if self._data is not None:
                self._data.trainer = None  # which has the model and the optimizer
        self._free()
        if found.memory is not None:
            self._forecast.add(size, found.memory)
        return found

    def _attempt(self, size: int) -> Try:
        config = _with_size(self._config, size)
        meter = _Meter(size, self._steps // 3, self._device, self._examples)
        self._free()
        try:
            short_fit(
                config,
                config.seed,
                self._steps,
                self._folder,
                lambda groups: _constant_plan(groups, self._steps),
                lambda *_: [meter],
                averaging=_from_first_step(averaging_of(config.average, Horizon(self._steps))),
                loaded=self._loaded(size),
            )
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            clear_locals(error)
            return Try(size, reason="out of memory")
        return Try(size, *meter.result(), self._peak())

    def _loaded(self, size: int) -> pl.LightningDataModule | None:
        """Return the data that all sizes share, with this batch size; None: each size loads its own."""
        if self._data is not None:
            self._data.batch_size = size  # type: ignore[attr-defined]
            self._data.drop_last = True  # type: ignore[attr-defined]
        return self._data

    def _free(self) -> None:
        """Return cached memory to the device, and start to measure the peak of the next size."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._device.type == "mps":
            torch.mps.empty_cache()
        else:
            release_memory()
        reset_peak_memory()

    def _peak(self) -> int | None:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return peak_memory() if self._device.type == "cpu" else None


class _Forecast:
    """The memory that a batch size will need on the CPU, from the growth between the two largest sizes that fitted.

    Linux grants more memory than there is, and kills the process that uses it: such a size must not be tried.
    """

    def __init__(self) -> None:
        self._peaks: dict[int, int] = {}

    def add(self, size: int, peak: int) -> None:
        """Add the most bytes that the process held at a size."""
        self._peaks[size] = peak

    def exceeded(self, size: int) -> str:
        """Return why a size would need more memory than there is; empty: it would not, or that is unknown."""
        available, held = available_memory(), resident_memory()
        if available is None or held is None or len(self._peaks) < 2:
            return ""
        (less, low), (more, high) = sorted(self._peaks.items())[-2:]
        needed = high + max(0, high - low) / (more - less) * (size - more) - held
        if needed <= available:
            return ""
        return f"needs {needed / 2**30:.3g} of {available / 2**30:.3g} GiB"


class _Meter(pl.Callback):
    """Measures the time of optimizer steps, from the end of one to the end of the next, with the loading of data.

    Args:
        size: examples per batch.
        warmup: number of first steps that are not timed.
        device: of the run, which is waited for.
        examples: number of training examples, for the last batch of an epoch; None: every batch is full.
    """

    def __init__(self, size: int, warmup: int, device: torch.device, examples: int | None) -> None:
        self._size, self._warmup, self._device, self._examples = size, warmup, device, examples
        self._step = self._seen = 0
        self._begun = self._since = 0.0
        self._steps: list[tuple[int, float]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the examples of a batch; after an optimizer step, record its time, and end if that is enough."""
        last = self._examples is not None and batch_idx + 1 == trainer.num_training_batches
        self._seen += (
            min(self._size, self._examples - batch_idx * self._size) if last and self._examples else self._size
        )
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()
        now = time.perf_counter()
        if self._step == 1:
            self._begun = now
        elif self._step > self._warmup or now - self._begun > ENOUGH:
            self._steps.append((self._seen, now - self._since))
        self._since, self._seen = now, 0
        if len(self._steps) > 1 and sum(taken for _, taken in self._steps) > ENOUGH:
            trainer.stop(SHORT_RUN_DONE)  # type: ignore[attr-defined]

    def result(self) -> tuple[float, float]:
        """Return the median number of examples per second, and the median seconds per optimizer step."""
        seconds = statistics.median(taken for _, taken in self._steps)
        return statistics.median(count / taken for count, taken in self._steps), seconds


def _with_size(config: Config, size: int) -> Config:
    """Return the config of the steps at a batch size; not validated, since no other setting of the run matters.

    Accumulation is of two batches at most: the second one has the gradients of the first beside it in memory.
    """
    data: dict[str, Any] = {"batch_size": size, "effective_batch_size": None}
    if takes(config.data.target, "drop_last"):
        data["drop_last"] = True
    accumulated = min(2, config.trainer.accumulate_grad_batches)
    trainer = {
        "accumulate_grad_batches": accumulated,
        "batch_norm_batches": 0,
        "limit_train_batches": None,
        "overfit_batches": None,
    }
    return config.model_copy(
        update={"data": config.data.model_copy(update=data), "trainer": config.trainer.model_copy(update=trainer)}
    )


def _constant_plan(groups: Sequence[Group], steps: int) -> Plan:
    """Return a plan at a small constant LR, at which no weights grow to infinity; all groups train from the start."""
    scaled = [replace(group, lr=group.lr * 1e-3, schedule=None, unfreeze=None, freeze_after=None) for group in groups]
    return Plan.compile(scaled, Schedule(Constant()), Horizon(steps))


def _from_first_step(averaging: Averaging | None) -> Averaging | None:
    """Return an average that begins with the first step, since it takes memory once it has begun."""
    return None if averaging is None else replace(averaging, first=1, every=1)


def _count_examples(loaders: Sequence[Any]) -> int | None:
    """Return the number of training examples, of the shortest of several loaders; None if one has no length."""
    counts = []
    for loader in loaders:
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            return None
        try:
            counts.append(len(loader.dataset))  # type: ignore[arg-type]
        except TypeError:
            return None
    return min(counts, default=None)
