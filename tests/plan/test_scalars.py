from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lrflow.config.schemas.scalars import Scalar
from lrflow.layers import Rule, resolve
from lrflow.optimizers import build_optimizer
from lrflow.plan import Plan, PlanScheduler
from lrflow.schedules import Cosine, Horizon, Schedule

RUN = Horizon(200, 20, 8)


def scalar(name: str = "x", **given: Any) -> Any:
    return Scalar.model_validate(given).planned(name)


def plan(*scalars: Any, horizon: Horizon = RUN) -> Plan:
    groups = resolve(nn.Linear(3, 2), [Rule("all", match="*")], 0.1)
    return Plan.compile(groups, Schedule(Cosine()), horizon, {"lr": 0.1}, scalars)


LINE = np.arange(200) / 200


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"from": 0.2, "to": 0}, 0.2 * (1 - LINE)),  # PPO: 1 - update / updates
        ({"from": 0.2, "to": 0, "shape": "linear"}, 0.2 * (1 - LINE)),
        ({"from": 0.996, "to": 1, "shape": "cosine"}, 1 - 0.004 * (np.cos(np.pi * LINE) + 1) / 2),  # BYOL
        ({"from": 1, "to": 0.04, "over": "400 samples"}, np.maximum(1 - 0.96 * np.arange(200) / 50, 0.04)),  # DQN
        ({"from": 0, "to": 1, "warmup": "10%"}, np.minimum(np.arange(200) / 20, 1)),  # a KL weight
        ({"from": 0, "to": 1, "over": "10%"}, np.minimum(np.arange(200) / 20, 1)),
        ({"from": 0.04, "to": 0.07, "over": "3 epochs"}, np.minimum(0.04 + 0.03 * np.arange(200) / 60, 0.07)),  # DINO
        ({"from": 0.1, "to": 0, "start": "50%"}, np.minimum(0.1, 0.2 * (1 - LINE))),
        ({"from": 0.1, "to": 0, "cooldown": "50%"}, np.minimum(0.1, 0.2 * (1 - LINE))),
        ({"from": -1, "to": 3, "hold": "1 epoch"}, -1 + 4 * np.floor(np.arange(200) / 20) / 10),
        ({"from": 5, "to": 1, "shape": {"_target_": "lrflow.schedules.Step", "every": "50%", "gamma": 0.5}},
         np.where(LINE < 0.5, 5.0, 3.0)),
        ({"from": 0, "to": 1, "shape": {"_target_": "lrflow.schedules.WarmRestarts", "period": "25%"}},
         1 - (1 + np.cos(np.pi * (np.arange(200) % 50) / 50)) / 2),  # cyclical annealing of a KL weight
        ({"from": 0, "to": 1, "warmup": "25%", "cooldown": "25%"}, np.minimum(np.minimum(LINE, 1 - LINE) * 4, 1)),
        ({"from": 0.3}, np.full(200, 0.3)),
    ],
)  # fmt: skip
def test_values_are_those_of_the_formula(given: dict[str, Any], expected: np.ndarray) -> None:
    found = plan(scalar(**given)).scalar_values(np.arange(200))[:, 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert found[0] == pytest.approx(given["from"], abs=0)


NUMBER = st.floats(-1e6, 1e6)
CURVE = st.sampled_from(["linear", "cosine", "constant", "polynomial", "rex", "tanh"])


@given(NUMBER, NUMBER, CURVE, st.integers(0, 40), st.integers(1, 99), st.integers(100, 10**6))
@settings(max_examples=60, deadline=None)
def test_it_begins_at_from_stays_between_the_two_values_and_is_read_back(
    first: float, last: float, shape: str, start: int, over: int, steps: int
) -> None:
    made = scalar(
        **{"from": first, "to": last, "shape": shape, "start": f"{start}%", "over": f"{min(over, 100 - start)}%"}
    )
    whole = plan(made, horizon=Horizon(steps))
    at = np.unique(np.linspace(0, steps, 50).astype(int))
    values = whole.scalar_values(at)[:, 0]
    assert values[0] == first
    assert ((values >= min(first, last)) & (values <= max(first, last))).all()
    again = Plan.from_dict(json.loads(json.dumps(whole.to_dict())))
    assert again.fingerprint == whole.fingerprint != plan(horizon=Horizon(steps)).fingerprint
    assert (again.scalar_values(at)[:, 0] == values).all()
    for step, value in zip(at.tolist(), values.tolist(), strict=True):
        assert whole.scalar_values(step)[0] == value


def test_files_table_figure_and_difference_show_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    ours = plan(scalar("clip_range", **{"from": 0.2, "to": 0, "over": "50%"}))
    ours.write(tmp_path)
    rows = [line.split(",") for line in (tmp_path / "plan.csv").read_text().splitlines()]
    column = rows[0].index("scalar/clip_range")
    assert [float(row[column]) for row in rows[1:]] == ours.scalar_values(np.arange(200))[:, 0].tolist()
    content = json.loads((tmp_path / "plan.json").read_text())
    marks = {mark["step"]: mark["scalar/clip_range"] for mark in content["landmarks"]}
    assert (marks[0], marks[100], marks[199]) == (0.2, 0, 0)
    console = Console(width=100, record=True, quiet=False, file=(tmp_path / "table").open("w"))
    console.print(ours.table())
    console.print(ours.diff(plan(scalar("clip_range", **{"from": 0.2, "to": 0.1}))))
    text = console.export_text()
    assert "clip_range 0.2 to 0, linear over 50%" in text
    assert "clip_range: 0.2 to 0.1, linear → 0.2 to 0, linear over 50%" in text
    from lrflow.plan.figure import draw

    assert [axes.get_ylabel() for axes in draw(ours).axes] == ["learning rate", "clip range"]


def test_the_scheduler_passes_on_the_value_of_each_step() -> None:
    ours = plan(scalar("a", **{"from": 0.2, "to": 0}), scalar("b", **{"from": 0, "to": 1, "shape": "cosine"}))
    model = nn.Linear(3, 2)
    groups = resolve(model, [Rule("all", match="*")], 0.1)
    optimizer = build_optimizer(groups, {"lr": 0.1}, torch.optim.SGD, torch.device("cpu"))
    scheduler, seen = PlanScheduler(optimizer, ours), []
    scheduler.pass_scalars_to(lambda values: seen.append([values["a"], values["b"]]))
    for _ in range(120):
        optimizer.step()
        scheduler.step()
    assert seen == ours.scalar_values(np.arange(121)).tolist()
    again = PlanScheduler(optimizer, ours)
    again.load_state_dict(scheduler.state_dict())
    again.pass_scalars_to(lambda values: seen.append([values["a"], values["b"]]))
    assert seen[-1] == ours.scalar_values(120).tolist()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"start": "200 steps"}, "scalars.x.start.*the run has only 200"),
        ({"start": "60%", "over": "50%"}, "scalars.x.over.*ends after step 220"),
        ({"over": "1 epoch", "hold": "30 steps"}, "the run has only 20"),
        ({"warmup": "100%"}, "scalars.x.warmup.*200 steps"),
    ],
)
def test_durations_that_do_not_fit_are_problems(given: dict[str, Any], message: str) -> None:
    import re

    problems = scalar(**{"from": 1, "to": 0, **given}).check(RUN)
    assert len(problems) == 1
    assert re.search(message, str(problems[0]), re.DOTALL)


def test_a_plan_without_scalars_keeps_its_fingerprint_and_its_form() -> None:
    assert "scalars" not in plan().to_dict()
    assert plan().scalar_values(3).shape == (0,)
    assert plan(scalar(**{"from": 1, "to": 2})).scalar_values(3)[0] == pytest.approx(1 + 3 / RUN.steps)
