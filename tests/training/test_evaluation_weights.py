"""A schedule-free run validates, saves and returns the average, and validation does not change its training."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, WeightedRandomSampler
from torchmetrics import MeanMetric

from lrflow.config import compose
from lrflow.data import ordered
from lrflow.errors import ConfigError, StoppedError
from lrflow.optimizers.routed import Routed, member_optimizers
from lrflow.schedules import Constant, Schedule
from lrflow.tasks import train as train_task
from lrflow.training import EvaluationWeights, Supervised
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.training.interrupt import StopRequest

schedulefree = pytest.importorskip("schedulefree")

BETA = 0.9
ADAMW = {
    "optimizer": schedulefree.AdamWScheduleFree,
    "settings": {"betas": (BETA, 0.99), "weight_decay": 0.1},
    "schedule": Schedule(Constant(), warmup="10%"),
}
SGD = {
    "optimizer": schedulefree.SGDScheduleFree,
    "settings": {"momentum": BETA, "weight_decay": 0.01},
    "schedule": Schedule(Constant(), warmup="10%"),
    "lr": 0.5,
}
RADAM = {**ADAMW, "optimizer": schedulefree.RAdamScheduleFree}
ARRANGEMENTS: dict[str, dict[str, Any]] = {
    "AdamW": {**ADAMW, "save_every": "4 steps"},
    "AdamW, validated every 5 steps": {**ADAMW, "val_every": "5 steps", "save_every": "3 steps"},
    "AdamW, accumulated": {**ADAMW, "accumulate": 3, "val_every": "0.5 epochs", "save_every": "2 steps"},
    "SGD, never validated": {**SGD, "val_size": 0, "monitor": None, "save_every": "3 steps"},
    "SGD, last batch dropped": {**SGD, "drop_last": True, "save_every": "1 epoch"},
    "RAdam": {**RADAM, "save_every": "4 steps"},
    "SPlus, which keeps an average of its own": {
        "optimizer": pytest.importorskip("pytorch_optimizer").SPlus,
        "settings": {"weight_decay": 0.01, "ema_rate": 0.9},
        "schedule": Schedule(Constant()),
        "lr": 0.1,
        "val_every": "5 steps",
        "save_every": "3 steps",
    },
}


def stable() -> Supervised:
    """A network with BatchNorm and without random numbers."""
    torch.manual_seed(3)
    network = nn.Sequential()
    body = (nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU())
    network.add_module("body", nn.Sequential(*body))
    network.add_module("head", nn.Linear(8, 3))
    return Supervised(network, "cross_entropy")


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def training_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights and buffers from which a checkpoint resumes training."""
    content = read_checkpoint(path)
    return {**content["state_dict"], **content["lrflow"]["training"]}


def last(run: Any) -> Path:
    assert run.newest is not None
    return run.newest


def assert_same_end(run: Any, reference: Any) -> None:
    assert run.rows() == reference.rows()
    assert equal(run.weights, reference.weights)
    ours, theirs = read_checkpoint(last(run)), read_checkpoint(last(reference))
    assert equal(ours["state_dict"], theirs["state_dict"])
    assert equal(ours["lrflow"]["training"], theirs["lrflow"]["training"])
    one, other = ours["optimizer_states"][0], theirs["optimizer_states"][0]
    assert one["param_groups"] == other["param_groups"]
    torch.testing.assert_close(one["state"], other["state"], rtol=0.0, atol=0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"folder": tmp_path_factory.mktemp("whole")}


@pytest.fixture
def uninterrupted(whole: dict[str, Any], train: Any) -> Any:
    def get(arrangement: str) -> Any:
        if arrangement not in whole:
            folder = whole["folder"] / str(len(whole))
            whole[arrangement] = train(folder, **{**ARRANGEMENTS[arrangement], "save_every": "1 step"})
        return whole[arrangement]

    return get


