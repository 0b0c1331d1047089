from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from lrflow.cli import main
from lrflow.config import Config, compose, save_config
from lrflow.config.composition.options import Catalogue
from lrflow.config.origins import MODELINE, SCHEMA
from lrflow.metric import Metric
from lrflow.runs import RunFolder
from lrflow.sweeps.folders import read_sweep
from lrflow.sweeps.trial_recipe import write_recipe


@pytest.fixture
def swept(tmp_path: Path):
    """Return a sweep folder with one trial with these overrides."""

    def put(overrides: Sequence[str], config_dir: Path | None = None) -> Path:
        folder = RunFolder(tmp_path / "sweep" / "0")
        folder.path.mkdir(parents=True)
        save_config(compose(overrides, config_dir), folder.config)
        folder.write_summary({"status": "finished", "metrics": {"val/loss": 0.5}})
        return tmp_path / "sweep"

    return put


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["optimizer=muon", "optimizer.lr=0.05", "seed=3"],
        ["recipe=cnn", "fast=true", "optimizer.lr=0.002"],
        ["layers=layer_decay", "schedule=wsd", "schedule.warmup=2 epochs", "logger=none"],
    ],
    ids=lambda overrides: " ".join(overrides) or "nothing",
)
def test_the_recipe_reproduces_the_run(overrides: list[str], swept, tmp_path: Path) -> None:
    folder = swept(overrides)
    sweep = read_sweep(folder)
    (tmp_path / SCHEMA).touch()
    path = write_recipe(sweep, sweep.trials[0])
    assert path == folder / "recipe" / "best.yaml"
    assert path.read_text().splitlines()[:2] == ["# @package _global_", f"{MODELINE}../../{SCHEMA}"]
    assert Catalogue([folder]).options("recipe")["best"].summary.startswith("Trial 0 of a sweep")
    again = compose(["recipe=best"], config_dir=folder)
    assert dict(again) == dict(compose(overrides))


@pytest.mark.parametrize(
    ("overrides", "whole"),
    [
        (["schedule=mine"], "schedule"),
        (["optimizer=theirs", "optimizer.lr=0.3"], "optimizer"),
        (["~schedule.cooldown"], "schedule"),
        (["optimizer=muon", "~optimizer.routes.muon.nesterov"], "optimizer"),
    ],
    ids=" ".join,
)
def test_custom_groups_are_written_in_full(overrides: list[str], whole: str, swept, tmp_path: Path) -> None:
    files = {
        "schedule/mine.yaml": "_target_: lrflow.schedules.Schedule\nwarmup: 7\nshape:\n"
        "  _target_: lrflow.schedules.Polynomial\n  power: 3\n",
        "optimizer/theirs.yaml": "_target_: torch.optim.SGD\nlr: 0.2\nmomentum: 0.7\n",
    }
    for name, text in files.items():
        path = tmp_path / "options" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    folder = swept(overrides, tmp_path / "options")
    sweep = read_sweep(folder)
    path = write_recipe(sweep, sweep.trials[0])
    assert f"override /{whole}: null" in path.read_text()
    again = compose(["recipe=best"], config_dir=folder)  # without the folder of the options
    assert again.plain() == compose(overrides, tmp_path / "options").plain()


def test_options_can_override_the_recipe(swept) -> None:
    folder = swept(["optimizer=muon", "schedule.warmup=3%"])
    sweep = read_sweep(folder)
    write_recipe(sweep, sweep.trials[0])
    again = compose(["recipe=best", "layers=no_decay", "optimizer=sgd"], config_dir=folder)
    assert (again.optimizer.target, str(again.schedule.plain()["warmup"])) == ("torch.optim.SGD", "3%")


@pytest.mark.parametrize(
    ("metric", "given", "results", "best"),
    [
        ("val/loss", [], (0.9, 0.2, 0.5), 1),
        ("val/loss", [], (0.1, 0.2, 0.5), 0),
        ("val_acc", [], (0.3, 0.8, 0.5), 1),  # by its name
        ("val/thing", ["trainer.checkpoint.mode=max"], (0.3, 0.8, 0.5), 1),
        ("val_acc", ["trainer.checkpoint.mode=min"], (0.3, 0.1, 0.5), 1),
        ("val/thing", ["sweep.mode=max", "hydra/sweeper=lrflow", "sweep.sampler=grid"], (0.3, 0.8, 0.5), 1),
    ],
)  # fmt: skip
def test_writes_the_recipe_of_the_best_trial(
    metric: str, given: list[str], results: Sequence[float], best: int, objective, here: Path, sweep_folder
) -> None:
    rates = [0.1, 0.2, 0.3]

    def result(config: Config) -> dict[str, float]:
        save_config(config, config.run_folder / "config.yaml")
        return {metric: results[rates.index(config.optimizer.lr)], "val/other": 1.0}

    ran = objective(result)
    assert (
        main(["-m", "optimizer.lr=0.1,0.2,0.3", f"trainer.checkpoint.monitor={metric}", "model.loss=null", *given]) == 0
    )
    recipe = sweep_folder() / "recipe" / "best.yaml"
    assert f"Trial {best} of a sweep: finished, {metric} {results[best]:.4g}" in recipe.read_text()
    again = compose(["recipe=best"], config_dir=sweep_folder())
    assert again.optimizer.lr == rates[best]
    assert again.trainer.checkpoint.mode == ran[best].trainer.checkpoint.mode  # also where only the sweep had given it
    assert read_sweep(sweep_folder()).objectives == (Metric.parse(metric, again.trainer.checkpoint.mode),)
