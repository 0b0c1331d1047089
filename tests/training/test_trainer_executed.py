"""The plan is executed exactly: only steps advance the LR, and a deviation from the plan ends the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lrflow.errors import LrflowError
from lrflow.layers import Rule
from lrflow.plan import PlanScheduler

INPUTS = torch.randn(7, 16, 6, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS.sum(2).relu()
ALL = [Rule("all", match="*")]


def network() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))


def loss_of(net: torch.nn.Module, batch: Any) -> torch.Tensor:
    return functional.mse_loss(net(batch[0])[..., 0], batch[1])


class Data(pl.LightningDataModule):
    """Seven batches; those that a `collate_fn` could not make are None."""

    def __init__(self, missing: set[int] | None = None) -> None:
        super().__init__()
        self.missing = missing or set()

    def train_dataloader(self) -> Any:
        batches = [None if index in self.missing else (INPUTS[index], TARGETS[index]) for index in range(7)]
        return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(INPUTS[0], TARGETS[0]), 16)


class Module(pl.LightningModule):
    """A user's module that ends each epoch before the batch `ends`."""

    def __init__(self, ends: int = 7) -> None:
        super().__init__()
        self.net, self.ends = network(), ends

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == self.ends else None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = loss_of(self.net, batch)
        self.log("own/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", loss_of(self.net, batch))


OPTIONS: dict[str, Any] = {"rules": ALL, "lr": 0.1, "optimizer": torch.optim.SGD, "settings": {"momentum": 0.9}}


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize(("missing", "ends"), [({1, 3, 5}, 7), ({0, 2, 6}, 7), ({2, 3}, 7), (set(), 3), ({1}, 4)])
def test_exactly_the_planned_steps_at_the_planned_lrs(
    missing: set[int], ends: int, accumulate: int, train: Any, tmp_path: Path
) -> None:
    """Compared with a plain torch loop: each window's gradient is the mean over its batches."""
    run = train(
        tmp_path, module=Module(ends), data=Data(missing), max_epochs=None, max_steps=9, accumulate=accumulate,
        val_every="2 steps", log_every=2, save_every=None, **OPTIONS,
    )  # fmt: skip
    assert run.trainer.global_step == 9
    planned = run.plan.lr(np.arange(9)).tolist()
    assert run.record.rates == planned
    assert [[lr] for lr in run.column("lr/all")] == planned

    net = network()
    optimizer = torch.optim.SGD(net.parameters(), momentum=0.9)
    losses: list[float] = []
    while len(losses) < 9:
        for start in range(0, min(7, ends), accumulate):
            window = [index for index in range(start, min(start + accumulate, 7, ends)) if index not in missing]
            if window and len(losses) < 9:
                optimizer.param_groups[0]["lr"] = planned[len(losses)][0]
                optimizer.zero_grad()
                loss = torch.stack([loss_of(net, (INPUTS[index], TARGETS[index])) for index in window]).mean()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
    assert run.column("train/loss") == pytest.approx(losses, rel=1e-5)
    for name, weight in net.state_dict().items():
        torch.testing.assert_close(run.module.net.state_dict()[name], weight)
    validated = [int(row["step"]) for row in run.rows() if row["val/loss"]]
    assert validated == [1, 3, 5, 7, 8]  # every second step, once, and the end


class WritesBefore(Module):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.trainer.optimizers[0].param_groups[0]["lr"] *= 1.01


class WritesInTheStep(Module):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer.param_groups[0]["lr"] = 0.5
        optimizer.step(closure=optimizer_closure)


class MovesNoScheduler(Module):
    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        pass


class MakesNoStep(Module):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer_closure()


class TurnsToHand(Module):
    def on_fit_start(self) -> None:
        self.automatic_optimization = False


class SkipsAll(Module):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        return None


class Decays(torch.optim.SGD):
    """Writes its LR itself, once it has the gradients."""

    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure()
        self.param_groups[0]["lr"] *= 0.9
        super().step()
        return loss


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            WritesBefore,
            {},
            r"step 0: the LR used for all is 0\.0336667, and the plan has 0\.0333333: something else writes",
        ),
        (WritesBefore, {"tensor_lr": True}, r"step 0: the LR used for all is 0\.0336667, and the plan has 0\.0333333"),
        (WritesInTheStep, {}, r"step 0: the LR used for all is 0\.5, and the plan has 0\.0333333"),
        (MovesNoScheduler, {}, r"step 1: the LR used for all is 0\.0333333, and the plan has 0\.0666667"),
        (Module, {"optimizer": Decays}, r"step 0: the LR used for all is 0\.03, and the plan has 0\.0333333"),
        (MakesNoStep, {}, r"step 0: MakesNoStep\.optimizer_step did not call optimizer\.step"),
        (TurnsToHand, {}, r"step 0: TurnsToHand has switched to another optimization"),
        (SkipsAll, {}, r"nothing was trained: in none of the 21 steps did a parameter have a gradient"),
    ],
)
def test_a_deviation_from_the_plan_ends_the_run(
    kind: type[Module], changes: dict[str, Any], message: str, train: Any, tmp_path: Path
) -> None:
    with pytest.raises(LrflowError, match=message):
        train(tmp_path, module=kind(), data=Data(), **OPTIONS | changes)


def test_a_run_that_never_trained_has_not_finished_when_it_is_resumed(train: Any, tmp_path: Path) -> None:
    with pytest.raises(LrflowError, match="nothing was trained"):
        train(tmp_path, module=SkipsAll(), data=Data(), save_every="7 steps", **OPTIONS)
    (*_, newest) = sorted((tmp_path / "checkpoints").glob("step-*.ckpt"))
    assert newest.name == "step-0000014.ckpt"  # the end was not saved
    with pytest.raises(LrflowError, match="nothing was trained"):
        train(tmp_path, module=SkipsAll(), data=Data(), resume=newest, **OPTIONS)


class Factor(pl.Callback):
    """Replaces a feedback: its factor is part of the expected LR."""

    factors: ClassVar = [0.5, 2.0, 1.0]

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, PlanScheduler)
        scheduler.feedback = self.factors[trainer.global_step % 3]


@pytest.mark.parametrize("tensor_lr", [False, True])
def test_the_feedbacks_factor_is_part_of_the_expected_lr(tensor_lr: bool, train: Any, tmp_path: Path) -> None:
    run = train(tmp_path, module=Module(), data=Data(), callbacks=[Factor()], tensor_lr=tensor_lr, **OPTIONS)
    due = [lr * Factor.factors[step % 3] for step, (lr,) in enumerate(run.plan.lr(np.arange(21)).tolist())]
    assert run.column("lr/all") == pytest.approx(due, rel=1e-6)
