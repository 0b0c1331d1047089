"""The loop that trains a population and records every member as if it had trained alone.

For a small model, Lightning's loop takes longer than the arithmetic of a step. This loop runs once for all members.
Every member has a Lightning trainer: the loop sets its counters, writes to its loggers and calls its callbacks, which
see its validations and save its checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lrflow import stops
from lrflow.clip.clip import EPS
from lrflow.errors import LrflowError
from lrflow.plan.table import setting_columns
from lrflow.schedules import Duration
from lrflow.training.block import Block
from lrflow.training.group_norms import NormMeter
from lrflow.training.interrupt import StopRequest
from lrflow.training.loaders import set_progress
from lrflow.training.metric_reading import ValidationTimes
from lrflow.training.module import Supervised
from lrflow.vectorized.member import Member, StackedBatches, stack
from lrflow.vectorized.population import Clip, Population


class PopulationFit:
    """Trains members together until all have ended.

    Args:
        members: the members, attached, with the same architecture, horizon, optimizer and data.
        val_every: the time between validations.
        log_every: the number of steps after which the signals are read.
        test: whether to evaluate the test set at the end.
        compiled: whether the step of the population is compiled.
        norms_every: the steps between measurements of each group's norms; None: none.
    """

    def __init__(
        self,
        members: Sequence[Member],
        val_every: Duration,
        log_every: int,
        test: bool = True,
        compiled: bool = False,
        norms_every: int | None = None,
    ) -> None:
        self._rows = list(members)
        first = members[0]
        self._horizon = first.plan.horizon
        self._device = first.trainer.strategy.root_device
        self._validations = ValidationTimes.of(val_every, self._horizon)
        self._limit = first.trainer.limit_val_batches
        self._test = test
        self._clip = clipping(first.trainer)
        self._population, self._coefficients = stack(members, self._device, compiled)
        self._meter: NormMeter | None = None
        if norms_every is not None:
            sizes, columns, names = self._population.sizes, self._population.columns, first.plan.names
            self._meter = NormMeter(norms_every, sizes, columns, len(names), log_every, self._device, len(members))
            spans = pairwise(np.cumsum([0, *sizes]).tolist())
            read = [torch.arange(*span, stride) for span, stride in zip(spans, self._meter.strides, strict=True)]
            self._sampled = torch.cat(read).to(self._device)
        self._batches = StackedBatches([one.data.train_dataloader() for one in members], self._device)
        self._loaders = {"val": first.data.val_dataloader()}
        self._stop = StopRequest()
        self._losses = torch.zeros(log_every, len(members), 3, device=self._device)
        self._seconds: list[float] = []
        self._pace = 0.0  # median seconds per step since the signals were last read
        self._step = 0

    def run(self) -> None:
        """Train; afterwards each member has its metrics or its error, and each module its trained weights."""
        with stops.deferred():
            self._clock = self._read_at = time.perf_counter()
            epoch = 0
            while self._step < self._horizon.steps and self._active() and not self._stopped():
                self._epoch(epoch)
                epoch += 1
                self._remove_ended()
        if self._stop.signal is not None:
            self._end(self._active(), self._stop.signal)
            return
        self._end(self._active())
        if self._test and self._active():
            data = self._rows[0].data
            data.setup("test")
            self._loaders["test"] = data.test_dataloader()
            self._evaluate("test", self._step, epoch)

    def _epoch(self, epoch: int) -> None:
        batches = self._horizon.steps_per_epoch
        for number, (inputs, targets) in enumerate(islice(self._batches.epoch(epoch), batches), start=1):
            self._losses[len(self._seconds)] = torch.stack(self._make_step(inputs, targets), dim=1)
            self._step += 1
            now = time.perf_counter()
            self._seconds.append(now - self._clock)
            self._clock = now
            validates = self._validates(number, epoch)
            done = self._step == self._horizon.steps or self._stopped()
            full = len(self._seconds) == len(self._losses) or now - self._read_at > 1.0
            if full or validates or done or number == batches:
                self._flush()
            if validates:
                self._validate(epoch)
            if done or not self._active():
                return

    def _make_step(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make a step, and measure the norms of each group if that is due; return what `Population.step` does."""
        population, meter, coefficients = self._population, self._meter, self._coefficients.at(self._step)
        if meter is None or not meter.is_due(self._step):
            return population.step(inputs, targets, coefficients, self._clip)

        def read(grad: Tensor, norms: Tensor) -> None:
            squares = [part.square().sum(dim=1) for part in grad.split(population.sizes, dim=1)]
            meter.add_gradients(torch.stack(squares, dim=1))

        meter.begin(self._step, population.weights[:, self._sampled])
        found = population.step(inputs, targets, coefficients, self._clip, read)
        meter.finish(len(self._seconds), population.weights[:, self._sampled])
        return found

    def _validates(self, batch: int, epoch: int) -> bool:
        """Whether a validation follows the step that was just made with this batch of the epoch."""
        batches = self._horizon.steps_per_epoch or self._horizon.steps
        ends = batch == batches and self._validations.after_epoch(epoch + 1)
        due = ends or self._validations.after_batch(batch, batches, self._step)
        return due or self._step == self._horizon.steps

    def _stopped(self) -> bool:
        """Whether the process was asked to stop."""
        return self._stop.agreed(self._rows[0].trainer)

    def _active(self) -> list[int]:
        """The rows of the members that have not ended."""
        return [row for row, member in enumerate(self._rows) if member.error is None]

    def _flush(self) -> None:
        """Read the losses and gradient norms from the device, and pass them to the signals of each member."""
        count = len(self._seconds)
        values = self._losses[:count].double().cpu().numpy()
        seconds, first = np.array(self._seconds), self._step - count
        self._pace = float(np.median(seconds))
        steps = np.arange(first, self._step)
        measured = self._meter.take() if self._meter else None
        for row in self._active():
            member = self._rows[row]
            rates, plan = member.plan.lr(steps), member.plan
            settings = {title: plan.setting(name, steps)[:, at] for name, at, title in setting_columns(plan)}
            loss, norm, factor = values[:, row].T
            moves = measured[row] if measured else None
            block = Block(first, loss, norm, seconds, rates, rates, settings=settings, norms=moves)
            if self._clip is not None:
                block = replace(block, clip=factor)
            member.steps = self._step
            with member.own_errors():
                member.signals.emit(member.trainer, block)
        self._seconds.clear()
        self._read_at = time.perf_counter()

    def _validate(self, epoch: int) -> None:
        steps_per_epoch = self._horizon.steps_per_epoch or self._horizon.steps
        if not self._evaluate("val", self._step - 1, epoch):
            return
        better = []
        # A pruner compares a member with those that reported before it, and the members may be sorted by their LR.
        for row in np.random.default_rng(self._step).permutation(self._active()):
            member = self._rows[row]
            set_progress(member.trainer, self._step, steps_per_epoch)
            with member.own_errors():
                if member.checkpoints.improves(member.trainer):
                    better.append(row)
                for callback in member.other_callbacks:
                    callback.on_validation_end(member.trainer, member.module)
        for row, state in zip(better, self._population.member_states(better), strict=True):
            self._rows[row].best = (self._step, state)
        self._clock = time.perf_counter()

    def _evaluate(self, stage: str, step: int, epoch: int) -> bool:
        """Evaluate every member on the validation or test data; return whether there are any data."""
        active = self._active()
        limit = self._limit if stage == "val" else None
        rows = [(row, self._rows[row].module) for row in active]
        scores = evaluate(self._population, rows, self._loaders[stage], stage, limit)
        for row, found in zip(active, scores, strict=False):
            self._rows[row].record_metrics(found, step, epoch)
        return bool(scores)

    def _remove_ended(self) -> None:
        """Remove the members that have ended, unless to compile the step again takes longer than to train them on."""
        active = self._active()
        for member in self._rows:
            if member.error is not None:
                with suppress(LrflowError):  # the error that ended it is reported
                    member.save_best()
        wasted = self._pace * (1 - len(active) / len(self._rows)) * (self._horizon.steps - self._step)
        if wasted <= self._population.compiling:
            return
        self._rows = [self._rows[row] for row in active]
        if active:
            for part in (self._population, self._coefficients, self._batches, self._meter):
                if part is not None:
                    part.keep(active)
            self._losses = self._losses[:, : len(active)].clone()

    def _end(self, rows: Sequence[int], signal_number: int | None = None) -> None:
        """Save the best and the last weights of members; a signal that stopped them is recorded as their end."""
        for row, last in zip(rows, self._population.member_states(rows), strict=True):
            member = self._rows[row]
            with member.own_errors():
                member.save_best()
                member.restore(self._step, last)
                member.checkpoints.stop.signal = signal_number
                with member.own_random_state():
                    if signal_number is not None:
                        member.checkpoints.save(member.trainer)
                    member.checkpoints.on_train_end(member.trainer, member.module)


