"""Resuming with another configuration: what is applied, reported and rejected."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lrflow.errors import ConfigError, LrflowError
from lrflow.layers import Rule
from lrflow.schedules import Constant, Cosine, Linear, Schedule
from lrflow.training import Supervised
from lrflow.training.resume import Resumed

UNIFORM = [Rule("all", match="*")]
LINEAR = {"schedule": Schedule(Linear(), floor=0.1), "rules": UNIFORM, "lr": 0.01}


@pytest.fixture
def broken(train: Any, tmp_path: Path) -> Any:
    """A run of 21 steps, interrupted after 10; one group, whose LR decays linearly to a tenth."""
    return train(tmp_path, interrupt=10, save_every="5 steps", val_size=0, **LINEAR)


def resume(train: Any, broken: Any, **changes: Any) -> Any:
    options = {"val_size": 0, **LINEAR, **changes}
    return train(broken.folder, resume=broken.folder / "checkpoints" / "step-0000010.ckpt", **options)


def line(step: np.ndarray, steps: int = 21) -> np.ndarray:
    """Return the planned LR, by its formula."""
    return 0.01 * (0.1 + 0.9 * (1 - step / steps))


class TestAnotherLength:
    """The run now has 5 epochs, 35 steps."""

    later = np.arange(10, 35)

    def lrs(self, run: Any) -> np.ndarray:
        """Return the LRs used from step 10 on, after checking that earlier rows did not change."""
        assert run.plan.lr(np.arange(10))[:, 0] == pytest.approx(line(np.arange(10)), rel=1e-12)
        assert run.trainer.global_step == 35
        assert run.record.rates == run.plan.lr(self.later).tolist()
        assert run.column("lr/all") == run.plan.lr(np.arange(35))[:, 0].tolist()
        return np.array(run.record.rates)[:, 0]

    def test_keep(self, train: Any, broken: Any) -> None:
        lrs = self.lrs(resume(train, broken, max_epochs=5, how="keep"))
        assert lrs == pytest.approx(line(np.minimum(self.later, 21)), rel=1e-12)

    def test_rescale(self, train: Any, broken: Any) -> None:
        lrs = self.lrs(resume(train, broken, max_epochs=5, how="rescale"))
        assert lrs == pytest.approx(line(self.later, 35), rel=1e-12)

    def test_extend(self, train: Any, broken: Any) -> None:
        lrs = self.lrs(resume(train, broken, max_epochs=5, how="extend"))
        assert lrs == pytest.approx(line(10 + (self.later - 10) * 11 / 25), rel=1e-12)

    def test_decay_now(self, train: Any, broken: Any) -> None:
        lrs = self.lrs(resume(train, broken, max_epochs=5, how="decay_now"))
        top = line(np.array(10.0))
        assert lrs == pytest.approx(0.001 + (top - 0.001) * (35 - self.later) / 25, rel=1e-12)

    def test_rewarm(self, train: Any, broken: Any) -> None:
        lrs = self.lrs(resume(train, broken, max_epochs=5, how="rewarm"))
        assert lrs == pytest.approx(line(self.later - 10, 25), rel=1e-12)

    def test_a_shorter_run(self, train: Any, broken: Any) -> None:
        run = resume(train, broken, max_epochs=2, how="decay_now")
        assert run.trainer.global_step == 14
        assert run.record.rates[0][0] == pytest.approx(float(line(np.array(10.0))), rel=1e-12)

    def test_the_data_continues_at_its_position(self, train: Any, broken: Any, tmp_path: Path) -> None:
        whole = train(tmp_path / "whole", max_epochs=5, val_size=0, **LINEAR)
        run = resume(train, broken, max_epochs=5, how="keep")
        assert run.record.batches == whole.record.batches[10:]

    def test_without_a_choice_the_error_lists_the_choices_with_their_lrs(self, train: Any, broken: Any) -> None:
        with pytest.raises(ConfigError) as caught:
            resume(train, broken, max_epochs=5)
        (problem,) = caught.value.problems
        assert problem.key == "resume.horizon"
        assert "the run was 21 steps long and is 35 now" in problem.message
        now, kept = line(np.array([9, 10])), line(np.array([21]))
        ends = {
            "keep": kept[0],
            "rescale": line(np.array(34), 35),
            "extend": line(np.array(10 + 24 * 11 / 25)),
            "decay_now": 0.001 + (now[1] - 0.001) / 25,
            "rewarm": line(np.array(24), 25),
        }
        starts = {**dict.fromkeys(ends, now[1]), "rescale": line(np.array(10), 35), "rewarm": line(np.array(0), 25)}
        expected = [f"the LR of step 9 was {now[0]:.3g}"]
        expected += [f"resume.horizon={how}: LR {starts[how]:.3g} now, {ends[how]:.3g} at the end" for how in ends]
        assert [text.strip() for text in str(problem.hint).splitlines()] == expected

    def test_a_length_below_the_steps_done_is_rejected(self, train: Any, broken: Any) -> None:
        with pytest.raises(ConfigError, match="the checkpoint is at step 10, and the run now ends at 7"):
            resume(train, broken, max_epochs=1, how="keep")

    def test_interrupted_again_it_needs_no_second_choice(self, train: Any, broken: Any, tmp_path: Path) -> None:
        whole = resume(train, broken, max_epochs=5, how="extend")
        again = tmp_path / "again"
        shutil.copytree(broken.folder / "checkpoints", again / "checkpoints")
        second = train(
            again,
            resume=again / "checkpoints" / "step-0000010.ckpt",
            interrupt=6,
            max_epochs=5,
            how="extend",
            save_every="2 steps",
            val_size=0,
            **LINEAR,
        )
        third = train(again, resume=second.newest, max_epochs=5, val_size=0, **LINEAR)
        assert third.plan.fingerprint == whole.plan.fingerprint
        assert third.record.rates == whole.record.rates[third.resumed.step - 10 :]

    def test_resumed_longer_twice(self, train: Any, broken: Any) -> None:
        once = train(
            broken.folder,
            resume=broken.newest,
            interrupt=10,
            max_epochs=5,
            how="keep",
            save_every="5 steps",
            val_size=0,
            **LINEAR,
        )
        assert once.newest.name == "step-0000020.ckpt"
        twice = train(broken.folder, resume=once.newest, max_epochs=7, how="decay_now", val_size=0, **LINEAR)
        assert twice.trainer.global_step == 49
        steps = np.arange(49)
        top = line(np.array(20.0))
        expected = np.where(steps < 20, line(steps), 0.001 + (top - 0.001) * (49 - steps) / 29)
        assert twice.column("lr/all") == pytest.approx(expected, rel=1e-12)

    def test_groups_with_their_own_schedules_are_continued(self, train: Any, tmp_path: Path) -> None:
        rules = [Rule("head", match="head.*", schedule=Schedule(Cosine())), Rule("body", match="*")]
        options = {"rules": rules, "val_size": 0, "schedule": Schedule(Constant())}
        first = train(tmp_path, interrupt=10, save_every="5 steps", **options)
        run = train(tmp_path, resume=first.newest, max_epochs=5, how="extend", **options)
        old = first.plan.lr(10 + (self.later - 10) * 11 / 25)
        assert run.record.rates == pytest.approx(np.array(old)[:, [run.plan.names.index("head"), 1]], rel=1e-9)


class TestAnotherConfiguration:
    def test_a_changed_lr_is_applied_and_reported(self, train: Any, broken: Any) -> None:
        run = resume(train, broken, lr=0.002)
        assert np.array(run.record.rates)[:, 0] == pytest.approx(line(np.arange(10, 21)) / 5, rel=1e-12)
        assert run.column("lr/all")[10:] == [rates[0] for rates in run.record.rates]
        told = run.resumed.describe(run.plan, run.options.config())
        before, now = line(np.array(10.0)), line(np.array(10.0)) / 5
        assert f"LR at step 10 was to be {before:.3g}, is {now:.3g}" in told
        assert "optimizer.lr: 0.01 -> 0.002" in told

    def test_a_changed_schedule_is_applied(self, train: Any, broken: Any) -> None:
        run = resume(train, broken, schedule=Schedule(Constant()))
        assert {rate for (rate,) in run.record.rates} == {0.01}

    def test_unchanged_settings_are_not_reported(self, train: Any, broken: Any) -> None:
        run = resume(train, broken)
        told = run.resumed.describe(run.plan, run.options.config())
        assert told == f"resumed from {run.resumed.path} at step 10 of 21"

    def test_changed_settings_of_the_optimizer_are_applied(self, train: Any, broken: Any) -> None:
        """Lightning takes them from the checkpoint and ignores the configuration (2.6.6)."""
        run = resume(train, broken, settings={"weight_decay": 0.5, "betas": (0.8, 0.95), "fused": False})
        (group,) = run.trainer.optimizers[0].param_groups
        assert (group["weight_decay"], tuple(group["betas"]), bool(group["fused"])) == (0.5, (0.8, 0.95), False)
        told = run.resumed.describe(run.plan, run.options.config())
        assert "optimizer.weight_decay: 0.1 -> 0.5" in told

    @pytest.mark.parametrize("tensor_lr", [True, False])
    def test_an_lr_becomes_a_tensor_or_a_float(self, tensor_lr: bool, train: Any, tmp_path: Path) -> None:
        """This happens when `trainer.compile` is switched on or off; the run is the same, bit for bit."""
        first = train(tmp_path, interrupt=10, save_every="5 steps", tensor_lr=not tensor_lr)
        run = train(tmp_path, resume=first.newest, tensor_lr=tensor_lr)
        rates = [group["lr"] for group in run.trainer.optimizers[0].param_groups]
        assert [isinstance(rate, torch.Tensor) for rate in rates] == [tensor_lr] * 3
        assert run.record.rates == run.plan.lr(np.arange(10, 21)).tolist()

    def test_the_moments_come_from_the_checkpoint(self, train: Any, broken: Any) -> None:
        moments: list[float] = []

        class Look(pl.Callback):
            def on_train_start(self, trainer: Any, *_: Any) -> None:
                state = trainer.optimizers[0].state.values()
                moments.extend(float(one["exp_avg_sq"].sum()) for one in state)
                assert {float(one["step"]) for one in state} == {10.0}

        resume(train, broken, settings={"weight_decay": 0.5, "fused": False}, callbacks=[Look()])
        assert all(value > 0 for value in moments)

    def test_a_weight_decay_of_a_rule_is_applied(self, train: Any, tmp_path: Path) -> None:
        def rules(decay: float) -> list[Rule]:
            return [Rule("head", match="head.*", weight_decay=decay), Rule("rest", match="*")]

        first = train(tmp_path, interrupt=10, save_every="5 steps", rules=rules(0.0))
        run = train(tmp_path, resume=first.newest, rules=rules(0.3))
        assert [group["weight_decay"] for group in run.trainer.optimizers[0].param_groups] == [0.3, 0.1]

    def test_renamed_groups(self, train: Any, broken: Any) -> None:
        run = resume(train, broken, rules=[Rule("everything", match="*")])
        assert run.column("lr/everything") == [rates[0] for rates in run.record.rates]
        (group,) = run.trainer.optimizers[0].param_groups
        assert (group["name"], group["members"]) == ("everything", ["everything"])

    def test_regrouped_parameters_keep_their_momentum(self, train: Any, broken: Any, tmp_path: Path) -> None:
        """Groups only change settings: with equal settings the run is the same, bit for bit."""
        split = [Rule("head", match="head.*", lr="2x"), Rule("rest", match="*")]
        moments: dict[str, torch.Tensor] = {}

        class Look(pl.Callback):
            def on_train_start(self, trainer: Any, module: Any) -> None:
                names = {parameter: name for name, parameter in module.named_parameters()}
                for parameter, state in trainer.optimizers[0].state.items():
                    moments[names[parameter]] = state["exp_avg"].clone()

        resume(train, broken, rules=UNIFORM, callbacks=[Look()])
        before = dict(moments)
        moments.clear()
        run = resume(train, broken, rules=split, callbacks=[Look()])
        assert moments.keys() == before.keys()
        assert len(moments) == 6
        assert all(torch.equal(moments[name], before[name]) for name in before)
        lrs = np.array(run.record.rates[:11])
        assert lrs[:, 0] == pytest.approx(2 * lrs[:, 1], rel=1e-12)

    def test_a_frozen_group_is_unfrozen(self, train: Any, tmp_path: Path) -> None:
        frozen = [Rule("body", match="body.*", freeze=True), Rule("head", match="*")]
        first = train(tmp_path, interrupt=10, save_every="5 steps", rules=frozen)
        run = train(tmp_path, resume=first.newest, rules=UNIFORM)
        assert run.trainer.global_step == 21
        state = run.trainer.optimizers[0].state
        steps = {name: float(state[parameter]["step"]) for name, parameter in run.module.model.named_parameters()}
        assert steps["head.weight"] == 21
        assert steps["body.0.weight"] == 11

    def test_another_optimizer_is_rejected(self, train: Any, broken: Any) -> None:
        with pytest.raises(LrflowError, match="another optimizer"):
            resume(train, broken, optimizer=torch.optim.SGD, settings={"momentum": 0.9})

    def test_a_first_order_optimizer_rejects_another_state(self, train: Any, tmp_path: Path) -> None:
        options = {"optimizer": torch.optim.SGD, "settings": {"momentum": 0.9}}
        first = train(tmp_path, interrupt=10, save_every="5 steps", **options)
        with pytest.raises(LrflowError, match="another optimizer"):
            train(tmp_path, resume=first.newest)

    def test_momentum_can_be_added(self, train: Any, tmp_path: Path) -> None:
        plain = {"optimizer": torch.optim.SGD, "settings": {"momentum": 0.0}}
        first = train(tmp_path, interrupt=10, save_every="5 steps", **plain)
        run = train(tmp_path, resume=first.newest, optimizer=torch.optim.SGD, settings={"momentum": 0.9})
        assert run.trainer.global_step == 21

    def test_another_model_is_rejected(self, train: Any, broken: Any) -> None:
        other = Supervised(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)), "cross_entropy")
        with pytest.raises(LrflowError) as caught:
            resume(train, broken, module=other)
        told = str(caught.value)
        assert told.startswith(f"{broken.newest}: another model than the one to be trained")
        assert "model.0.weight: absent in the checkpoint, 5x6 in the model" in told
        assert len(told.splitlines()) == 7  # five of them and an ellipsis

    def test_epochs_of_another_length_need_a_choice(self, train: Any, tmp_path: Path) -> None:
        options = {"max_epochs": -1, "max_steps": 18, "val_size": 0, **LINEAR}
        first = train(tmp_path, interrupt=10, save_every="7 steps", **options)
        with pytest.raises(ConfigError, match="an epoch was 7 steps long and is 13 now"):
            train(tmp_path, resume=first.newest, batch_size=8, **options)


class TestEpochsOfAnotherLength:
    """The position is counted in batches, so only a run at an epoch's end can resume with other batches."""

    @pytest.mark.parametrize(
        ("change", "left"), [({"batch_size": 8}, 13), ({"accumulate": 3}, 3), ({"drop_last": True}, 6)]
    )
    def test_the_plan_ends_with_the_run(self, change: Any, left: int, train: Any, tmp_path: Path) -> None:
        first = train(tmp_path, interrupt=9, save_every="7 steps", val_size=0, **LINEAR)
        options = {"how": "rescale", "val_size": 0, **LINEAR, **change}
        run = train(tmp_path, resume=first.newest, **options)
        assert run.horizon.steps == run.trainer.global_step == 7 + 2 * left
        assert run.record.rates == run.plan.lr(np.arange(7, 7 + 2 * left)).tolist()
        assert run.record.rates[-1][0] == pytest.approx(line(np.array(6 + 2 * left), 7 + 2 * left), rel=1e-12)

    def test_interrupted_again_it_has_the_same_end(self, train: Any, tmp_path: Path) -> None:
        first = train(tmp_path, interrupt=9, save_every="7 steps", val_size=0, **LINEAR)
        options = {"val_size": 0, "batch_size": 8, **LINEAR}
        second = train(tmp_path, resume=first.newest, interrupt=5, how="rescale", save_every="1 step", **options)
        third = train(tmp_path, resume=second.newest, **options)
        assert third.trainer.global_step == third.horizon.steps == second.horizon.steps == 33
        assert third.plan.fingerprint == second.plan.fingerprint

    @pytest.mark.parametrize(
        ("change", "now"),
        [
            ({"batch_size": 8}, "13 of 1"),
            ({"batch_size": 8, "accumulate": 2}, "7 of 2"),  # as many steps, but of other batches
            ({"batch_size": 8, "max_epochs": -1, "max_steps": 21}, "13 of 1"),
        ],
    )
    def test_within_an_epoch_it_is_rejected(self, change: Any, now: str, train: Any, broken: Any) -> None:
        with pytest.raises(ConfigError) as caught:
            resume(train, broken, how="keep", **change)
        (problem,) = caught.value.problems
        assert problem.key == "resume.from"
        assert f"within an epoch of 7 steps of 1 batch, but an epoch now has {now}:" in problem.message


class TestWhatIsRead:
    def test_fields_of_a_checkpoint(self, broken: Any) -> None:
        resumed = Resumed.read(broken.newest)
        assert (resumed.step, resumed.position.seen, resumed.path) == (10, 10, broken.newest)
        assert resumed.plan.fingerprint == broken.plan.fingerprint
        assert resumed.config == broken.options.config()
        assert resumed.shapes["model.head.weight"] == [3, 12]
        assert resumed.branches == ()

    def test_whether_it_is_the_newest(self, broken: Any, tmp_path: Path) -> None:
        first, last = broken.saved
        assert [Resumed.read(path).is_newest for path in (first, last)] == [False, True]
        elsewhere = tmp_path / "elsewhere.ckpt"
        elsewhere.write_bytes(last.read_bytes())
        assert not Resumed.read(elsewhere).is_newest
