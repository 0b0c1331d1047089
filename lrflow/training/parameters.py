"""Complete a module's parameters before they are grouped, and check that the optimizer has all of them.

Modules may create parameters in `setup()`, in `configure_model()`, or lazily at the first batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial, wraps
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.device_dtype_mixin import _DeviceDtypeModuleMixin
from pytorch_lightning import Callback
from pytorch_lightning.strategies import ModelParallelStrategy, Strategy
from pytorch_lightning.trainer.states import TrainerFn, TrainerStatus
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.optim import Optimizer

from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.training.example import NoExampleError, run_example
from lrflow.training.module import planned_module
from lrflow.wording import joined

_MODEL_HOOKS = ("configure_model", "configure_sharded_model")
_FUNCTIONS = {"fit": TrainerFn.FITTING, "validate": TrainerFn.VALIDATING, "test": TrainerFn.TESTING}


def has_deferred_parts(module: pl.LightningModule) -> bool:
    """Whether hooks, or the first batch, may create parts of a module."""
    hooks = any(is_overridden(hook, module) for hook in ("setup", *_MODEL_HOOKS) if hasattr(pl.LightningModule, hook))
    return hooks or bool(_lazy(module))


def complete_module(
    module: pl.LightningModule, trainer: pl.Trainer, data: pl.LightningDataModule, stage: str = "fit"
) -> None:
    """Make a module create all of its parts now; Lightning's later calls of its hooks do not create them again.

    The hooks see the same trainer and data as in Lightning's calls. Lazy parameters get their shapes from an example
    of the data. If the strategy shards parameters while `configure_model` creates them (FSDP, DeepSpeed, model
    parallel), Lightning calls that hook.

    Args:
        module: changed in place.
        trainer: trainer of the run.
        data: set up for the stage.
        stage: `fit`, `validate` or `test`.

    Raises:
        ConfigError: lazy parameters remain without a shape.
    """
    trainer.datamodule, module.trainer, data.trainer = data, trainer, trainer  # type: ignore[attr-defined]
    for part in module.modules():
        if isinstance(part, _DeviceDtypeModuleMixin):
            part._device = trainer.strategy.root_device  # as in Lightning's call of setup()
    with _running(trainer, stage):
        if is_overridden("prepare_data", module):
            module.prepare_data()
        if is_overridden("setup", module):
            _setup_once(module)(stage)
        for hook in _MODEL_HOOKS:
            if is_overridden(hook, module) and not shards_in_construction(trainer.strategy):
                call_hook = _once(module, hook)
                with trainer.precision_plugin.module_init_context():
                    call_hook()
        if _lazy(module):
            _materialize(module, data, stage)


def shards_in_construction(strategy: Strategy) -> bool:
    """Whether `configure_model` has to run in the strategy's own context."""
    own = type(strategy).model_sharded_context is not Strategy.model_sharded_context
    return own or isinstance(strategy, ModelParallelStrategy)


def check_coverage(module: pl.LightningModule, optimizer: Optimizer) -> None:
    """Check that the optimizer has every parameter of the module that requires a gradient.

    Raises:
        ConfigError: lists parameters that require a gradient but would not train, or counts replaced ones.
    """
    current = dict(planned_module(module).named_parameters())
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if problems := [*_problems(current, trained)]:
        raise ConfigError(problems)


