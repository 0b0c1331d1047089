"""Signals of every step, in rows and in blocks, compared with independent implementations."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional

import lrflow.training.signals
from lrflow.layers import Rule

ALL = [Rule("all", match="*")]


def windows(batches: int, accumulate: int) -> list[list[int]]:
    """Return the batches of each optimizer step of an epoch."""
    return [list(range(start, min(start + accumulate, batches))) for start in range(0, batches, accumulate)]


@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_lr_of_every_step_is_the_plans_bit_for_bit(
    accumulate: int, tensor_lr: bool, train: Any, tmp_path: Path
) -> None:
    run = train(tmp_path, accumulate=accumulate, tensor_lr=tensor_lr)
    steps = run.horizon.steps
    planned = run.plan.lr(np.arange(steps))
    assert steps == (9 if accumulate == 3 else 21)
    assert planned.shape == (steps, 3)
    assert not np.array_equal(planned[:, 1], planned[:, 2])  # head and body have different LRs
    assert [run.plan.lr(step).tolist() for step in range(steps)] == planned.tolist()

    names = [name for group in run.trainer.optimizers[0].param_groups for name in group["members"]]
    assert names == list(run.plan.names)
    assert run.record.rates == planned.tolist()  # read in the optimizer's step itself
    for index, name in enumerate(run.plan.names):
        assert run.column(f"lr/{name}") == planned[:, index].tolist()
        assert run.column(f"lr_planned/{name}") == planned[:, index].tolist()
    assert np.array_equal(np.concatenate([block.actual for block in run.blocks]), planned)


def test_merged_groups_keep_their_own_columns(train: Any, tmp_path: Path) -> None:
    rules = [Rule("first", match="body.0.*"), Rule("head", match="head.*", lr="10x"), Rule("rest", match="*")]
    run = train(tmp_path, rules=rules, max_epochs=1)
    assert [group["members"] for group in run.trainer.optimizers[0].param_groups] == [["first", "rest"], ["head"]]
    planned = run.plan.lr(np.arange(7))
    for index, name in enumerate(("first", "head", "rest")):
        assert run.column(f"lr/{name}") == planned[:, index].tolist()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_loss_of_a_step_is_the_mean_over_its_window(accumulate: int, train: Any, tmp_path: Path) -> None:
    run = train(tmp_path, accumulate=accumulate)
    losses = run.record.losses
    expected = [np.mean([losses[7 * e + i] for i in window]) for e in range(3) for window in windows(7, accumulate)]
    assert run.column("train/loss") == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (1, 0.01), (3, None), (3, 0.01)])
def test_the_gradient_norm_is_torchs_before_clipping(
    accumulate: int, clip: float | None, train: Any, tmp_path: Path
) -> None:
    norms: list[float] = []

    class Norm(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in module.parameters()])))

    run = train(tmp_path, accumulate=accumulate, clip=clip, callbacks=[Norm()])
    assert run.column("train/grad_norm") == pytest.approx(norms, rel=1e-6)
    assert len(norms) == run.horizon.steps
    assert max(norms) > 0.01


def test_one_row_per_step_in_order_with_validations_between(train: Any, tmp_path: Path) -> None:
    run = train(tmp_path, val_every="5 steps", log_every=4)
    rows = run.rows(timeless=False)
    training = [row for row in rows if row["train/loss"]]
    assert [int(row["step"]) for row in training] == list(range(21))
    assert all(row["train/step_time"] and row["train/grad_norm"] and not row["val/loss"] for row in training)
    assert [int(row["step"]) for row in rows if row["val/loss"]] == [4, 9, 14, 19, 20]  # and at the end
    assert [int(row["step"]) for row in rows] == sorted(int(row["step"]) for row in rows)


def test_blocks_are_consecutive(train: Any, tmp_path: Path) -> None:
    run = train(tmp_path, val_every="5 steps", log_every=4)

    assert run.blocks[0].first == 0
    assert all(after.first == before.first + len(before) for before, after in pairwise(run.blocks))
    assert run.blocks[-1].first + len(run.blocks[-1]) == run.horizon.steps
    assert all(1 <= len(block) <= 4 for block in run.blocks)
    for block in run.blocks:
        assert block.loss.shape == block.grad_norm.shape == block.seconds.shape == (len(block),)
        assert block.planned.shape == block.actual.shape == (len(block), 3)
        assert block.loss.dtype == block.actual.dtype == np.float64


class Clock:
    """Replaces the module `time`: time passes only when a test advances it."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(lrflow.training.signals, "time", made)
    return made


