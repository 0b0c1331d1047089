"""Every parameter that asks for a gradient is one that the optimizer has, whenever it was made.

Completing a module before its parameters are grouped: what it makes in `setup()`, `configure_model()`, or lazily.
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
from lrflow.layers.groups import abbreviated
from lrflow.training.example import ExampleError, run_example
from lrflow.training.module import planned_module


def check_coverage(module: pl.LightningModule, optimizer: Optimizer) -> None:
    """Compare the parameters of a module that is trained with those of its optimizer.

    Raises:
        ConfigError: names the parameters that have a gradient and would never move, and those that were replaced.
    """
    now = dict(planned_module(module).named_parameters())
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if problems := [*_problems(now, trained)]:
        raise ConfigError(problems)


def _problems(now: dict[str, nn.Parameter], trained: set[nn.Parameter]) -> Iterator[Problem]:
    new = [name for name, parameter in now.items() if parameter.requires_grad and parameter not in trained]
    if new:
        message = (
            f"{_counted(new)} made, replaced or unfrozen after the groups of parameters were, so that the optimizer "
            f"does not have them and they would not train: {abbreviated(new)}"
        )
        hint = "make parameters in __init__, setup() or configure_model(), before the training starts"
        yield Problem("model", message, ..., hint)
    elif gone := len(trained - {*now.values()}):
        message = f"{gone} of the optimizer's {len(trained)} parameters are no longer the module's"
        yield Problem("model", message, ..., "replace no parameters once the training starts")


def _counted(names: Sequence[str]) -> str:
    return "1 parameter was" if len(names) == 1 else f"{len(names)} parameters were"


class CoverageCheck(Callback):
    """Checks, at the start of each epoch and where modules or parameters were added, that nothing is left out."""

    def __init__(self) -> None:
        self._changed = False
        self._first = 0  # step of this fit
        self._hooks = ExitStack()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look out for modules and parameters that are added, which costs a step nothing."""
        for register in (register_module_parameter_registration_hook, register_module_module_registration_hook):
            self._hooks.callback(register(self._note).remove)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note where training begins."""
        self._first = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check."""
        self._check(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Check where something was added."""
        if self._changed:
            self._check(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look out no more; nothing that was added in the last step is missed."""
        self._hooks.close()
        if self._changed:
            self._check(trainer, pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Look out no more, however the fit ended."""
        self._hooks.close()

    def _note(self, module: nn.Module, name: str, value: Any) -> None:
        self._changed = True

    def _check(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._changed = False
        try:
            check_coverage(module, trainer.optimizers[0])
        except ConfigError as error:
            if trainer.global_step == self._first:
                raise
            raise LrflowError(f"step {trainer.global_step}: {error}") from error


_MODEL_HOOKS = ("configure_model", "configure_sharded_model")
_FUNCTIONS = {"fit": TrainerFn.FITTING, "validate": TrainerFn.VALIDATING, "test": TrainerFn.TESTING}


def has_deferred_parts(module: pl.LightningModule) -> bool:
    """Whether `__init__` may have left parts of a module to its hooks, or to its first batch."""
    hooks = any(is_overridden(hook, module) for hook in ("setup", *_MODEL_HOOKS) if hasattr(pl.LightningModule, hook))
    return hooks or bool(_lazy(module))


def complete_module(
    module: pl.LightningModule, trainer: pl.Trainer, data: pl.LightningDataModule, stage: str = "fit"
) -> None:
    """Let a module make all of its parts now; when Lightning calls its hooks, they are not made a second time.

    The module sees what it would see in Lightning's calls: its trainer, and the data that were set up. Lazy parameters
    get their shapes from an example of the data. Under a strategy that shards parameters as `configure_model` makes
    them (FSDP, DeepSpeed, model parallel), that hook is left to Lightning.

    Args:
        module: changed in place.
        trainer: of the run.
        data: set up for the stage.
        stage: `fit`, `validate` or `test`.

    Raises:
        ConfigError: lazy parameters remain without a shape.
    """
    trainer.datamodule, module.trainer, data.trainer = data, trainer, trainer  # type: ignore[attr-defined]
    for part in module.modules():
        if isinstance(part, _DeviceDtypeModuleMixin):
            part._device = trainer.strategy.root_device  # as Lightning announces it to setup()
    with _running(trainer, stage):
        if is_overridden("prepare_data", module):
            module.prepare_data()
        if is_overridden("setup", module):
            _setup_once(module)(stage)
        for hook in _MODEL_HOOKS:
            if is_overridden(hook, module) and not shards_in_construction(trainer.strategy):
                make = _once(module, hook)
                with trainer.precision_plugin.module_init_context():
                    make()
        if _lazy(module):
            _materialize(module, data, stage)


def shards_in_construction(strategy: Strategy) -> bool:
    """Whether `configure_model` has to run in the strategy's own context."""
    own = type(strategy).model_sharded_context is not Strategy.model_sharded_context
    return own or isinstance(strategy, ModelParallelStrategy)


@contextmanager
def _running(trainer: pl.Trainer, stage: str) -> Iterator[None]:
    """The state that a trainer has when it calls the hooks."""
    state = trainer.state
    before = state.fn, state.status, state.stage
    state.fn, state.status = _FUNCTIONS[stage], TrainerStatus.RUNNING
    setattr(trainer, {"fit": "training", "validate": "validating", "test": "testing"}[stage], True)
    try:
        yield
    finally:
        state.fn, state.status, state.stage = before


def _setup_once(module: pl.LightningModule) -> Callable[[str], None]:
    """`setup` once per stage; parts that a later stage makes anew keep the weights that they have."""
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
    make, done = getattr(module, hook), list[bool]()

    @wraps(make)
    def once() -> None:
        if not done:
            done.append(True)
            make()

    setattr(module, hook, once)
    return once


def _lazy(module: nn.Module) -> list[str]:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return [name for name, tensor in tensors if nn.parameter.is_lazy(tensor)]


def _materialize(module: pl.LightningModule, data: pl.LightningDataModule, stage: str) -> None:
    """Give lazy modules the shapes that they have on an example.

    A copy of the module runs on it, and the lazy modules of the original are then initialised for the same inputs:
    nothing else of the original changes.
    """
    lazies = {name: part for name, part in module.named_modules() if isinstance(part, LazyModuleMixin)}
    seen: dict[str, tuple[Any, Any]] = {}

    def watch(copy: pl.LightningModule) -> AbstractContextManager[None]:
        for name, part in copy.named_modules():
            if name in lazies:
                part.register_forward_pre_hook(partial(note, name), with_kwargs=True, prepend=True)
        return nullcontext()

    def note(name: str, _: nn.Module, args: Any, kwargs: Any) -> None:
        seen.setdefault(name, (args, kwargs))

    why = ""
    try:
        run_example(module, data, watch, stage)
    except ExampleError as error:
        why = f" ({error})"
    for name, (args, kwargs) in seen.items():
        lazies[name]._infer_parameters(lazies[name], args, kwargs)  # type: ignore[misc]
    if left := _lazy(module):
        message = f"lazy modules whose parameters have no shape yet, nor after an example batch{why}: "
        hint = "give the layers their input sizes, or run one batch through the model before it is handed over"
        raise ConfigError([Problem("model", f"{message}{abbreviated(left)}", ..., hint)])