class CoverageCheck(Callback):
    """Calls `check_coverage` at the start of each epoch, and after modules or parameters were added."""

    def __init__(self) -> None:
        self._changed = False
        self._first = 0  # the first step of this fit
        self._hooks = ExitStack()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Register global hooks that notice new modules and parameters, at no cost per step."""
        for register in (register_module_parameter_registration_hook, register_module_module_registration_hook):
            self._hooks.callback(register(self._record).remove)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the first step."""
        self._first = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the parameters."""
        self._check(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Check the parameters if something was added."""
        if self._changed:
            self._check(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the hooks, and check the parameters if the last step added something."""
        self._hooks.close()
        if self._changed:
            self._check(trainer, pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove the hooks, also of a fit without training."""
        self._hooks.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the hooks of a run that failed, which would keep its model in memory."""
        self._hooks.close()

    def _record(self, module: nn.Module, name: str, value: Any) -> None:
        self._changed = True

    def _check(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._changed = False
        try:
            check_coverage(module, trainer.optimizers[0])
        except ConfigError as error:
            if trainer.global_step == self._first:
                raise
            raise LrflowError(f"step {trainer.global_step}: {error}") from error


def _problems(current: dict[str, nn.Parameter], trained: set[nn.Parameter]) -> Iterator[Problem]:
    new = [name for name, parameter in current.items() if parameter.requires_grad and parameter not in trained]
    if new:
        message = (
            f"{_counted(new)} created, replaced or unfrozen after the parameter groups were built, so the optimizer "
            f"does not have them and they would not train: {joined(new, 7)}"
        )
        hint = "create parameters in __init__, setup() or configure_model(), before the training starts"
        yield Problem("model", message, ..., hint)
    elif gone := len(trained - {*current.values()}):
        message = f"{gone} of the optimizer's {len(trained)} parameters are no longer the module's"
        yield Problem("model", message, ..., "replace no parameters once the training starts")


def _counted(names: Sequence[str]) -> str:
    return "1 parameter was" if len(names) == 1 else f"{len(names)} parameters were"


@contextmanager
def _running(trainer: pl.Trainer, stage: str) -> Iterator[None]:
    """Give a trainer the state in which it calls the hooks."""
    state = trainer.state
    before = state.fn, state.status, state.stage
    state.fn, state.status = _FUNCTIONS[stage], TrainerStatus.RUNNING
    setattr(trainer, {"fit": "training", "validate": "validating", "test": "testing"}[stage], True)
    try:
        yield
    finally:
        state.fn, state.status, state.stage = before


def _setup_once(module: pl.LightningModule) -> Callable[[str], None]:
    """Make `setup` run once per stage; parts that a later stage creates again keep their weights."""
    setup, done = module.setup, set[str]()

    @wraps(setup)
    def setup_once(stage: str) -> None:
        if stage in done:
            return
        before = dict(module.state_dict(keep_vars=True)) if done else {}
        done.add(stage)
        setup(stage)
        for name, tensor in module.state_dict(keep_vars=True).items():
            old = before.get(name)
            if not isinstance(tensor, torch.Tensor) or old is None or old is tensor or nn.parameter.is_lazy(old):
                continue
            with torch.no_grad():
                if nn.parameter.is_lazy(tensor):
                    tensor.materialize(old.shape)
                if old.shape == tensor.shape:
                    tensor.copy_(old)

    module.setup = setup_once  # type: ignore[method-assign]
    return setup_once


def _once(module: pl.LightningModule, hook: str) -> Callable[[], None]:
    """Make a hook run only once."""
    call_hook, done = getattr(module, hook), list[bool]()

    @wraps(call_hook)
    def once() -> None:
        if not done:
            done.append(True)
            call_hook()

    setattr(module, hook, once)
    return once


def _lazy(module: nn.Module) -> list[str]:
    """Return the names of parameters and buffers without a shape."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return [name for name, tensor in tensors if nn.parameter.is_lazy(tensor)]


def _materialize(module: pl.LightningModule, data: pl.LightningDataModule, stage: str) -> None:
    """Initialize lazy modules for the inputs that they receive on an example.

    A copy of the module runs on the example; then the lazy modules of the original are initialized for the same
    inputs, and nothing else of the original changes.
    """
    lazies = {name: part for name, part in module.named_modules() if isinstance(part, LazyModuleMixin)}
    inputs: dict[str, tuple[Any, Any]] = {}

    def watch(copy: pl.LightningModule) -> AbstractContextManager[None]:
        for name, part in copy.named_modules():
            if name in lazies:
                part.register_forward_pre_hook(partial(record, name), with_kwargs=True, prepend=True)
        return nullcontext()

    def record(name: str, _: nn.Module, args: Any, kwargs: Any) -> None:
        inputs.setdefault(name, (args, kwargs))

    reason = ""
    try:
        run_example(module, data, watch, stage)
    except NoExampleError as error:
        reason = f" ({error})"
    for name, (args, kwargs) in inputs.items():
        lazies[name]._infer_parameters(lazies[name], args, kwargs)  # type: ignore[misc]
    if remaining := _lazy(module):
        message = f"lazy modules whose parameters have no shape, even after an example batch{reason}: "
        hint = "give the layers their input sizes, or run one batch through the model before passing it to lrflow"
        raise ConfigError([Problem("model", f"{message}{joined(remaining, 7)}", ..., hint)])
