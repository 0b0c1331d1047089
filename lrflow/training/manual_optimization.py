"""Manual optimization: modules get the optimizers of the run, and each training step is one step of the run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.loops.optimization.manual import _ManualOptimization
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from lrflow.config import Config
from lrflow.config.debugging import makes_short_runs
from lrflow.config.schemas.average import NoAverage
from lrflow.config.schemas.objects import NoFeedback
from lrflow.config.targets import locate, optimizer_traits
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.feedback import MetricFeedback
from lrflow.optimizers.routed import is_due, member_optimizers, route_key


class RouteOptimizer(LightningOptimizer):
    """An optimizer that a module steps itself: Lightning's wrapper, which knows when the plan has a step of it.

    Args:
        optimizer: the optimizer.
        key: its key in the config.
        every: steps of the run per step of the optimizer.
        module: the module that steps it.
    """

    def __init__(self, optimizer: Optimizer, key: str, every: int, module: pl.LightningModule) -> None:
        super().__init__(optimizer)
        self.key, self.every = key, every
        self._trainer = module.trainer
        self._strategy = module.trainer.strategy
        self._who = f"{type(module).__name__}.training_step"
        self.stepped = False  # in this training step

    @property
    def is_due(self) -> bool:
        """Whether the plan has a step of this optimizer at this step of the run."""
        return is_due(self._trainer.global_step, self.every)

    def step(self, closure: Any = None, **kwargs: Any) -> Any:
        """Make the step that the plan has at this step of the run.

        Args:
            closure: evaluates the loss again; most optimizers need none.
            kwargs: further arguments of the optimizer's step.

        Raises:
            LrflowError: the plan has no step of this optimizer here, or no second one.
        """
        if not self.is_due or self.stepped:
            at = f"step {self._trainer.global_step}: {self._who} stepped {self.key}"
            if self.stepped:
                hint = "step it once per training step; an optimizer that steps less often has an `every` above 1"
                raise LrflowError(f"{at} twice\n    {hint}")
            hint = "step it only if its `is_due` is true"
            raise LrflowError(f"{at}, which has a step at every {self.every} steps of the run\n    {hint}")
        self.stepped = True
        return super().step(closure, **kwargs)

    def check_stepped(self) -> None:
        """Check that the training step made the step that the plan has, and begin the next.

        Raises:
            LrflowError: it did not.
        """
        if self.is_due and not self.stepped:
            message = f"step {self._trainer.global_step}: {self._who} did not step {self.key}, and the plan has a step"
            hint = "call its step() at each training step at which its `is_due` is true"
            raise LrflowError(f"{message} of it here\n    {hint}")
        self.stepped = False

    def __iter__(self) -> Iterator[Any]:
        """Explain why `a, b = self.optimizers()` finds a single optimizer."""
        message = f"{self._who} takes several optimizers from self.optimizers(), and the run has one"
        raise LrflowError(f"{message}\n    add optimizer.routes.NAME, and a rule in layers.rules with route: NAME")


class ManualOptimizers:
    """The optimizers of a module that uses manual optimization; called as its method `optimizers`.

    Args:
        optimizers: the main optimizer, and those of the routes in the order of the config.
    """

    def __init__(self, optimizers: Sequence[RouteOptimizer]) -> None:
        self._optimizers = list(optimizers)

    @classmethod
    def supply(
        cls, module: pl.LightningModule, optimizer: Optimizer, every: Mapping[str | None, int], order: Sequence[Any]
    ) -> None:
        """Give a module its optimizers.

        Args:
            module: changed in place; it has its trainer.
            optimizer: of the run, which may be made of several.
            every: steps of the run per step of each optimizer, by its route.
            order: all routes, in the order in which the module gets their optimizers.
        """
        members = member_optimizers(optimizer)
        found = [RouteOptimizer(members[one], route_key(one), every[one], module) for one in order if one in members]
        module.optimizers = cls(found)  # type: ignore[method-assign]
        module.lr_schedulers = _no_schedulers  # type: ignore[method-assign]

    @staticmethod
    def of(module: pl.LightningModule) -> ManualOptimizers | None:
        """Return what `supply` gave to a module; None: nothing."""
        found = vars(module).get("optimizers")
        return found if isinstance(found, ManualOptimizers) else None

    def __call__(self, use_pl_optimizer: bool = True) -> Any:
        """Return the optimizers as a list, or the only one.

        Args:
            use_pl_optimizer: as in Lightning, whose wrappers know the precision and the plan; always true.
        """
        return self._optimizers if len(self._optimizers) > 1 else self._optimizers[0]

    def __iter__(self) -> Iterator[RouteOptimizer]:
        return iter(self._optimizers)

    def __deepcopy__(self, memo: dict[int, Any]) -> ManualOptimizers:
        return self  # a copy of the module, as callbacks make one for its weights, needs no copy of the run


def _no_schedulers() -> Any:
    raise LrflowError("lrflow steps the schedules of the plan: leave out self.lr_schedulers() in training_step")


class TrainingSteps(_ManualOptimization):
    """Manual optimization in which one training step is one step of the run, however many optimizers it steps."""

    def run(self, kwargs: OrderedDict[str, Any]) -> dict[str, Any]:
        """Train on a batch, and move the plan to its next step.

        Raises:
            LrflowError: the module did not make the steps that the plan has.
        """
        optimizers = ManualOptimizers.of(self.trainer.lightning_module)
        assert optimizers is not None
        self.optim_step_progress.increment_ready()
        profiler = self.trainer.profiler  # type: ignore[attr-defined]
        for optimizer in optimizers:
            optimizer._on_before_step = lambda: profiler.start("optimizer_step")
            optimizer._on_after_step = lambda: profiler.stop("optimizer_step")
        guard = self.trainer.batch_guard  # type: ignore[attr-defined]
        output: dict[str, Any] = {}
        if guard is None or not guard.leaves_out(self.trainer, next(iter(kwargs.values()))):
            output = super().run(kwargs)
            for optimizer in optimizers:
                optimizer.check_stepped()
        self.optim_step_progress.increment_completed()
        self.trainer.lr_scheduler_configs[0].scheduler.step()  # type: ignore[call-arg]
        return output


def check_optimization(config: Config, module: pl.LightningModule) -> None:
    """Check that a run works with automatic or manual optimization, whichever its module uses.

    Args:
        config: of the run.
        module: the module to train.

    Raises:
        ConfigError: lists every setting that does not.
    """
    problems = [*(_automatic if module.automatic_optimization else _manual)(config, module)]
    if problems:
        raise ConfigError(problems)


def _automatic(config: Config, module: pl.LightningModule) -> Iterator[Problem]:
    intervals = config.optimizer.intervals
    if min(intervals.values()) > 1:
        message = "gradients would be lost: no optimizer steps at every step of the run"
        hint = f"trainer.accumulate_grad_batches={config.optimizer.every} adds up the gradients of that many batches"
        yield Problem("optimizer.every", message, config.optimizer.every, hint)


def _manual(config: Config, module: pl.LightningModule) -> Iterator[Problem]:
    name, trainer = type(module).__name__, config.trainer
    who = f"{name} uses manual optimization (automatic_optimization = False)"
    if config.optimizer.of_module:
        message = f"{who}, and its own optimizers cannot be planned"
        hint = "describe them in optimizer and optimizer.routes, and its self.optimizers() returns those"
        yield Problem("optimizer", message, "module", hint)
        return
    if trainer.accumulate_grad_batches > 1:
        message = f"{who}, so it adds up gradients itself"
        hint = "leave it out; an optimizer that steps at every n-th batch has every: n"
        yield Problem("trainer.accumulate_grad_batches", message, trainer.accumulate_grad_batches, hint)
    if config.schedule.batch is not None and config.schedule.batch_by == "accumulation":
        hint = "schedule.batch_by=loader, whose batches change their size"
        yield Problem("schedule.batch", f"{who}, so it adds up gradients itself", ..., hint)
    if config.guard is not None:
        message = f"{who}, so it clips gradients itself"
        hint = "leave it out, and call self.clip_gradients(optimizer, value) before the step"
        key, value = config.guard_choice
        yield Problem(key, message, value, hint)
    members = {key: optimizer_traits(optimizer.target) for key, optimizer in config.optimizer.members.items()}
    for key, traits in members.items():
        if traits.needs_closure or traits.second_order:
            message = f"{who}, and this optimizer needs to evaluate or to differentiate the loss itself"
            yield Problem(f"{key}._target_", message, config.optimizer.members[key].target, "take another optimizer")
    if makes_short_runs(config):
        message = f"{who}, and a range test or a shortened run needs the one loss that it minimises"
        yield Problem("task" if config.task.name == "find" else "optimizer.lr", message, ..., "sweep over optimizer.lr")
    if config.sharpness_every is not None:
        yield Problem("sharpness.every", f"{who}, so there is no one loss whose sharpness could be measured", ...)
    if not isinstance(config.feedback, NoFeedback):
        kind = locate(config.feedback.target)
        if not (isinstance(kind, type) and issubclass(kind, MetricFeedback)):
            message = f"{who}, and this feedback needs one gradient per step"
            yield Problem("feedback", message, config.feedback.target, "feedback=plateau follows a metric")
    norms = any(isinstance(layer, _BatchNorm) for layer in module.modules())
    differs = any(traits.modes for traits in members.values()) or not isinstance(config.average, NoAverage)
    if norms and trainer.batch_norm_batches and differs:
        message = f"{who}, so its training step cannot estimate the statistics of BatchNorm for other weights"
        yield Problem("trainer.batch_norm_batches", message, trainer.batch_norm_batches, "trainer.batch_norm_batches=0")
