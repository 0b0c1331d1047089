"""A run returns to its own earlier state exactly, and one that is killed around that ends as the one that was not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import schedulefree
import torch
from small_runs import Points

from lrflow.clip import AdaGC, Skip
from lrflow.data.module import Examples
from lrflow.errors import DivergedError
from lrflow.health.recover import Recover
from lrflow.layers import Rule
from lrflow.plan.averaging import Averaging
from lrflow.runs import RunFolder
from lrflow.training import Block
from lrflow.training.checkpoint_file import AtomicCheckpointIO
from lrflow.training.monitor import Monitor
from lrflow.training.recovery import Changes, Recovery, Request
from lrflow.training.resume import Resumed
from lrflow.training.rollback import Rollback, Snapshot, _keep_rows


class Unchanged:
    """A policy that changes nothing, so that the run repeats its steps."""

    def __init__(self, times: int = 3) -> None:
        self.times = times

    def observe(self, block: Block) -> None: ...

    def respond(self, request: Request, past: Sequence[Recovery]) -> Changes:
        return Changes(request.since)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Asks(Monitor):
    """Asks for rollbacks, one after the other: pairs of the step at which it does, and the first in question."""

    def __init__(self, *requests: tuple[int, int]) -> None:
        self.left = list(requests)

    def on_block(self, trainer: Any, block: Block) -> None:
        if self.left and self.left[0][0] < block.first + len(block) and not trainer.rollback.is_pending:
            step, since = self.left.pop(0)
            trainer.rollback.request(since, "a test", step)


REPEATED: dict[str, dict[str, Any]] = {
    "accumulated, validated within windows": {"accumulate": 3, "val_every": "0.5 epochs", "save_every": "2 steps"},
    "unfrozen within an epoch, and at its end": {
        "rules": (
            Rule("norm", match="body.*", select=["bias", "norm"], unfreeze=4, unfreeze_warmup=3),
            Rule("body", match="body.*", unfreeze="1 epoch"),
            Rule("head", match="head.*", lr="10x"),
        ),
        "save_every": "1 step",
    },
    "averaged from step 3": {"averaging": Averaging("ema", 3, 1, 21, decay=0.9), "save_every": "4 steps"},
    "schedule-free": {
        "optimizer": schedulefree.AdamWScheduleFree,
        "settings": {"weight_decay": 0.1},
        "save_every": "4 steps",
    },
    "clipped by the norms so far": {"guard": partial(AdaGC, max_norm=0.5, warmup=2), "save_every": "4 steps"},
    "outliers skipped": {"guard": partial(Skip, sigma=0.5, window=8), "save_every": "4 steps"},
}


def rolled_back(policy: Any, every: int = 3) -> Callable[..., Rollback]:
    """Return what makes the callback of a run."""
    return partial(Rollback, policy, every, 3)


def assert_equal(one: Any, other: Any) -> None:
    assert one.rows() == other.rows()
    assert one.weights.keys() == other.weights.keys()
    for name, tensor in other.weights.items():
        assert torch.equal(one.weights[name], tensor), name
    assert one.trainer.global_step == other.trainer.global_step == other.horizon.steps
    assert one.checkpoints.best == other.checkpoints.best


@pytest.mark.parametrize("name", REPEATED)
def test_a_rollback_that_changes_nothing_changes_nothing(name: str, train: Any, tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", **REPEATED[name])
    # From within an epoch, back over the end of one, and to the start of the run.
    asks = Asks((5, 4), (5, 0), (plain.horizon.steps - 1, plain.horizon.steps - 2))
    again = train(tmp_path / "again", rollback=rolled_back(Unchanged()), callbacks=[asks], **REPEATED[name])
    back = again.trainer.rollback
    assert [recovery.to for recovery in back.recoveries][:2] == [3, 0]
    assert len(back.recoveries) == 3
    assert not asks.left
    assert_equal(again, plain)


def test_the_rows_of_the_abandoned_steps_are_kept(train: Any, tmp_path: Path) -> None:
    train(tmp_path, rollback=rolled_back(Unchanged()), callbacks=[Asks((7, 5))])
    kept = (tmp_path / "rollbacks" / "1.csv").read_text().splitlines()
    assert kept[0].startswith("step,train/loss")
    assert [int(row.partition(",")[0]) for row in kept[1:5]] == [3, 4, 5, 6]


@pytest.mark.parametrize("content", [b"", b"\xff\n"])
def test_rows_that_cannot_be_read_end_no_run(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    Rollback(Unchanged(), 1, folder=RunFolder(tmp_path))._keep_rows(Recovery(7, 5, 3, 1.0, 0, "a test"))


def test_rows_that_a_killed_process_replaced_are_those_that_it_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text("step,loss\n" + "".join(f"{step},1\n" for step in range(12)))
    _keep_rows(folder, 1, 6, 0)
    kept = (tmp_path / "rollbacks" / "1.csv").read_text()
    assert kept == "step,loss\n" + "".join(f"{step},1\n" for step in range(6, 12))
    # It wrote rows 6 to 8 anew, was killed, and is resumed from step 10.
    again = [(step, 1 if step < 6 or step >= 10 else 2) for step in (*range(9), 10, 11)]
    folder.metrics.write_text("step,loss\n" + "".join(f"{step},{loss}\n" for step, loss in again))
    _keep_rows(folder, 1, 6, 10)
    assert (tmp_path / "rollbacks" / "1.csv").read_text() == kept


def test_snapshots_leave_a_full_disk_to_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    back = Rollback(Unchanged(), 1, folder=RunFolder(tmp_path))

    def save(self: Any, content: Any, path: Path) -> None:
        if "8" in path.name:
            raise OSError(28, "No space left on device")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", save)
    names = [f"rollbacks-0-step-000000{step}.ckpt" for step in (0, 4, 8)]
    for count in (1, 2, 3):  # a checkpoint is written after the first one, and fails after the second
        back._ring += [Snapshot(names[count - 1], {})]
        back.write()
        if count == 1:
            back.clean_up()
    assert [path.name for path in tmp_path.rglob("*.ckpt")] == names[:1]
    assert [one.is_written for one in back._ring] == [True, False, False]


def test_a_run_rolls_back_only_so_often(train: Any, tmp_path: Path) -> None:
    asks = Asks((4, 3), (8, 7), (9, 8))
    with pytest.raises(DivergedError) as caught:
        train(tmp_path, rollback=rolled_back(Unchanged(times=2)), callbacks=[asks])
    assert str(caught.value).splitlines() == [
        "step 9: a test; rolled back 2 times before",
        "    step 4: a test; back to step 3",
        "    step 8: a test; back to step 6",
    ]


class Poisoned(Points):
    """Some of its examples hold NaN: those of one batch in each epoch, wherever the order puts them."""

    def load(self) -> tuple[Examples, None]:
        examples, _ = super().load()
        inputs = examples.inputs.clone()
        inputs[40] = torch.nan
        return Examples(inputs, examples.targets), None


def recovering(skip: str = "batches", cut: float = 0.3) -> Callable[..., Rollback]:
    def make(**settings: Any) -> Rollback:
        return Rollback(Recover(cut, 2, 5, skip, 3), 3, 3, **settings)  # type: ignore[arg-type]

    return make


POISONED = {"save_every": "2 steps", "keep": 1, "monitor": None, "rollback": recovering()}


def test_batches_that_hold_nan_are_left_out_and_the_lr_stays(train: Any, tmp_path: Path) -> None:
    run = train(tmp_path, data=Poisoned(), max_epochs=12, **POISONED)
    back = run.trainer.rollback
    skipped = sorted({step for one in back.recoveries for step in one.skipped})
    assert len(skipped) == 12  # one per epoch
    assert [recovery.factor for recovery in back.recoveries] == [1]  # later epochs need no rollback
    assert back.facts["recovery"] == {"rollbacks": 1, "left_out": 12}
    rows = [row for row in run.rows() if row["lr/head"]]
    assert [int(row["step"]) for row in rows if not row["train/loss"]] == skipped
    assert [row["lr/head"] for row in rows] == [row["lr_planned/head"] for row in rows]
    assert all(torch.isfinite(tensor).all() for tensor in run.weights.values())


class Explodes(pl.Callback):
    """Makes the gradient of one batch of each epoch infinite; its loss is finite."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.is_bad = batch_idx == 5

    def on_after_backward(self, trainer: Any, module: Any) -> None:
        if self.is_bad:
            next(module.parameters()).grad.fill_(torch.inf)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_that_are_not_finite_cost_one_rollback(train: Any, tmp_path: Path, accumulate: int) -> None:
    settings = {**POISONED, "accumulate": accumulate, "callbacks": [Explodes()]}
    run = train(tmp_path / "whole", **settings)
    (recovery,) = run.trainer.rollback.recoveries
    epoch, bad = run.plan.horizon.steps_per_epoch, 5 // accumulate
    assert (recovery.step, recovery.skipped, recovery.factor) == (bad, [bad, bad + epoch, bad + 2 * epoch], 1.0)
    assert all(torch.isfinite(tensor).all() for tensor in run.weights.values())
    rows = [row for row in run.rows() if row["lr/head"]]
    assert [float(rows[step]["train/grad_norm"]) for step in recovery.skipped] == [0.0] * 3

    broken = train(tmp_path / "killed", interrupt=bad + epoch + 2, **settings)
    assert_equal(train(tmp_path / "killed", resume=broken.newest, **settings), run)