class TestResume:
    @pytest.mark.parametrize(
        ("arrangement", "cut"),
        # Each arrangement is interrupted twice: within, just after, or at the end of an epoch, in turn.
        [(name, cut) for i, name in enumerate(ARRANGEMENTS) for cut in (5, 8, 14) if cut != (5, 8, 14)[i % 3]],
    )
    def test_an_interrupted_run_resumes_exactly(
        self, arrangement: str, cut: int, train: Any, uninterrupted: Any, tmp_path: Path
    ) -> None:
        options = ARRANGEMENTS[arrangement]
        broken = train(tmp_path, interrupt=cut, **options)
        if broken.newest is not None:
            assert_same_end(train(tmp_path, resume=broken.newest, **options), uninterrupted(arrangement))

    @pytest.mark.parametrize("step", [1, 5, 11, 21])
    def test_a_checkpoint_of_any_step_resumes_exactly(
        self, step: int, train: Any, uninterrupted: Any, tmp_path: Path
    ) -> None:
        arrangement = "AdamW, validated every 5 steps"
        reference = uninterrupted(arrangement)
        shutil.copytree(reference.folder, tmp_path / "run")
        checkpoint = tmp_path / "run" / "checkpoints" / f"step-{step:07d}.ckpt"
        assert_same_end(train(tmp_path / "run", resume=checkpoint, **ARRANGEMENTS[arrangement]), reference)

    def test_a_run_stopped_between_checkpoints_resumes_exactly(
        self, train: Any, prepare: Any, uninterrupted: Any, tmp_path: Path
    ) -> None:
        class Stop(pl.Callback):
            def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
                if trainer.global_step == 9:
                    os.kill(os.getpid(), signal.SIGTERM)

        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
        try:
            with pytest.raises(StoppedError):
                prepare(tmp_path, callbacks=[Stop()], stop=StopRequest(), **ARRANGEMENTS["AdamW"]).fit()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        checkpoint = tmp_path / "checkpoints" / "step-0000010.ckpt"
        assert_same_end(train(tmp_path, resume=checkpoint, **ARRANGEMENTS["AdamW"]), uninterrupted("AdamW"))