def evaluate(
    population: Population,
    rows: Sequence[tuple[int, Supervised]],
    loaders: Any,
    stage: str,
    limit: int | float | None = None,
) -> list[dict[str, float]]:
    """Evaluate members on validation or test data.

    Args:
        population: the population of the members.
        rows: the rows of the members, with the modules that compute their metrics.
        loaders: one loader, or several that are evaluated as one set.
        stage: `val` or `test`.
        limit: the number of batches per loader, or the share of them; None: all.

    Returns:
        The metrics of each member; empty where there are no data.
    """
    batches: list[Any] = []
    for loader in [loaders] if isinstance(loaders, DataLoader) else loaders:
        count = int(len(loader) * limit) if isinstance(limit, float) else limit
        batches += islice(loader, count)
    if not batches:
        return []
    device = population.weights.device
    for inputs, targets in batches:
        outputs = population.outputs(inputs.to(device)).cpu()
        for row, module in rows:
            module.count(stage, outputs[row], targets.cpu())
    return [{name: float(value) for name, value in module.scores(stage).items()} for _, module in rows]


def clipping(trainer: pl.Trainer) -> Clip | None:
    """Return a function that clips gradients [members, weights] with norms [members] in place, per member.

    It returns the factor by which each norm became smaller [members].
    """
    limit = trainer.gradient_clip_val
    if limit is None:
        return None

    def by_value(grad: Tensor, norms: Tensor) -> Tensor:
        clipped = grad.abs().amax(dim=1) > limit
        share = torch.linalg.vector_norm(grad.clamp_(-limit, limit), dim=1) / norms
        return torch.where(clipped, share.clamp(max=1 - EPS), 1.0)

    def by_norm(grad: Tensor, norms: Tensor) -> Tensor:
        factors = (limit / (norms + EPS)).clamp(max=1.0)
        grad.mul_(factors[:, None])
        return factors

    return by_value if trainer.gradient_clip_algorithm == "value" else by_norm
