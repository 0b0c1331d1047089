from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from lrflow.config import compose, save_config
from lrflow.errors import LrflowError
from lrflow.runs import RunFolder
from lrflow.sweeps.best import write_recipe
from lrflow.sweeps.reading import read_sweep


@pytest.fixture
def swept(tmp_path: Path):
    """A sweep folder whose only trial was given these overrides."""

    def put(overrides: Sequence[str]) -> Path:
        folder = RunFolder(tmp_path / "sweep" / "0")
        folder.path.mkdir(parents=True)
        save_config(compose(overrides), folder.config)
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


def test_a_key_that_was_deleted_cannot_be_said(swept) -> None:
    folder = swept(["schedule=wsd"])
    config = folder / "0" / "config.yaml"
    config.write_text(config.read_text().replace("  overrides:\n", "  overrides:\n  - ~schedule.cooldown\n"))
    sweep = read_sweep(folder)
    with pytest.raises(LrflowError, match=r"trial 0 cannot be written as a recipe: a key was deleted"):
        write_recipe(sweep, sweep.trials[0])
    assert not (folder / "recipe" / "best.yaml").exists()
