"""The sweeps of a range test: metrics, precision, checkpoints and devices."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from lrflow import assemble
from lrflow.assemble import build_data
from lrflow.config import Config, compose
from lrflow.errors import ConfigError, LrflowError
from lrflow.tasks import train
from lrflow.training.loaders import set_up_data
from lrflow.training.trainer import build_trainer
from lrflow.training.trainer_options import lightning_options
from lrflow.tuning.range_test import run_sweeps

SMALL = ("task=find", "find.sweeps=1", "model.widths=[16]", "model.dropout=0", "trainer.accelerator=cpu")
STILL = ("find.low=1e-12", "find.high=1.1e-12")
"""LRs so low that the weights hardly change."""
PPO = ("recipe=rl_ppo", "data.num_envs=2", "data.steps=8", "data.minibatches=1", "data.update_epochs=1")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sweeps(config: Config) -> np.ndarray:
    return run_sweeps(config, config.find, Path.cwd()).losses


def first_losses(config: Config, batches: int) -> list[float]:
    """Return the losses of the new model on the first batches of its data."""
    trainer = build_trainer(lightning_options(config), Path.cwd(), [], 50)
    torch.manual_seed(config.seed)
    module = assemble.build_module(config).eval()
    loader = iter(set_up_data(build_data(config), trainer, config.seed).train_dataloader())
    with torch.no_grad():
        return [
            float(cross_entropy(module(inputs), targets)) for inputs, targets in (next(loader) for _ in range(batches))
        ]


def test_a_reading_is_the_mean_over_the_accumulation_window() -> None:
    config = compose([*SMALL, *STILL, "find.steps=40", "trainer.accumulate_grad_batches=2"])
    expected = np.array(first_losses(config, 8)).reshape(4, 2).mean(1)
    np.testing.assert_allclose(sweeps(config)[0, :4], expected, rtol=1e-5)


def test_a_reading_is_the_mean_over_the_steps_of_its_lr() -> None:
    config = compose([*SMALL, *STILL, "find.every=2", "find.steps=80"])
    expected = np.array(first_losses(config, 8)).reshape(4, 2).mean(1)
    np.testing.assert_allclose(sweeps(config)[0, :4], expected, rtol=1e-5)


def test_reads_a_constant_loss_exactly() -> None:
    """Softmax regression starts with zero weights: all ten classes are equally probable."""
    config = compose(["task=find", "find.steps=40", "find.sweeps=2", "model=logistic", *STILL])
    np.testing.assert_allclose(sweeps(config), np.log(10), rtol=1e-6)


def test_reads_the_validation_loss() -> None:
    config = compose([*SMALL, "find.monitor=val/loss", "find.every=2", "find.steps=80", "optimizer=momentum"])
    losses = sweeps(config)[0]
    known = losses[np.isfinite(losses)]
    assert len(known) in (20, 30, 40)
    trained = compose([*SMALL, "find.every=2", "find.steps=80", "optimizer=momentum"])
    assert np.ptp(known[:5]) < 0.01 * np.ptp(sweeps(trained)[0, :5])  # the same examples each time, the others new ones
    assert known.min() < 0.6 * known[0]


def test_reads_a_metric_that_the_module_logs_per_epoch() -> None:
    config = compose([*PPO, "task=find", "find.sweeps=1", "find.steps=40 epochs", "find.monitor=train/entropy"])
    found = run_sweeps(config, config.find, Path.cwd())
    assert (len(found.rates), found.every) == (40, 1)
    assert found.losses[0, 0] == pytest.approx(np.log(2), abs=0.01)  # of two actions


def test_an_unknown_metric_is_an_error_with_the_nearest_name() -> None:
    config = compose([*PPO, "task=find", "find.sweeps=1", "find.steps=40 epochs", "find.monitor=train/entrpy"])
    with pytest.raises(LrflowError, match="did you mean train/entropy"):
        sweeps(config)


def test_a_validation_metric_needs_validation_data() -> None:
    with pytest.raises(ConfigError, match="needs validation, which this switches off"):
        compose([*SMALL, "find.steps=40", "find.monitor=val/loss", "find.every=1", "data.val_size=0"])


@pytest.mark.parametrize(
    "more",
    [
        ("trainer.precision=bf16-mixed",),
        ("optimizer=schedule_free_sgd",),
        ("optimizer=schedule_free_sgd", "find.monitor=val/loss", "find.every=1"),
    ],
)
def test_precision_and_schedule_free_optimizers(more: tuple[str, ...]) -> None:
    config = compose([*SMALL, *more, "find.steps=40", "find.low=1e-4", "find.high=1"])
    losses = sweeps(config)[0]
    assert np.isfinite(losses[:20]).all()
    assert np.nanmin(losses) < 0.9 * losses[0]


RUN = ("model.widths=[16]", "model.dropout=0", "schedule=constant", "trainer.progress=false")


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_a_sweep_from_a_checkpoint_continues_the_run(optimizer: str) -> None:
    """At the run's own LR, weights, optimizer state and batches are those of the rest of the run."""
    run = [*RUN, "trainer.max_epochs=4", f"optimizer={optimizer}", "optimizer.lr=0.01"]
    folder = Path(
        train.run(compose([*run, "trainer.checkpoint.every=30", "trainer.checkpoint.keep=null", "name=a"]))["folder"]
    )
    with (folder / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    checkpoint = folder / "checkpoints/step-0000030.ckpt"  # within an epoch of 20 steps
    kept = ["find.low=0.01", "find.high=0.01000000001", "find.steps=40", "find.sweeps=2"]
    found = sweeps(compose([*run, "task=find", f"resume.from={checkpoint}", *kept]))
    np.testing.assert_allclose(found[0], losses[30:70], rtol=1e-4)
    assert (found[1] != found[0]).all()  # other batches
    assert found[1].mean() == pytest.approx(found[0].mean(), rel=0.2)  # of the same model


def test_rejects_a_checkpoint_that_does_not_fit() -> None:
    run = [*RUN, "trainer.max_epochs=null", "trainer.max_steps=5"]
    folder = train.run(compose([*run, "optimizer=momentum", "name=a"]))["folder"]
    for arguments, message in {
        ("model.widths=[8]",): "another model than the one to be trained",
        ("optimizer=adamw",): "is of another optimizer",
        ("data.batch_size=32",): "is within an epoch of 20 steps",
        (
            "find.monitor=val/accuracy",
            "find.every=1 epoch",
            "find.steps=60 epochs",
        ): "the checkpoint is from within an epoch, but",
        ("find.confirm=true",): "leave out find.confirm or resume",
    }.items():
        given = {text.partition("=")[0]: text for text in [*run, "optimizer=momentum", "task=find", *arguments]}
        with pytest.raises(LrflowError, match=re.escape(message)):
            sweeps(compose([*given.values(), f"resume.from={folder}"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("find.monitor=val/loss", "find.steps=100"), "expected at least 40 readings of val/loss, one each 5 steps"),
        (("find.monitor=train/return",), "expected at least 40 readings of train/return, one each 20 steps"),
        (("find.monitor=val/loss", "trainer.limit_val_batches=0"), "needs validation, which this switches off"),
        (("find.mode=most",), "expected one of min, max"),
        (("find.every=0",), "above 0"),
    ],
)
def test_rejects_settings_before_anything_runs(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        compose(["task=find", *arguments])


@pytest.mark.slow
def test_a_reading_is_the_mean_over_the_devices(python: Any, tmp_path: Path) -> None:
    two = ("trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=32", "data.drop_last=true")
    words = [*(word for word in SMALL if "accelerator" not in word), *STILL, "find.steps=40", *two]
    job = python("-m", "lrflow", *words, cwd=tmp_path)  # which the second process repeats
    _, output = job.communicate()
    assert job.returncode == 0, output
    (folder,) = (tmp_path / "outputs").iterdir()
    with (folder / "find.csv").open() as file:
        found = [float(row["loss_0"]) for row in csv.DictReader(file)]
    alone = sweeps(compose([*SMALL, *STILL, "find.steps=40", "data.batch_size=64", "data.drop_last=true"]))[0]
    np.testing.assert_allclose(found[:19], alone[:19], rtol=1e-4)  # an epoch has 19 batches
