"""The curvature where it is asked for: in a plan, in a run, and what cannot have it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytorch_lightning as pl

from lrflow.config import compose
from lrflow.config.checks.warnings import unused_keys
from lrflow.errors import ConfigError
from lrflow.health import Watched
from lrflow.health.monitors import build_monitors
from lrflow.health.sharpness_record import read_sharpness
from lrflow.schedules import Horizon
from lrflow.tasks import find, plan, train

SMALL = ["model=logistic", "optimizer=sgd", "optimizer.lr=2.0", "optimizer.weight_decay=0"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_plan_is_held_against_the_bound(capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SMALL, "schedule=constant_with_warmup", "schedule.warmup=10", "find=stability", "find.batches=2"]
    done = plan.run(compose(["task=plan", "find.check=true", *options]))
    told = capsys.readouterr().out
    ceiling = find.run(compose(["task=find", *options]))["ceiling"]
    found = json.loads((Path(done["folder"]) / "find.json").read_text())
    assert found["plan"] == [
        {"step": 0, "lr": pytest.approx(2 / 11), "share": pytest.approx(2 / 11 / ceiling, rel=1e-3)},
        {"step": 10, "lr": 2.0, "share": pytest.approx(2 / ceiling, rel=1e-3)},
    ]
    assert re.search(rf"first step +0 +0\.182 +{200 / 11 / ceiling:.3g}%", told)
    assert re.search(rf"peak +10 +2 +{200 / ceiling:.3g}%", told)
    assert "by step 10 the plan is above the bound" in " ".join(told.split())
    assert "has no effect" not in told


def test_a_run_is_measured_as_it_trains(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["sharpness.every=20 steps", "sharpness.batches=1", "trainer.max_epochs=3", "task.test=false"]
    done = train.run(compose([*SMALL, *options, "trainer.precision=bf16-mixed"]))
    record = read_sharpness(Path(done["folder"]))
    assert record is not None
    assert record.steps.tolist() == [0, 20, 40]
    assert record.share[0] == pytest.approx(0.5 * record.top[0] / 2)  # where the warmup starts
    told = " ".join(capsys.readouterr().out.split())
    assert "sharpness: every 20 steps, on the same batch, in single precision" in told
    assert "sharpness.png" in told


@pytest.mark.parametrize(
    ("options", "key", "told"),
    [
        (["optimizer=lbfgs"], "optimizer._target_", "no stability bound is known"),
        (["optimizer=muon"], "optimizer.routes", "for several optimizers"),
        (["trainer.devices=2", "trainer=cpu"], "trainer.devices", "on one device"),
        (["trainer.num_nodes=2", "trainer.devices=auto"], "trainer.num_nodes", "on one device"),
        (["trainer.strategy=fsdp"], "trainer.strategy", "no strategy wraps"),
        (["trainer.precision=bf16-true"], "trainer.precision", "half precision"),
        (["sharpness.every=0"], "sharpness.every", "above 0"),
        (["sharpness.evry=3"], "sharpness.evry", "did you mean sharpness.every?"),
    ],
)
def test_options_that_prevent_the_measurement_are_reported_before_the_run(
    options: list[str], key: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        compose([*options] if "every=" in options[0] else ["sharpness.every=5 epochs", *options])
    assert key in [problem.key for problem in caught.value.problems]


def test_data_and_loggers_that_measuring_cannot_do_with() -> None:
    class Own(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return iter([1, 2])

    plan = SimpleNamespace(horizon=Horizon(100))
    watched = cast(Watched, SimpleNamespace(data=Own(), horizon=plan.horizon, trainer=SimpleNamespace(loggers=[])))
    with pytest.raises(ConfigError) as caught:
        build_monitors(compose(["sharpness.every=5 steps"]), watched)
    told = str(caught.value)
    assert "needs the same batches" in told
    assert "no logger would keep it" in told


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            ["find.confirm=true"],
            ["find.confirm has no effect in task=train without task=find, find.check=true or optimizer.lr=auto"],
        ),
        (
            ["find=stability"],
            ["find has no effect in task=train without task=find, find.check=true or optimizer.lr=auto"],
        ),
        (["find=stability", "find.check=true", "find.batches=2"], []),
        (
            ["sharpness.batches=2"],
            ["sharpness.batches has no effect without sharpness.every, the interval of the measurements"],
        ),
        (["optimizer.lr=auto", "find.confirm=true"], []),
        (["find.check=false"], []),
        (["hydra.run.dir=runs"], ["hydra.run.dir does not set the run folder: output=FOLDER does"]),
        (["task=find", "find.steps=100"], []),
        (
            ["task=plan", "find.check=true"],
            ["find.check has no effect in task=plan without task=find or find=stability find.check=true"],
        ),
    ],
)
def test_unused_keys_are_reported(typed: list[str], told: list[str]) -> None:
    config = compose(typed)
    assert unused_keys(config) == told
