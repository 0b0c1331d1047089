"""The lean loop over the batches does what Lightning's own does: every hook, counter, weight, row and checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import schedulefree
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from small_runs import Points, Run, network
from torch.utils.data import DataLoader, IterableDataset

from lrflow.clip import Norm
from lrflow.data.module import Examples
from lrflow.errors import ConfigError, LrflowError
from lrflow.health.recover import Recover
from lrflow.layers import Rule
from lrflow.plan.averaging import Averaging
from lrflow.schedules import Duration, Horizon
from lrflow.training import Supervised
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.training.lean_loop import check_loop
from lrflow.training.rollback import Rollback
from lrflow.training.trainer import build_trainer

HOOKS = (
    "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_before_zero_grad", "on_before_backward",
    "on_after_backward", "on_before_optimizer_step", "on_train_batch_end", "on_validation_start", "on_validation_end",
    "on_train_epoch_end", "on_train_end",
)  # fmt: skip


class Trace(pl.Callback):
    """Records every hook with all counters of the loops, and the metrics that callbacks see."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def note(self, name: str, trainer: pl.Trainer, module: pl.LightningModule, *given: Any) -> None:
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        state = (trainer.fit_loop.state_dict(), module._current_fx_name, trainer.global_step, metrics)
        self.seen.append((name, *map(plain, (*state, given))))


for _name in HOOKS:
    setattr(Trace, _name, lambda self, *given, _name=_name: self.note(_name, *given))


def plain(value: Any) -> Any:
    """Return a value by which equal ones are equal: tensors as lists, other objects as the name of their class."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), plain(value.detach().tolist())
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return repr(value)  # NaN too
    return value if isinstance(value, str | int | None) else type(value).__name__


class Hooked(Supervised):
    """A module that logs, has hooks of its own, skips a batch, and ends its second epoch early."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("train/own", loss, on_step=True, on_epoch=True)
        return None if batch_idx == 2 else {"loss": loss, "rows": len(batch[0])}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if self.current_epoch == 1 and batch_idx == 4 else None

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("train/rows", float(outputs.get("rows", 0)), prog_bar=True)

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.log("train/zeroed", 1.0)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] * 1.5, batch[1]] if self.trainer.training else batch

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        self.log("train/cleared", float(batch_idx))
        optimizer.zero_grad(set_to_none=False)


class OwnStep(Supervised):
    """A module that makes its steps and clips its gradients itself."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
        optimizer.step(closure=optimizer_closure)

    def configure_gradient_clipping(self, optimizer: Any, *given: Any, **settings: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="value")


class Clips(Supervised):
    """A module whose loss is changed in place, and whose gradients are clipped without a limit from the config."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx).exp()

    def on_before_backward(self, loss: torch.Tensor) -> None:
        loss.mul_(2)

    def clip_gradients(self, optimizer: Any, *given: Any, **settings: Any) -> None:
        torch.nn.utils.clip_grad_value_(self.parameters(), 0.01)


class Bare(torch.optim.Optimizer):
    """An optimizer that evaluates its closure without turning gradients on."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(parameter.grad, alpha=group["lr"])


class Idle(Bare):
    def step(self, closure: Any = None) -> None: ...  # type: ignore[override]


class Switches(Supervised):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.automatic_optimization = batch_idx < 3
        return super().training_step(batch, batch_idx)


class Unhooked(pl.Callback):
    """Lets the optimizer have no hooks, and changes the batch in place."""

    def on_train_start(self, trainer: Any, *_: Any) -> None:
        trainer.optimizers[0]._optimizer_step_pre_hooks.clear()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        batch[0] = batch[0] * 1.5


class Halves(pl.Callback):
    """Halves the gradients."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        batch[0] = batch[0] + 1

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        for parameter in module.parameters():
            parameter.grad *= 0.5


class HooksLate(Unhooked):
    """At step 3, adds a callback and hooks of the optimizer: one clears gradients."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 3:
            step = trainer.optimizers[0]
            step.register_step_pre_hook(lambda *_: module.zero_grad())
            step.register_step_post_hook(lambda *_: module.log("train/stepped", 1.0))
            trainer.callbacks.append(Halves())


class Kept(Points):
    """A loader that yields the same lists in each epoch."""

    def train_dataloader(self) -> Any:
        draw = torch.Generator().manual_seed(0)
        batches = [[one := torch.randn(16, 6, generator=draw), one[:, :3].argmax(1)] for _ in range(7)]
        return DataLoader(batches, batch_size=1, collate_fn=lambda found: found[0])  # type: ignore[arg-type]


class Stops(pl.Callback):
    """Asks the run to stop after some steps, within an epoch."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= 9