def test_a_run_that_is_killed_around_a_rollback_ends_as_one_that_is_not(train: Any, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", data=Poisoned(), **POISONED)
    for cut in (9, 16):
        folder = tmp_path / str(cut)
        broken = train(folder, interrupt=cut, data=Poisoned(), **POISONED)
        resumed = train(folder, resume=broken.newest, data=Poisoned(), **POISONED)
        assert_equal(resumed, whole)
        one, other = (run.trainer.rollback for run in (resumed, whole))
        assert one.facts == other.facts
        assert [snapshot.name for snapshot in one._ring] == [snapshot.name for snapshot in other._ring]
        files = [sorted(path.name for path in run.folder.rglob("checkpoints/**/*")) for run in (resumed, whole)]
        assert files[0] == files[1]


def test_an_lr_that_is_much_too_high_is_cut_until_it_is_not(train: Any, tmp_path: Path) -> None:
    settings = {"lr": 1e4, "optimizer": torch.optim.SGD, "settings": {}, "max_epochs": 6}
    with pytest.raises(DivergedError):
        train(
            tmp_path / "dies", rollback=lambda **given: Rollback(Recover(0.1, 2, 1, "none", 3), 3, **given), **settings
        )
    run = train(tmp_path / "lives", rollback=recovering(cut=0.01), **settings)
    back = run.trainer.rollback
    rows = [row for row in run.rows() if row["lr/head"]]
    ratios = [float(row["lr/head"]) / float(row["lr_planned/head"]) for row in rows if float(row["lr_planned/head"])]
    assert ratios[-1] == pytest.approx(back.recoveries[-1].factor)
    assert back.recoveries[-1].to == 0
    assert min(ratios) < ratios[-1]
    assert Resumed.read(run.newest).recovered == back.recoveries[-1].factor
