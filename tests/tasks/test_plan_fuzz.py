"""Whatever an edited plan.json holds, it is a plan that can be compared, or has problems; never a crash."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import PHASES, broken_bytes, broken_trees, examples

from lrflow.config import compose
from lrflow.display import QuietConsole
from lrflow.errors import ConfigError
from lrflow.plan import Plan
from lrflow.tasks.plan import compile_plan, read_plan

FUZZ = settings(max_examples=examples(30), deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
NAMES = ["lr", "scale", "schedule", "_target_", "warmup", "steps", "groups", "also", "low", "x"]
OVERRIDES = ["optimizer=momentum", "schedule=one_cycle", "schedule.warmup=10%", "horizon.steps=40", "task=plan"]


@pytest.fixture(scope="module")
def plan() -> Plan:
    return compile_plan(compose(OVERRIDES))


@pytest.fixture(scope="module")
def content(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("plan")
    plan.write(folder, picture=False)
    return (folder / "plan.json").read_bytes()


def tried(content: bytes, plan: Plan, path: Path) -> None:
    path.write_bytes(content)
    try:
        other = read_plan(str(path), path.parent)
    except ConfigError as error:
        shown = [str(problem) for problem in error.problems]
        assert all(shown)  # one of two outcomes
        return
    if other.horizon.steps < 10**5 and all(math.isfinite(group.lr) for group in other.groups):
        QuietConsole(quiet=False, file=(path.parent / "said").open("w")).print(plan.diff(other))


@settings(FUZZ)
@given(data=st.data())
def test_any_bytes(data: st.DataObject, plan: Plan, content: bytes, tmp_path: Path) -> None:
    tried(data.draw(broken_bytes(content)), plan, tmp_path / "plan.json")


@settings(FUZZ)
@given(data=st.data())
def test_any_tree(data: st.DataObject, plan: Plan, content: bytes, tmp_path: Path) -> None:
    tree: Any = json.loads(content)
    tree = {name: tree[name] for name in ("version", "horizon", "groups", "fingerprint")}
    broken = data.draw(broken_trees(tree, NAMES))
    tried(json.dumps(broken, default=str, skipkeys=True).encode(errors="replace"), plan, tmp_path / "plan.json")