class Shortens(pl.Callback):
    """Ends the run earlier than planned, as a cooldown does that begins within an epoch."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 5:
            trainer.run_for(Horizon(11, 7))


class Poisoned(Points):
    """One example holds NaN."""

    def load(self) -> tuple[Examples, None]:
        examples, _ = super().load()
        inputs = examples.inputs.clone()
        inputs[40] = torch.nan
        return Examples(inputs, examples.targets), None


class Gaps(IterableDataset[Any]):
    """A stream of batches of which one is None."""

    def __iter__(self) -> Any:
        draw = torch.Generator().manual_seed(0)
        for index in range(7):
            inputs = torch.randn(16, 6, generator=draw)
            yield None if index == 3 else (inputs, inputs[:, :3].argmax(1))


class Streamed(Points):
    """Training data of unknown length."""

    def train_dataloader(self) -> Any:
        return DataLoader(Gaps(), batch_size=None)


CASES: dict[str, dict[str, Any]] = {
    "several groups, validation and checkpoints within epochs": {"val_every": "5 steps"},
    "a share of an epoch, and windows that are short at its end": {"accumulate": 3, "val_every": "0.5 epochs"},
    "a guard that clips, an average, and bfloat16": {
        "guard": lambda: Norm(0.05), "averaging": Averaging("ema", 3, 1, 14, decay=0.9), "precision": "bf16-mixed"
    },
    "whole bfloat16": {"precision": "bf16-true"},
    "a closure that is evaluated several times": {
        "optimizer": torch.optim.LBFGS, "settings": {}, "rules": (Rule("all", match="*"),)
    },
    "gradients that keep their graph": {"halves_every": 4},
    "groups that unfreeze and freeze": {
        "rules": (Rule("body", match="body.*", unfreeze=Duration.parse("5 steps")), Rule("head", match="head.*"))
    },
    "weights of a schedule-free optimizer": {
        "optimizer": schedulefree.AdamWScheduleFree, "settings": {"weight_decay": 0.1}
    },
    "rollbacks that leave out a batch": {
        "data": lambda: Poisoned(), "save_every": "2 steps",
        "rollback": lambda **given: Rollback(Recover(0.3, 2, 5, "batches", 3), 3, 3, **given),
    },
    "a module with hooks": {"module": lambda: Hooked(network(), "cross_entropy"), "accumulate": 2},
    "a module with steps of its own": {"module": lambda: OwnStep(network(), "cross_entropy")},
    "a module that changes the loss and always clips": {"module": lambda: Clips(network(), "cross_entropy")},
    "a closure without gradients around it": {
        "optimizer": Bare, "settings": {}, "rules": (Rule("all", match="*"),)
    },
    "batches that hooks change, in steps without hooks": {"data": lambda: Kept(), "callbacks": lambda: [Unhooked()]},
    "hooks and callbacks that are added within an epoch": {"callbacks": lambda: [HooksLate()]},
    "a stop within an epoch": {"callbacks": lambda: [Stops()], "save_every": "4 steps"},
    "a plan that becomes shorter within an epoch": {"callbacks": lambda: [Shortens()], "save_every": None},
    "a stream with a gap": {"data": lambda: Streamed(), "max_steps": 12, "accumulate": 2, "val_every": "1 epoch"},
    "a fixed number of batches": {"limit_train_batches": 5, "drop_last": True, "save_every": "1 epoch"},
}  # fmt: skip


def run(prepare: Any, folder: Path, case: dict[str, Any], loop: str, **more: Any) -> tuple[Run, Trace]:
    """Train a case by one of the two loops."""
    torch.manual_seed(0)
    made = {key: value() if key in ("module", "callbacks", "data") else value for key, value in case.items()}
    trace = Trace()
    own = [*made.pop("callbacks", []), *more.pop("callbacks", []), trace]
    options = {"max_epochs": 2, **made, **more}
    return prepare(folder, loop=loop, callbacks=own, **options), trace


def contents(run: Run) -> dict[str, Any]:
    """Return what a run leaves: its checkpoints, rows, batches, losses and LRs."""
    saved = {path.name: plain(read_checkpoint(path)) for path in run.saved}
    record = run.record
    return {**saved, "rows": run.rows(), "record": plain([record.batches, record.losses, record.rates])}


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no second pass: signals are also read once per second."""
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)


