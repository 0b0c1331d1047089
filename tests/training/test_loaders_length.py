"""The length of a run from any kind of loaders, and its end after a number of samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lrflow.config import compose
from lrflow.errors import ConfigError, Problem
from lrflow.plan import Plan
from lrflow.schedules import Horizon
from lrflow.tasks import train
from lrflow.training.loaders import check_intervals, count_horizon
from lrflow.training.resume import Resumed


class Data(pl.LightningDataModule):
    def __init__(self, loaders: Any) -> None:
        super().__init__()
        self.loaders = loaders

    def train_dataloader(self) -> Any:
        return self.loaders


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        yield torch.zeros(1)


def loader(batches: int) -> DataLoader:
    return DataLoader(TensorDataset(torch.zeros(batches, 1)), 1)


@pytest.mark.parametrize(
    ("loaders", "steps_per_epoch"),
    [
        (lambda: loader(7), 7),
        (lambda: [loader(7), loader(19)], 19),
        (lambda: {"a": loader(19), "b": loader(7)}, 19),
        (lambda: CombinedLoader([loader(7), loader(19)], "min_size"), 7),
    ],
    ids=["one", "list", "dict", "the shortest"],
)
def test_an_epoch_is_as_long_as_lightning_makes_it(loaders: Any, steps_per_epoch: int) -> None:
    config = compose(["trainer.max_epochs=2"])
    data = Data(loaders())
    horizon = count_horizon(config, data, 1)
    assert (horizon.steps, horizon.steps_per_epoch) == (2 * steps_per_epoch, steps_per_epoch)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.weight.sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(Module(), datamodule=data)
    assert trainer.global_step == horizon.steps


def test_a_stream_needs_a_number_of_steps() -> None:
    stream = Data(DataLoader(Stream()))
    with pytest.raises(ConfigError, match=r"trainer\.max_steps"):
        count_horizon(compose(), stream, 1)
    assert count_horizon(compose(["trainer.max_steps=5"]), stream, 1).steps == 5


class Rollouts:
    """Represents a loader that collects from environments: no batch size, no end."""

    def __init__(self, samples_per_batch: float | None) -> None:
        if samples_per_batch:
            self.samples_per_batch = samples_per_batch

    def __iter__(self) -> Any:
        yield torch.zeros(1)


FREE = ["trainer.max_epochs=null"]


@pytest.mark.parametrize(
    ("loaders", "devices", "samples"),
    [
        (lambda: DataLoader(TensorDataset(torch.zeros(10, 1)), 4), 1, 4.0),
        (lambda: DataLoader(TensorDataset(torch.zeros(10, 1)), 4), 3, 12.0),
        (lambda: DataLoader(TensorDataset(torch.zeros(10, 1)), batch_sampler=[[0], [1, 2]]), 1, None),
        (lambda: DataLoader(TensorDataset(torch.zeros(10, 1)), None), 1, None),
        (lambda: [loader(7), loader(19)], 1, None),  # ambiguous
        (lambda: Rollouts(2048), 2, 4096.0),
        (lambda: Rollouts(None), 1, None),
    ],
    ids=["batches", "devices", "its own batches", "no batches", "several", "told", "not told"],
)
def test_samples_per_step(loaders: Any, devices: int, samples: float | None) -> None:
    config = compose(["trainer.max_steps=2", "trainer.accumulate_grad_batches=1"])
    assert count_horizon(config, Data(loaders()), devices).samples_per_step == samples
    config = compose(["trainer.max_steps=2", "trainer.accumulate_grad_batches=5"])
    assert count_horizon(config, Data(loaders()), devices).samples_per_step == (samples and 5 * samples)


def test_a_stream_ends_after_max_samples() -> None:
    config = compose([*FREE, "trainer.max_samples=10_000"])
    assert count_horizon(config, Data(Rollouts(2048)), 2) == Horizon(2, None, 4096.0)
    with pytest.raises(ConfigError, match=r"trainer\.max_samples[^$]*a loader that has samples_per_batch"):
        count_horizon(config, Data(Rollouts(None)), 1)
    with pytest.raises(ConfigError, match=r"an optimizer step sees 16384 samples, so 10000 are less than a step"):
        count_horizon(config, Data(Rollouts(16384)), 1)


def test_uncountable_intervals_are_rejected() -> None:
    config = compose(["trainer.max_steps=9", "trainer.val_every=64 samples", "trainer.checkpoint.every=0.5 epochs"])
    with pytest.raises(ConfigError) as caught, check_intervals(config, Horizon(9)):
        raise ConfigError([Problem("schedule.warmup", "too long")])
    assert [problem.key for problem in caught.value.problems] == [
        "trainer.val_every",
        "trainer.checkpoint.every",
        "schedule.warmup",
    ]
    with check_intervals(config, Horizon(9, 3, 8.0)):
        pass
    # The end of an epoch needs no count.
    with check_intervals(compose(["trainer.max_steps=9", "trainer.checkpoint.every=3 epochs"]), Horizon(9)):
        pass


SHORT = ["model.widths=[8]", "trainer=cpu", "trainer.progress=false", "data.batch_size=128", "task.test=false"]
SHORT += ["trainer.max_epochs=null", "trainer.max_samples=1100", "trainer.checkpoint.every=512 samples"]
SHORT += [
    "trainer.checkpoint.keep=null",
    "trainer.checkpoint.monitor=null",
    "schedule.warmup=256 samples",
    "trainer.val_every=300 samples",
]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """Trains with the short options, overridden by these; returns the run folder."""
    torch.set_num_threads(1)

    def go(*more: str) -> Path:
        options = {word.partition("=")[0]: word for word in (*SHORT, f"output={tmp_path}", *more)}
        return Path(train.run(compose(list(options.values())))["folder"])

    return go


def _rows(folder: Path, *columns: str) -> list[list[str]]:
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    places = [lines[0].index(column) for column in columns]
    return [[line[place] for place in places] for line in lines[1:]]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "step-0000008.ckpt", weights_only=True)["state_dict"]


def test_a_run_with_max_samples(run: Callable[..., Path]) -> None:
    """1,100 samples are 8 steps of 128, saved every 4, validated every 2 (300 / 128 rounded), warmed up for 2."""
    folder = run()
    assert json.loads((folder / "summary.json").read_text())["steps"] == 8
    assert sorted(path.name for path in (folder / "checkpoints").glob("step*")) == [
        "step-0000004.ckpt",
        "step-0000008.ckpt",
    ]
    assert [step for step, loss in _rows(folder, "step", "val/loss") if loss] == ["1", "3", "5", "7"]
    plan = Plan.from_dict(json.loads((folder / "plan.json").read_text()))
    assert plan.horizon == Horizon(8, 10, 128.0)
    assert plan.lr(2)[0] == plan.trainable[0].lr > plan.lr(1)[0]


def test_an_interrupted_run_ends_at_the_same_step(run: Callable[..., Path]) -> None:
    whole, cut = run(), run("name=cut")
    (cut / "checkpoints" / "step-0000008.ckpt").unlink()
    assert run(f"resume.from={cut}") == cut
    assert _rows(cut, "step", "train/loss", "val/loss") == _rows(whole, "step", "train/loss", "val/loss")
    after, before = _weights(cut), _weights(whole)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_another_batch_size_leaves_the_rest_of_the_samples(run: Callable[..., Path]) -> None:
    """4 steps of 128 are 512 samples; the remaining 588 are 9 more steps of 64."""
    folder = run("trainer.checkpoint.every=100", "trainer.max_samples=null", "trainer.max_epochs=1")
    assert Resumed.read(folder / "checkpoints" / "step-0000010.ckpt").samples == 1280
    options = ("data.batch_size=64", "trainer.max_samples=2560", f"resume.from={folder}")
    with pytest.raises(ConfigError, match=r"resume\.horizon"):
        run(*options)
    on = run(*options, "resume.horizon=rescale")
    assert json.loads((on / "summary.json").read_text())["steps"] == 30
    resumed = Resumed.read(on / "checkpoints" / "step-0000030.ckpt")
    assert (resumed.samples, resumed.branches[0].before.samples_per_step) == (2560, 128.0)


def _stream(config: Any, horizon: Horizon, folder: Path) -> tuple[Any, ...]:
    """Returns how a run resumed from a checkpoint handles a horizon."""
    from lrflow import assemble

    module = assemble.build_module(config)
    groups = assemble.build_groups(config, module)
    resumed = Resumed.read(folder / "checkpoints" / "step-0000004.ckpt")
    return resumed.branched(horizon, None, groups, assemble.build_schedule(config))


def test_more_samples_per_step_change_the_length_of_a_schedule_in_samples(run: Callable[..., Path]) -> None:
    options = [word for word in SHORT if not word.startswith("schedule.warmup")]
    in_samples, in_steps = run(), run("schedule.warmup=2")
    for per_step in (128.0, None):  # None: a checkpoint of an earlier version, without samples
        assert _stream(compose(SHORT), Horizon(8, 10, per_step), in_samples) == ()
    assert _stream(compose([*options, "schedule.warmup=2"]), Horizon(8, 10, 256.0), in_steps) == ()
    with pytest.raises(ConfigError, match="a step saw 128 samples and sees 256 now"):
        _stream(compose([*SHORT, "trainer.max_steps=9"]), Horizon(8, 10, 256.0), in_samples)


def test_samples_per_step_are_in_the_fingerprint_only_of_schedules_in_samples(run: Callable[..., Path]) -> None:
    for warmup, matters in (("2", False), ("256 samples", True)):
        told = json.loads((run(f"schedule.warmup={warmup}") / "plan.json").read_text())
        plan = Plan.from_dict(told)
        told["horizon"]["samples_per_step"] *= 2
        assert (Plan.from_dict(told).fingerprint != plan.fingerprint) is matters


def data_of(loader: Any) -> pl.LightningDataModule:
    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return loader

    return Data()


class Raises:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        raise self.error


@pytest.mark.parametrize("error", [TypeError("no length"), NotImplementedError])
def test_a_loader_that_cannot_tell_its_length_has_none(error: Exception) -> None:
    horizon = count_horizon(compose(["trainer.max_epochs=null", "trainer.max_steps=7"]), data_of(Raises(error)), 1)
    assert (horizon.steps, horizon.steps_per_epoch) == (7, None)
    with pytest.raises(ConfigError, match="the training data has no length"):
        count_horizon(compose(["trainer.max_epochs=2"]), data_of(Raises(error)), 1)


def test_other_errors_are_raised() -> None:
    with pytest.raises(RuntimeError, match="oh"):
        count_horizon(compose(), data_of(Raises(RuntimeError("oh"))), 1)


def test_a_missing_loader_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"Data\.train_dataloader\(\) returns None"):
        count_horizon(compose(), data_of(None), 1)
