"""One batch of everything without a file, and training on a few batches: what they run, and what contradicts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lrflow.cli.command import main
from lrflow.config import compose, declared_horizon
from lrflow.errors import ConfigError

SMALL = ["trainer=cpu", "trainer.progress=false", "model.widths=[8]"]


@pytest.mark.parametrize(
    "words",
    [
        ["task=plan"],
        [
            "schedule.warmup=500 steps",
            "average=ema",
            "callbacks=[early_stopping,device_stats]",
            "trainer.accumulate_grad_batches=4",
            "trainer.max_time=1 s",
            "logger=tensorboard",
            "task.test=best",
        ],
        ["schedule=noam", "layers=gradual_unfreezing", "trainer.max_steps=90", "trainer.min_steps=9"],
        ["schedule=one_cycle", "schedule.also.momentum=null", "optimizer=sgd"],
        ["schedule.warmup=50%", "health.sharpness.every=1", "fast=true"],
    ],
)
def test_a_fast_dev_run_makes_one_step_and_no_file(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "trainer.fast_dev_run=true", *words]) == 0
    told = capsys.readouterr().out
    assert "run       1 step" in told
    assert ("task=plan" in words) != ("test/loss" in told)
    assert list(tmp_path.iterdir()) == []


def test_a_fast_dev_run_steps_every_optimizer() -> None:
    config = compose(["recipe=gan/every", "optimizer.routes.discriminator.every=3", "trainer.fast_dev_run=true"])
    assert {one.every for one in config.optimizer.members.values()} == {1}
    assert any("every=1 for all optimizers" in remark for remark in config.remarks)
    with pytest.raises(ConfigError, match=r"optimizer\.every"):
        compose(["trainer.fast_dev_run=true", "optimizer.every=${nosuch}"])


def test_a_fast_dev_run_finds_what_could_not_be_saved_and_ends_as_any_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lrflow.training import Checkpoints

    monkeypatch.chdir(tmp_path)
    state = Checkpoints.state_dict
    monkeypatch.setattr(Checkpoints, "state_dict", lambda self: {**state(self), "odd": object()})
    assert main([*SMALL, "trainer.fast_dev_run=true"]) == 1
    assert "could not be loaded again" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["trainer.fast_dev_run=true", "task=find"], "task"),
        (["trainer.fast_dev_run=true", "optimizer.lr=auto"], "optimizer.lr"),
        (["trainer.fast_dev_run=true", "find.check=true"], "find.check"),
        (["trainer.fast_dev_run=true", "trainer.profiler=simple"], "trainer.profiler"),
        (["trainer.fast_dev_run=true", "trainer.overfit_batches=2"], "trainer.overfit_batches"),
        (["trainer.fast_dev_run=true", "task=plan", "horizon.steps=5"], "horizon.steps"),
        (
            ["trainer.fast_dev_run=true", "schedule=one_cycle", "schedule.also=null", "schedule.shape.rise=200%"],
            "schedule.shape.rise",
        ),
        (["trainer.fast_dev_run=true", "trainer=ddp", "trainer.devices=2"], "trainer.devices"),
        (["trainer.fast_dev_run=1"], "trainer.fast_dev_run"),
        (["trainer.overfit_batches=2", "trainer.limit_train_batches=9"], "trainer.limit_train_batches"),
        (["trainer.overfit_batches=2", "trainer.limit_val_batches=0"], "trainer.limit_val_batches"),
        (["trainer.overfit_batches=2", "task=find"], "trainer.overfit_batches"),
        (["trainer.overfit_batches=2", "optimizer.lr=auto"], "trainer.overfit_batches"),
        (["trainer.overfit_batches=0.01"], "trainer.overfit_batches"),
        (["trainer.overfit_batches=1.5"], "trainer.overfit_batches"),
        (["trainer.overfit_batches=0"], "trainer.overfit_batches"),
    ],
)
def test_contradictions_are_refused(words: list[str], wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(words)
    assert [problem.key for problem in caught.value.problems] == [wrong]


def test_a_smoke_run_that_overfits_has_no_other_limit() -> None:
    trainer = compose(["fast=true", "trainer.overfit_batches=2"]).trainer
    assert (trainer.overfit_batches, trainer.limit_train_batches, trainer.limit_val_batches) == (2, None, None)
    assert trainer.max_epochs == 1
    with pytest.raises(ConfigError) as caught:
        compose(["fast=true", "trainer.overfit_batches=2", "trainer.limit_val_batches=3"])
    assert "trainer.limit_val_batches" in [problem.key for problem in caught.value.problems]


def test_no_sweep_of_runs_without_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "trainer.fast_dev_run=true", "optimizer.lr=1,2"]) == 2
    assert "writes no files" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("share", "steps"), [(3, 3), (30, 20), (0.1, 2), (0.99, 19), (1.0, 20), (1, 1)])
def test_the_plan_has_the_steps_of_the_few_batches(share: Any, steps: int) -> None:
    horizon = declared_horizon(compose([f"trainer.overfit_batches={share}", "trainer.max_epochs=4"]))
    assert (horizon.steps, horizon.steps_per_epoch) == (4 * steps, steps)