def test_validation_is_excluded_from_step_times(train: Any, tmp_path: Path, clock: Clock) -> None:
    class Slow(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            clock.now += 0.25

        def on_validation_batch_start(self, *_: Any) -> None:
            clock.now += 64.0

    run = train(tmp_path, max_epochs=2, callbacks=[Slow()])
    assert run.column("train/step_time") == [0.25] * 14
    assert clock.now == 14 * 0.25 + 4 * 64.0


def test_slow_steps_are_read_within_a_second(train: Any, tmp_path: Path, clock: Clock) -> None:
    class Slow(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            clock.now += 1.5 if trainer.global_step == 2 else 0.0

    run = train(tmp_path, max_epochs=1, log_every=1000, callbacks=[Slow()])
    assert [block.seconds.tolist() for block in run.blocks] == [[0.0, 0.0, 1.5], [0.0] * 4]


def test_collected_steps_are_written_when_a_run_fails(train: Any, tmp_path: Path) -> None:
    run = train(tmp_path, interrupt=6, log_every=1000, save_every=None)
    assert [int(row["step"]) for row in run.rows()] == list(range(6))


def test_a_resumed_run_continues_the_step_count(train: Any, tmp_path: Path) -> None:
    broken = train(tmp_path, interrupt=9, save_every="5 steps")
    resumed = train(tmp_path, resume=broken.newest)
    assert resumed.blocks[0].first == resumed.resumed.step == 7


class Own(pl.LightningModule):
    """A user's module, with its own training step."""

    def __init__(self, network: torch.nn.Module, step: Any) -> None:
        super().__init__()
        self.net = network
        self.step = step

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.step(self.net, batch, batch_idx)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_skipped_batches_are_not_counted(accumulate: int, train: Any, tmp_path: Path, network_of_points: Any) -> None:
    """Lightning lets a training step return a dict, or None to skip its batch."""

    def step(net: Any, batch: Any, batch_idx: int) -> Any:
        if batch_idx % 3 == 0:
            return None
        return {"loss": functional.cross_entropy(net(batch[0]), batch[1]), "more": torch.zeros(2)}

    module = Own(network_of_points(), step)
    run = train(tmp_path, module=module, rules=ALL, max_epochs=1, val_size=0, accumulate=accumulate)
    losses = dict(zip([1, 2, 4, 5], run.record.losses, strict=True))
    counted = [[losses[batch] for batch in window if batch in losses] for window in windows(7, accumulate)]
    expected = [np.mean(window) for window in counted if window]
    assert run.column("train/loss") == pytest.approx(expected, rel=1e-6)  # a skipped step leaves its cell empty
    skipped = np.concatenate([block.skipped for block in run.blocks]).tolist()
    assert skipped == [not window for window in counted]
    assert run.trainer.global_step == len(counted)  # Lightning counts skipped steps too
    assert [norm > 0 for norm in run.column("train/grad_norm")] == [bool(window) for window in counted]


def test_the_norm_of_sparse_gradients(train: Any, tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Embedding(2, 5, sparse=True), torch.nn.Linear(5, 3))
    norms = []

    def step(net: Any, batch: Any, batch_idx: int) -> Any:
        return functional.cross_entropy(net((batch[0][:, 0] > 0).long()), batch[1])

    class Norm(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            dense = [p.grad.to_dense().flatten() for p in module.parameters()]
            norms.append(float(torch.cat(dense).norm()))

    settings = {"optimizer": torch.optim.SGD, "settings": {"fused": False, "foreach": False}, "rules": ALL}
    run = train(tmp_path, module=Own(net, step), max_epochs=1, val_size=0, callbacks=[Norm()], **settings)
    assert run.column("train/grad_norm") == pytest.approx(norms, rel=1e-6)