@pytest.mark.parametrize("name", CASES)
def test_a_run_is_the_same_by_both_loops(name: str, prepare: Callable[..., Run], tmp_path: Path) -> None:
    left = {}
    for loop in ("lightning", "lean"):
        made, trace = run(prepare, tmp_path / loop, CASES[name], loop)
        made.fit()
        assert made.trainer.fit_loop.epoch_loop.is_lean == (loop == "lean")
        left[loop] = (contents(made), trace.seen)
    (known, hooks), (found, lean_hooks) = left["lightning"], left["lean"]
    for expected, seen in zip(hooks, lean_hooks, strict=True):
        assert seen == expected
    assert found == known


KILLED: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "between validations of an epoch": ("lean", "lightning", 9, {"val_every": "5 steps", "save_every": "2 steps"}),
    "between two windows": ("lightning", "lean", 10, {"accumulate": 3, "val_every": "0.5 epochs"}),
    "at the end of an epoch": ("lean", "lightning", 12, {"save_every": "1 epoch"}),
    "with an average": ("lightning", "lean", 12, {"averaging": Averaging("ema", 3, 1, 14, decay=0.9)}),
}


@pytest.mark.parametrize("name", KILLED)
def test_a_run_is_killed_in_one_loop_and_resumed_in_the_other(
    name: str, train: Callable[..., Run], tmp_path: Path
) -> None:
    first, second, cut, options = KILLED[name]
    options = {"max_epochs": 2, "save_every": "2 steps", **options}
    whole = train(tmp_path / "whole", loop=second, **options)
    broken = train(tmp_path / "cut", loop=first, interrupt=cut, **options)
    resumed = train(tmp_path / "cut", loop=second, resume=broken.newest, **options)
    assert 0 < resumed.resumed.step < whole.horizon.steps  # type: ignore[union-attr]
    assert resumed.rows() == whole.rows()
    last, expected = (plain(read_checkpoint(run.saved[-1])) for run in (resumed, whole))
    del last["loops"], expected["loops"]  # Lightning counts the steps of an epoch anew after a resume
    assert last == expected


@pytest.mark.parametrize("loop", ["lightning", "lean"])
@pytest.mark.parametrize(
    ("case", "told"),
    [
        ({"optimizer": Idle, "settings": {}, "rules": (Rule("all", match="*"),)}, "step 0: Idle.step did not evaluate"),
        ({"module": lambda: Switches(network(), "cross_entropy")}, "step 4: Switches has switched to another optimiz"),
    ],
)
def test_both_loops_refuse_a_step_that_the_plan_does_not_have(
    case: dict[str, Any], told: str, loop: str, prepare: Callable[..., Run], tmp_path: Path
) -> None:
    with pytest.raises(LrflowError, match=told):
        run(prepare, tmp_path, case, loop)[0].fit()


class Manual(Supervised):
    def __init__(self) -> None:
        super().__init__(network(), "cross_entropy")
        self.automatic_optimization = False


class Iterating(Supervised):
    def training_step(self, dataloader_iter: Any) -> Any: ...  # type: ignore[override]


@pytest.mark.parametrize(
    ("module", "options", "told"),
    [
        (lambda: Manual(), {}, "Manual steps its optimizers itself"),
        (lambda: Iterating(network(), "cross_entropy"), {}, "Iterating.training_step takes the iterator of the loader"),
        (None, {"profiler": "simple"}, "SimpleProfiler measures the parts of Lightning's loop"),
        (None, {"of": ModelParallelStrategy}, "ModelParallelStrategy trains in a way of its own"),
    ],
)
def test_a_run_that_needs_the_loop_of_lightning_says_why(
    module: Any, options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    made, strategy = module() if module else Supervised(network(), "cross_entropy"), options.pop("of", None)
    for loop in ("auto", "lightning", "lean"):
        trainer = build_trainer({"accelerator": "cpu", "loop": loop, **options}, tmp_path, [], 50)
        if strategy:
            trainer._accelerator_connector.strategy = strategy()
        if loop == "lean":
            with pytest.raises(ConfigError, match=told):
                check_loop(trainer, made)
        else:
            line = check_loop(trainer, made)
            assert line == (None if loop == "lightning" else f"loop over the batches: Lightning's, since {told}")
