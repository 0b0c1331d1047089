"""Options that are passed on to Lightning's Trainer: strategies, plugins, profilers, switches, the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from lrflow.config import compose
from lrflow.errors import ConfigError, EndedEarlyError
from lrflow.runs import RunFolder
from lrflow.tasks import train
from lrflow.training.trainer import build_trainer
from lrflow.training.trainer_options import lightning_options

SHORT = ["model.widths=[8]", "trainer=cpu", "trainer.max_steps=12", "trainer.progress=false", "data.batch_size=128"]
SHORT += ["task.test=false"]


def built(tmp_path: Path, *given: str) -> pl.Trainer:
    return build_trainer(lightning_options(compose(["trainer=cpu", *given])), tmp_path, [], 50)


def test_a_strategy_may_have_arguments(tmp_path: Path) -> None:
    ddp = "{_target_: pytorch_lightning.strategies.DDPStrategy, find_unused_parameters: true}"
    trainer = built(tmp_path, f"trainer.strategy={ddp}", "trainer.devices=2")
    assert isinstance(trainer.strategy, pl.strategies.DDPStrategy)
    assert trainer.strategy._ddp_kwargs == {"find_unused_parameters": True}
    assert trainer.world_size == 2
    config = compose([f"trainer.strategy={ddp}"])
    assert (config.trainer.strategy_name, config.trainer.beyond_one_process()) == ("ddp", ("strategy", "ddp", "auto"))


def test_switches_and_further_arguments_reach_the_trainer(tmp_path: Path) -> None:
    more = ["trainer.detect_anomaly=true", "trainer.benchmark=true", "trainer.lightning={limit_test_batches: 2}"]
    plugin = "trainer.plugins=[{_target_: pytorch_lightning.plugins.DoublePrecision}]"
    before = torch.backends.cudnn.benchmark
    try:
        trainer = built(tmp_path, *more, plugin)
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = before
    assert (trainer._detect_anomaly, trainer.limit_test_batches) == (True, 2)
    assert isinstance(trainer.precision_plugin, pl.plugins.DoublePrecision)


@pytest.mark.parametrize("name", ["simple", "advanced"])
def test_a_profiler_writes_into_the_run_folder(tmp_path: Path, name: str) -> None:
    folder = train.run(compose([*SHORT, f"output={tmp_path}", f"trainer.profiler={name}", "trainer.max_steps=2"]))
    text = (Path(folder["folder"]) / "fit-profile.txt").read_text()
    assert "run_training_epoch" in text


def test_no_callback_ends_the_run_before_its_minimum(tmp_path: Path) -> None:
    early = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=10"]
    every = "trainer.val_every=2 steps"
    lightnings = ["callbacks.other._target_=pytorch_lightning.callbacks.EarlyStopping", "callbacks.other.min_delta=10"]
    lightnings += ["callbacks.other.monitor=val/loss", "callbacks.other.patience=1"]
    steps = []
    for given in (
        early,
        [*early, "trainer.min_steps=7"],
        [*lightnings, "trainer.min_steps=7"],
        [*early, "trainer.min_epochs=1"],
        ["trainer.min_steps=9"],
    ):
        try:
            folder = train.run(compose([*SHORT, every, *given, f"output={tmp_path}"]))["folder"]
        except EndedEarlyError as error:
            folder = error.outcome.folder  # type: ignore[attr-defined]
        steps.append(json.loads(RunFolder(Path(folder)).summary.read_text())["steps"])
    assert steps == [4, 8, 8, 10, 12]


WRONG: dict[str, tuple[str, str]] = {
    "trainer.sync_batchnorm=true": ("trainer.sync_batchnorm", "the run is on cpu"),
    "trainer.lightning={max_epochs: 3}": ("trainer.lightning.max_epochs", "use trainer.max_epochs"),
    "trainer.lightning={callbacks: []}": ("trainer.lightning.callbacks", "callbacks.NAME._target_="),
    "trainer.lightning={limit_tst_batches: 3}": ("trainer.lightning.limit_tst_batches", "limit_test_batches?"),
    "trainer.lightning={inference_mode: often}": ("trainer.lightning.inference_mode", "true or false"),
    "trainer.lightning={barebones: true}": ("trainer.lightning.barebones", "leave it out"),
    "trainer.profiler=fast": ("trainer.profiler", "simple, advanced, pytorch"),
    "trainer.strategy=dpp": ("trainer.strategy", "auto, ddp, fsdp"),
    "trainer.strategy={find_unused_parameters: true}": ("trainer.strategy._target_", "is missing"),
    "trainer.strategy={_target_: os.system}": ("trainer.strategy._target_", "is not trusted"),
    "trainer.plugins=[{_target_: pytorch_lightning.plugins.Nothing}]": ("trainer.plugins[0]._target_", "no Nothing"),
    "trainer.strategy={_target_: pytorch_lightning.callbacks.Timer}": ("trainer.strategy._target_", "no strategy"),
}


@pytest.mark.parametrize("given", WRONG)
def test_what_is_wrong_is_told(given: str, tmp_path: Path) -> None:
    key, text = WRONG[given]
    with pytest.raises(ConfigError) as error:
        built(tmp_path, given)
    assert key in {problem.key for problem in error.value.problems}
    assert text in str(error.value)