class TestTraining:
    def test_it_equals_a_loop_that_never_evaluates(self, train: Any, points: Any, tmp_path: Path) -> None:
        run = train(tmp_path, module=stable(), val_every="2 steps", save_every="3 steps", **ADAMW)

        reference = stable().model
        named = dict(reference.named_parameters())
        groups = [
            {"params": [named[name] for name, _ in group.parameters], "weight_decay": group.weight_decay}
            for group in run.groups
        ]
        optimizer = schedulefree.AdamWScheduleFree(groups, betas=(BETA, 0.99))
        data = points()
        data.setup()
        loader: Any = ordered(data.train_dataloader(), seed=0)
        optimizer.train()
        for step in range(21):
            if step % 7 == 0:
                loader.batch_sampler.set_epoch(step // 7)
                batches = iter(loader)
            for group, lr in zip(optimizer.param_groups, run.plan.lr(step), strict=True):
                group["lr"] = float(lr)
            inputs, targets = next(batches)
            optimizer.zero_grad()
            functional.cross_entropy(reference(inputs), targets).backward()
            optimizer.step()
        trained = training_state(last(run))
        assert all(torch.equal(trained[f"model.{name}"], tensor) for name, tensor in reference.state_dict().items())
        optimizer.eval()
        assert all(torch.equal(run.weights[f"model.{name}"], tensor) for name, tensor in named.items())

    @pytest.mark.parametrize("val_every", ["1 step", "2 epochs"])
    def test_the_frequency_of_validation_does_not_change_training(
        self, val_every: str, train: Any, uninterrupted: Any, tmp_path: Path
    ) -> None:
        run, reference = train(tmp_path, val_every=val_every, save_every="5 steps", **ADAMW), uninterrupted("AdamW")
        assert run.column("train/loss") == reference.column("train/loss")
        assert equal(training_state(last(run)), training_state(last(reference)))
        assert equal(run.weights, reference.weights)

    def test_nor_with_a_loader_with_its_own_order(self, train: Any, points: Any, tmp_path: Path) -> None:
        """A loader that draws from the global generators, as the training does."""

        class Weighted(points):
            def train_dataloader(self) -> Any:
                sampler = WeightedRandomSampler(torch.linspace(1, 2, 104), 104)  # type: ignore[arg-type]
                return DataLoader(self.train_set, 16, sampler=sampler)

        often, seldom = (
            train(tmp_path / every[0], data=Weighted(val_size=32), val_every=every, **ADAMW)
            for every in ("2 steps", "3 epochs")
        )
        assert often.record.batches == seldom.record.batches
        assert equal(training_state(last(often)), training_state(last(seldom)))

    def test_the_number_of_estimating_batches_does_not_change_training(
        self, train: Any, uninterrupted: Any, tmp_path: Path
    ) -> None:
        run, reference = train(tmp_path, batch_norm_batches=0, **ADAMW), uninterrupted("AdamW")
        assert equal(training_state(last(run)), training_state(last(reference)))
        assert run.column("val/loss") != reference.column("val/loss")
        buffers = dict(run.module.named_buffers())
        assert all(torch.equal(buffers[name], training_state(last(run))[name]) for name in buffers)


class TestCheckpoint:
    def test_it_holds_the_average(self, uninterrupted: Any) -> None:
        run = uninterrupted("AdamW")
        content = read_checkpoint(run.saved[8])
        state = content["optimizer_states"][0]
        assert not any(group["train_mode"] for group in state["param_groups"])
        names = [name for group in content["lrflow"]["groups"] for name in group]
        for index, name in enumerate(names):
            y, z = content["lrflow"]["training"][f"model.{name}"], state["state"][index]["z"]
            x = (y - (1 - BETA) * z) / BETA
            assert torch.allclose(content["state_dict"][f"model.{name}"], x, atol=1e-6)
            assert not torch.equal(y, x)

    def test_its_statistics_are_those_of_an_independent_estimate(self, train: Any, points: Any, tmp_path: Path) -> None:
        run = train(tmp_path, module=stable(), save_every="5 steps", **ADAMW)
        data = points()
        data.setup()
        batches = list(ordered(data.train_dataloader(), seed=0))[:4]
        for path in run.saved:
            saved = read_checkpoint(path)["state_dict"]
            module = stable()
            module.load_state_dict(saved)
            update_bn(batches, module.model)
            assert equal(module.state_dict(), saved)
            trained = training_state(path)
            assert not torch.equal(trained["model.body.1.running_mean"], saved["model.body.1.running_mean"])

    @pytest.mark.parametrize("arrangement", ["AdamW, validated every 5 steps", "AdamW, accumulated"])
    def test_its_evaluation_equals_that_of_the_run(
        self, arrangement: str, uninterrupted: Any, network_of_points: Any, points: Any
    ) -> None:
        run = uninterrupted(arrangement)
        found = {int(row["step"]): float(row["val/loss"]) for row in run.rows() if row["val/loss"]}
        compared = 0
        for path in [*run.saved, run.folder / "checkpoints" / "best.ckpt"]:
            step = read_checkpoint(path)["global_step"]
            if step - 1 not in found:  # rows carry the previous step
                continue
            trainer = pl.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
            module = Supervised(network_of_points(), "cross_entropy")
            (again,) = trainer.validate(module, datamodule=points(), ckpt_path=path, verbose=False, weights_only=True)
            assert again["val/loss"] == found[step - 1]
            compared += 1
        assert compared >= 4

    def test_the_module_ends_with_the_evaluation_weights(self, uninterrupted: Any) -> None:
        for arrangement in ("AdamW", "SGD, never validated"):
            run = uninterrupted(arrangement)
            assert equal(run.weights, read_checkpoint(last(run))["state_dict"])


class Own(pl.LightningModule):
    """A user's module without `forward`, with a frozen BatchNorm layer, a buffer, a metric and its own logging."""

    steps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.norm, self.frozen = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)
        self.register_buffer("steps", torch.zeros(()))
        self.seen = MeanMetric()

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.frozen(self.norm(self.first(inputs))).relu())

    def on_train_epoch_start(self) -> None:
        self.frozen.eval()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        assert self.trainer.training
        loss = functional.cross_entropy(self.logits(batch[0] + 0.01 * torch.randn(())), batch[1])
        self.steps += 1
        self.seen.update(loss)
        self.log("own/loss", loss)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("own/mean", self.seen.compute())
        self.seen.reset()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        assert not any(module.training for module in self.modules())
        self.log("val/loss", functional.cross_entropy(self.logits(batch[0]), batch[1]))


