"""One run of a population with its trainer; members are stacked to a population, and so are their batches."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from lrflow.data.order import ShardedBatches, WholeBatches
from lrflow.errors import LrflowError
from lrflow.optimizers.traits import names_with, traits_of
from lrflow.plan import Plan
from lrflow.training.checkpoints import Checkpoints
from lrflow.training.evaluation_weights import EvaluationWeights
from lrflow.training.isolation import UndisturbedByValidation
from lrflow.training.loaders import set_progress
from lrflow.training.module import Supervised
from lrflow.training.progress import ProgressBar
from lrflow.training.signals import Signals
from lrflow.training.state import preserve_random_state, set_random_state
from lrflow.vectorized.eligibility import Generators
from lrflow.vectorized.population import MemberState, Population, PopulationError
from lrflow.vectorized.updates import UPDATES, StepCoefficients, Steps


@dataclass(eq=False)
class Member:
    """One run of a population.

    Args:
        trainer: the trainer with its loggers and callbacks; it never fits.
        module: the module with its optimizer and plan.
        data: the data, set up in the order of the run.
        plan: the plan of the run; all members have the same number of steps.
        groups: the names of the parameters in each group of the plan.
        random: the state of the random number generators before the first step.
        facts: fields of its summary, as in `Prepared`.
        metrics: the latest metrics, by name.
        steps: optimizer steps made.
        error: the error that ended the run early; None: it has not ended early.
        best: the step and the state of the best validation, until they are saved.
    """

    trainer: pl.Trainer
    module: Supervised
    data: pl.LightningDataModule
    plan: Plan
    groups: Sequence[Sequence[str]]
    random: dict[str, Any]
    facts: Mapping[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    error: LrflowError | None = None
    best: tuple[int, MemberState] | None = None

    def attach(self) -> None:
        """Connect the trainer to the module and the optimizer, as at the start of a fit."""
        self.trainer.state.fn = TrainerFn.FITTING
        self.trainer.strategy.connect(self.module)
        self.module.trainer = self.trainer
        self.trainer.strategy.setup_optimizers(self.trainer)
        for callback in list(self.trainer.callbacks):  # type: ignore[attr-defined]
            if isinstance(callback, EvaluationWeights):
                callback.on_fit_start(self.trainer, self.module)
            elif isinstance(callback, Signals):
                callback.on_train_start(self.trainer, self.module)
            elif isinstance(callback, Checkpoints):
                callback.begin(self.module)

    def is_compatible_with(self, other: Member) -> bool:
        """Whether both have the same parameter groups and the same number of steps."""
        return (self.groups, self.plan.horizon) == (other.groups, other.plan.horizon)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer that the run would have alone."""
        return self.trainer.optimizers[0]

    @property
    def signals(self) -> Signals:
        """The callback that feeds the loggers and monitors."""
        return next(one for one in self.trainer.callbacks if isinstance(one, Signals))  # type: ignore[attr-defined]

    @property
    def checkpoints(self) -> Checkpoints:
        """The callback that saves the run."""
        return next(one for one in self.trainer.callbacks if isinstance(one, Checkpoints))  # type: ignore[attr-defined]

    @property
    def other_callbacks(self) -> list[pl.Callback]:
        """The callbacks, such as a pruner, besides those that every run has."""
        own = (Signals, Checkpoints, EvaluationWeights, ProgressBar, UndisturbedByValidation)
        return [one for one in self.trainer.callbacks if not isinstance(one, own)]  # type: ignore[attr-defined]

    @contextmanager
    def own_errors(self) -> Iterator[None]:
        """Record an LrflowError of the body as the end of this member; the others continue."""
        try:
            yield
        except LrflowError as error:
            self.error = error

    def record_metrics(self, metrics: dict[str, float], step: int, epoch: int) -> None:
        """Pass metrics to the callbacks and loggers, as Lightning does for a run alone."""
        self.metrics |= metrics
        found = {name: torch.tensor(value) for name, value in metrics.items()}
        self.trainer._logger_connector._callback_metrics.update(found)
        for logger in self.trainer.loggers:
            logger.log_metrics({**metrics, "epoch": epoch}, step)

    def restore(self, steps: int, state: MemberState) -> None:
        """Set the module, optimizer, scheduler and counters to a state after a number of steps."""
        state.write(self.module.model, self.optimizer, steps)
        if state.random is not None:
            self.random["torch"] = state.random
        scheduler = self.trainer.lr_scheduler_configs[0].scheduler
        scheduler.load_state_dict({"step": steps, "fingerprint": self.plan.fingerprint})
        set_progress(self.trainer, steps, self.plan.horizon.steps_per_epoch or steps)

    def save_best(self) -> None:
        """Save the state of the best validation, if it is not saved yet."""
        if self.best is not None:
            best, self.best = self.best, None
            self.restore(*best)
            with self.own_random_state():
                self.checkpoints.save(self.trainer, best=True)

    @contextmanager
    def own_random_state(self) -> Iterator[None]:
        """Set the random number generators to the member's states, which its checkpoints contain."""
        with preserve_random_state():
            set_random_state(self.random)
            yield


