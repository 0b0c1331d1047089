"""Configs of other tools, translated: compiled to plans as recipes, or the LRs of their schedules alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

import lrflow
from lrflow.config.composition.options import home
from lrflow.config.schemas import objects
from lrflow.plan import Plan
from lrflow.schedules import Horizon, Schedule
from lrflow.schedules.serialization import from_spec
from lrflow.translate import Facts, translate


def _translated(folder: Path, content: Any, name: str, facts: dict[str, Any]) -> str:
    """The recipe of a config, which is keys with values, written as JSON, or the text of a file called `name`."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return translate(path, Facts(**facts)).text()


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Plan]:
    """The plan of a config of another tool: `planned(content, steps=1000)`.

    What the run is long is `steps` and `per_epoch`; further arguments are facts.
    """

    def plan(content: Any, steps: int, per_epoch: int = 10, name: str = "given.json", **facts: Any) -> Plan:
        recipe = tmp_path / "options" / "recipe" / "translated.yaml"
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(_translated(tmp_path, content, name, facts))
        words = ["recipe=translated", "task=plan", f"horizon.steps={steps}", f"horizon.steps_per_epoch={per_epoch}"]
        return lrflow.plan(*words, config_dir=tmp_path / "options")

    return plan


@pytest.fixture
def lrs(tmp_path: Path) -> Callable[..., Any]:
    """The LR at each step [steps], by option and values of the recipe's schedule, without composing the rest."""

    def rates(content: Any, steps: int, per_epoch: int = 10, name: str = "given.json", **facts: Any) -> Any:
        recipe = yaml.safe_load(_translated(tmp_path, content, name, facts))
        chosen = {key: option for entry in recipe["defaults"] for key, option in entry.items()}
        option = OmegaConf.load(home("conf") / "schedule" / f"{chosen['override /schedule']}.yaml")
        spec: Any = OmegaConf.to_container(OmegaConf.merge(option, recipe["schedule"]), resolve=True)
        schedule = from_spec(objects.Schedule.spec_of(spec))
        assert isinstance(schedule, Schedule)
        horizon, peak = Horizon(steps, per_epoch), recipe["optimizer"]["lr"]
        schedule = schedule.of_peak(peak)
        assert schedule.check(horizon) == []
        return peak * schedule(np.arange(steps, dtype=np.float64), horizon)

    return rates


def of_plan(plan: Plan) -> Any:
    """The LR of the first group at each step [steps]."""
    return plan.lr(np.arange(plan.horizon.steps))[:, 0]