class TestUsersModule:
    @pytest.fixture(scope="class")
    def runs(self, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
        return {"folder": tmp_path_factory.mktemp("own")}

    def train(self, train: Any, runs: dict[str, Any], val_every: str) -> Any:
        if val_every not in runs:
            from lrflow.layers import Rule

            rules = [Rule("all", match="*")]
            folder = runs["folder"] / str(len(runs))
            runs[val_every] = train(folder, module=Own(), rules=rules, val_every=val_every, log_every=1, **ADAMW)
        return runs[val_every]

    def test_side_effects_of_its_step_are_undone(self, train: Any, runs: dict[str, Any]) -> None:
        often, seldom = (self.train(train, runs, every) for every in ("1 step", "3 epochs"))
        assert float(often.module.steps) == 21
        for name in ("own/loss", "own/mean", "train/loss"):
            assert often.column(name) == seldom.column(name)
            assert often.column(name)
        assert equal(training_state(last(often)), training_state(last(seldom)))

    def test_a_frozen_layer_keeps_its_statistics(self, train: Any, runs: dict[str, Any]) -> None:
        run = self.train(train, runs, "1 step")
        assert run.module.frozen.running_mean.abs().max() == 0
        assert run.module.frozen.num_batches_tracked == 0
        assert run.module.norm.num_batches_tracked == 4
        assert training_state(last(run))["norm.num_batches_tracked"] == 21

    def test_its_modes_are_restored(self, train: Any, runs: dict[str, Any]) -> None:
        run = self.train(train, runs, "1 step")
        assert run.module.norm.training
        assert not run.module.frozen.training
        assert "log" not in vars(run.module)


class TestOtherOptimizers:
    def test_without_modes_the_callback_removes_itself(self, train: Any, prepare: Any, tmp_path: Path) -> None:
        run = train(tmp_path)
        assert not any(isinstance(callback, EvaluationWeights) for callback in run.trainer.callbacks)
        assert "training" not in read_checkpoint(last(run))["lrflow"]

    def test_only_a_schedule_free_route_has_two_sets_of_weights(self, tmp_path: Path) -> None:
        """Trains hidden matrices with plain SGD, the rest schedule-free."""
        route = "optimizer.routes={muon: {_target_: torch.optim.SGD, lr: 0.05}}"
        model = (
            "model=cnn",
            "model.widths=[8,16]",
            "trainer.max_epochs=1",
            "trainer.progress=false",
            "task.test=false",
        )
        saving = ("trainer.accelerator=cpu", "trainer.checkpoint.every=6 steps", "trainer.checkpoint.keep=null")
        asked = ["optimizer=schedule_free_adamw", "layers=muon", route, *model, *saving, f"output={tmp_path}"]
        whole = Path(train_task.run(compose(asked))["folder"]) / "checkpoints"
        content = read_checkpoint(whole / "step-0000020.ckpt")
        routed = {f"model.{name}" for name in content["lrflow"]["groups"][-1]}
        differ = {name for name in content["lrflow"]["training"] if name.endswith(("weight", "bias"))}
        assert routed
        assert differ == {name for group in content["lrflow"]["groups"][:-1] for name in map("model.{}".format, group)}
        cut = whole / "step-0000006.ckpt"
        resumed = Path(train_task.run(compose([*asked, f"resume.from={cut}"]))["folder"]) / "checkpoints"
        again = read_checkpoint(resumed / "step-0000020.ckpt")
        assert equal(again["state_dict"], content["state_dict"])
        assert equal(again["lrflow"]["training"], content["lrflow"]["training"])

    def test_members(self) -> None:
        weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
        plain, free = torch.optim.SGD(weights[:1]), schedulefree.SGDScheduleFree(weights[1:])
        assert member_optimizers(plain) == {None: plain}
        assert member_optimizers(Routed({None: plain, "free": free})) == {None: plain, "free": free}

    def test_sharded_weights_are_rejected(self) -> None:
        class Strategy:
            restore_checkpoint_after_setup = True

        class Trainer:
            def __init__(self) -> None:
                self.optimizers = [schedulefree.SGDScheduleFree([nn.Parameter(torch.ones(2))])]
                self.strategy = Strategy()

        trainer: Any = Trainer()
        with pytest.raises(ConfigError, match=r"trainer\.strategy"):
            EvaluationWeights(1, 0).on_fit_start(trainer, Own())