def stack(
    members: Sequence[Member], device: torch.device, compiled: bool = False, timeline: Steps | None = None
) -> tuple[Population, StepCoefficients]:
    """Stack members to a population, and compute the coefficients of its steps.

    Args:
        members: the members, attached.
        device: the device that they train on.
        compiled: whether the step of the population is compiled.
        timeline: as in `StepCoefficients`.

    Raises:
        PopulationError: a population cannot train with this optimizer.
    """
    first = members[0]
    rule = traits_of(type(first.optimizer)).update
    if rule is None:
        raise PopulationError(f"{type(first.optimizer).__name__} is not one of {', '.join(names_with('update'))}")
    update = UPDATES[rule](first.optimizer.param_groups[0])
    coefficients = StepCoefficients(
        [one.plan for one in members], [one.optimizer for one in members], update, device, timeline
    )
    networks = [one.module.model for one in members]
    generators = Generators([one.random["torch"] for one in members])
    loss = copy.deepcopy(first.module.loss).to(device)  # the module, which validates, stays on the CPU
    return Population(
        networks, first.groups, loss, update, coefficients.start, device, compiled, generators
    ), coefficients


class StackedBatches:
    """The training batches of all members, each in the order that it would have alone.

    Args:
        loaders: the loaders of the members, as `lrflow.data.ordered` returns them, over the same data.
        device: the device that holds the data and the batches.

    Raises:
        PopulationError: the data of a loader, or of one member, are not tensors in memory in the order of the others.
    """

    def __init__(self, loaders: Sequence[DataLoader[Any]], device: torch.device) -> None:
        self._orders = [_order(loader) for loader in loaders]
        first, *others = {id(loader.dataset): _tensors(loader.dataset) for loader in loaders}.values()
        if not all(_equal(first, other) for other in others):
            raise PopulationError("their training data differ")
        self._tensors = [tensor.to(device) for tensor in first]
        self._device = device

    def epoch(self, number: int) -> Iterator[list[Tensor]]:
        """Yield the batches of an epoch, counted from 0: lists of tensors [members, batch, ...]."""
        for order in self._orders:
            order.set_epoch(number)
        rows = torch.from_numpy(np.stack([order.shard() for order in self._orders])).to(self._device)
        size = self._orders[0].batch_size or 1
        for batch in range(len(self._orders[0])):
            chosen = rows[:, batch * size : (batch + 1) * size]
            flat = chosen.reshape(-1)
            yield [tensor.index_select(0, flat).unflatten(0, chosen.shape) for tensor in self._tensors]

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these members, from the next epoch on."""
        self._orders = [self._orders[row] for row in rows]


def _order(loader: object) -> ShardedBatches:
    order = getattr(loader, "batch_sampler", None)
    if not isinstance(order, ShardedBatches):
        raise PopulationError("the training data have an order of their own")
    return order


def _tensors(dataset: object) -> Sequence[Tensor]:
    if isinstance(dataset, WholeBatches):
        return dataset.tensors
    if isinstance(dataset, Subset):
        rows = torch.as_tensor(dataset.indices)
        return [tensor[rows] for tensor in _tensors(dataset.dataset)]
    raise PopulationError("the training data are not a TensorDataset in memory")


def _equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether two data sets are equal; the same tensor is not compared with itself."""
    return len(first) == len(second) and all(
        one is other or (one.dtype == other.dtype and torch.equal(one, other))
        for one, other in zip(first, second, strict=True)
    )
