"""Configs of other tools, translated, composed as recipes and compiled to plans."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrflow
from lrflow.plan import Plan
from lrflow.translate import Facts, translate


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Plan]:
    """The plan of a config of another tool: `planned(content, steps=1000)`.

    `content` is keys with values, written as JSON, or a text, which is written to a file called `name`. What the run
    is long is `steps` and `per_epoch`; further arguments are facts.
    """

    def plan(content: Any, steps: int, per_epoch: int = 10, name: str = "given.json", **facts: Any) -> Plan:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        recipe = tmp_path / "options" / "recipe" / "translated.yaml"
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(translate(path, Facts(**facts)).text())
        words = ["recipe=translated", "task=plan", f"horizon.steps={steps}", f"horizon.steps_per_epoch={per_epoch}"]
        return lrflow.plan(*words, config_dir=tmp_path / "options")

    return plan


def lrs(plan: Plan) -> Any:
    """The LR of the first group at each step [steps]."""
    return plan.lr(np.arange(plan.horizon.steps))[:, 0]
