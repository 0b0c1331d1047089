from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from lrflow.config import compose, save_config
from lrflow.runs import RunFolder
from lrflow.sweeps.best import write_recipe
from lrflow.sweeps.reading import read_sweep


@pytest.fixture
def swept(tmp_path: Path):
    """A sweep folder whose only trial was given these overrides."""

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
def test_the_recipe_is_the_run(overrides: list[str], swept) -> None:
    folder = swept(overrides)
    sweep = read_sweep(folder)
    path = write_recipe(sweep, sweep.trials[0])
    assert path == folder / "recipe" / "best.yaml"
    again = compose(["recipe=best"], config_dir=folder)
    assert again.model_dump() == compose(overrides).model_dump()


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
def test_what_no_option_of_lrflows_says_is_written_as_a_whole(
    overrides: list[str], whole: str, swept, tmp_path: Path
) -> None:
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


def test_another_option_on_top_of_the_recipe(swept) -> None:
    folder = swept(["optimizer=muon", "schedule.warmup=3%"])
    sweep = read_sweep(folder)
    write_recipe(sweep, sweep.trials[0])
    again = compose(["recipe=best", "layers=no_decay", "optimizer=sgd"], config_dir=folder)
    assert (again.optimizer.target, str(again.schedule.plain()["warmup"])) == ("torch.optim.SGD", "3%")
