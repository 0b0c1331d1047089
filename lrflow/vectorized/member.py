"""One run of a population, with the record that it would have alone.

The batches of a population: every member's own, in its own order, from one data set in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from lrflow.vectorized.eligibility import Streams
from lrflow.vectorized.population import Population, Snapshot, UnfitError
from lrflow.vectorized.updates import UPDATES, StepCoefficients, Steps


@dataclass(eq=False)
class Member:
    """One run of a population.

    Args:
        trainer: with its loggers and callbacks; it fits nothing itself.
        module: supplied with its optimizer and plan.
        data: set up, in the order of the run.
        plan: what the run executes; as long as the others'.
        groups: the names of the parameters in each group that the plan trains.
        random: the state of the random number generators before the first step.
        metrics: its latest ones, by name.
        steps: optimizer steps made.
        error: what ended it early.
        best: the validated state that was best, and the steps behind it, until it is saved.
    """

    trainer: pl.Trainer
    module: Supervised
    data: pl.LightningDataModule
    plan: Plan
    groups: Sequence[Sequence[str]]
    random: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    error: LrflowError | None = None
    best: tuple[int, Snapshot] | None = None

    def attach(self) -> None:
        """Let the trainer have its module and optimizer, as at the start of a fit."""
        self.trainer.state.fn = TrainerFn.FITTING
        self.trainer.strategy.connect(self.module)
        self.module.trainer = self.trainer
        self.trainer.strategy.setup_optimizers(self.trainer)
        for callback in list(self.trainer.callbacks):  # type: ignore[attr-defined]
            if isinstance(callback, EvaluationWeights):
                callback.on_fit_start(self.trainer, self.module)
            elif isinstance(callback, Signals):
                callback.on_train_start(self.trainer, self.module)

    def fits(self, other: Member) -> bool:
        """Whether both have the same groups of parameters, and make the same number of steps."""
        return (self.groups, self.plan.horizon) == (other.groups, other.plan.horizon)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """torch's, as the run would have it alone."""
        return self.trainer.optimizers[0]

    @property
    def signals(self) -> Signals:
        """What its loggers and monitors are fed by."""
        return next(one for one in self.trainer.callbacks if isinstance(one, Signals))  # type: ignore[attr-defined]

    @property
    def checkpoints(self) -> Checkpoints:
        """What saves it."""
        return next(one for one in self.trainer.callbacks if isinstance(one, Checkpoints))  # type: ignore[attr-defined]

    @property
    def others(self) -> list[pl.Callback]:
        """What else looks at its validations, such as a pruner."""
        own = (Signals, Checkpoints, EvaluationWeights, ProgressBar, UndisturbedByValidation)
        return [one for one in self.trainer.callbacks if not isinstance(one, own)]  # type: ignore[attr-defined]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """What fails within fails this member, not the others."""
        try:
            yield
        except LrflowError as error:
            self.error = error

    def take(self, metrics: dict[str, float], step: int, epoch: int) -> None:
        """Note metrics where a run alone has them: for its callbacks, and in a row of its loggers."""
        self.metrics |= metrics
        found = {name: torch.tensor(value) for name, value in metrics.items()}
        self.trainer._logger_connector._callback_metrics.update(found)
        for logger in self.trainer.loggers:
            logger.log_metrics({**metrics, "epoch": epoch}, step)

    def bring_to(self, steps: int, snapshot: Snapshot) -> None:
        """Let the module, optimizer, scheduler and counters be as after so many steps."""
        snapshot.write(self.module.model, self.optimizer, steps)
        if snapshot.random is not None:
            self.random["torch"] = snapshot.random
        scheduler = self.trainer.lr_scheduler_configs[0].scheduler
        scheduler.load_state_dict({"step": steps, "fingerprint": self.plan.fingerprint})
        set_progress(self.trainer, steps, self.plan.horizon.steps_per_epoch or steps)

    def save_best(self) -> None:
        """Save the best validated state, if there is one that is not saved yet."""
        if self.best is not None:
            best, self.best = self.best, None
            self.bring_to(*best)
            with self.own_random_state():
                self.checkpoints.save(self.trainer, best=True)

    @contextmanager
    def own_random_state(self) -> Iterator[None]:
        """Let the generators be where the member's are, which its checkpoints hold."""
        with preserve_random_state():
            set_random_state(self.random)
            yield


def stack(
    members: Sequence[Member], device: torch.device, compiled: bool = False, timeline: Steps | None = None
) -> tuple[Population, StepCoefficients]:
    """The members as a population and the numbers of its steps.

    Args:
        members: attached.
        device: where they train.
        compiled: whether its step is compiled.
        timeline: as in `StepNumbers`.
    """
    first = members[0]
    rule = traits_of(type(first.optimizer)).update
    if rule is None:
        raise UnfitError(f"{type(first.optimizer).__name__} is not one of {', '.join(names_with('update'))}")
    update = UPDATES[rule](first.optimizer.param_groups[0])
    numbers = StepCoefficients(
        [one.plan for one in members], [one.optimizer for one in members], update, device, timeline
    )
    networks = [one.module.model for one in members]
    streams = Streams([one.random["torch"] for one in members])
    return Population(
        networks, first.groups, first.module.loss, update, numbers.start, device, compiled, streams
    ), numbers


class StackedBatches:
    """The training batches of all members, in the order that each would see alone.

    Args:
        loaders: one a member, as `lrflow.data.ordered` returns them, over the same data.
        device: where the data are kept and the batches made.

    Raises:
        UnfitError: a loader whose batches are not those of tensors in memory, in lrflow's order; other data in each.
    """

    def __init__(self, loaders: Sequence[DataLoader[Any]], device: torch.device) -> None:
        self._orders = [_order(loader) for loader in loaders]
        first, *others = {id(loader.dataset): _tensors(loader.dataset) for loader in loaders}.values()
        if not all(_equal(first, other) for other in others):
            raise UnfitError("their training data differ")
        self._tensors = [tensor.to(device) for tensor in first]
        self._device = device

    def epoch(self, number: int) -> Iterator[list[Tensor]]:
        """The batches of an epoch, counted from 0: of each, tensors [members, batch, ...]."""
        for order in self._orders:
            order.set_epoch(number)
        rows = torch.from_numpy(np.stack([order.shard() for order in self._orders])).to(self._device)
        size = self._orders[0].batch_size or 1
        for batch in range(len(self._orders[0])):
            chosen = rows[:, batch * size : (batch + 1) * size]
            flat = chosen.reshape(-1)
            yield [tensor.index_select(0, flat).unflatten(0, chosen.shape) for tensor in self._tensors]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these members alone from the next epoch on."""
        self._orders = [self._orders[row] for row in rows]


def _order(loader: object) -> ShardedBatches:
    order = getattr(loader, "batch_sampler", None)
    if not isinstance(order, ShardedBatches):
        raise UnfitError("the training data bring an order of their own")
    return order


def _tensors(dataset: object) -> Sequence[Tensor]:
    if isinstance(dataset, WholeBatches):
        return dataset.tensors
    if isinstance(dataset, Subset):
        rows = torch.as_tensor(dataset.indices)
        return [tensor[rows] for tensor in _tensors(dataset.dataset)]
    raise UnfitError("the training data are not a TensorDataset in memory")


def _equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two data sets are the same; of one and the same tensor, that is known without a look."""
    return len(one) == len(other) and all(
        mine is its or (mine.dtype == its.dtype and torch.equal(mine, its))
        for mine, its in zip(one, other, strict=True)
    )
