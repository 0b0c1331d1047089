"""Specs: schedules as plain data and back."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from lrflow.config.schemas import objects
from lrflow.errors import ConfigError, Problem
from lrflow.schedules import (
    Constant,
    Continued,
    Cosine,
    Cyclical,
    Exponential,
    Horizon,
    InverseSqrt,
    InverseTime,
    Linear,
    MultiStep,
    OneCycle,
    Phase,
    Piecewise,
    Polynomial,
    Rex,
    Schedule,
    Shape,
    Step,
    Tabulated,
    Tanh,
    WarmRestarts,
)
from lrflow.schedules.serialization import from_spec, to_spec

SHAPES = [
    Constant(),
    Linear(),
    Cosine(),
    Cosine(k=2),
    Polynomial(3),
    Polynomial(3, k=0.5),
    Rex(),
    Tanh(-5, 2),
    Exponential(0.9, "2 epochs", True),
    InverseTime(0.5, 1, "2 epochs"),
    InverseSqrt(),
    InverseSqrt("10%"),
    Step(),
    MultiStep(),
    WarmRestarts(100, 2, 0.5, 5),
    Cyclical("1 epoch", 0.2, 0.3, 0.5, True),
    OneCycle("20%", 0.1, 0.001, "linear"),
    Piecewise([{"duration": "10%", "shape": Linear(), "start": 0.1, "end": 1}, {"shape": Cosine(k=2), "end": 0.01}]),
    Tabulated([[0, 0.5], ["10%", 1], ["2 epochs", 0.25]], between="hold"),
]
CONF = Path(__file__).parents[2] / "conf" / "schedule"


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_a_spec_survives_json_and_builds_the_same_schedule(shape: Shape) -> None:
    schedule = Schedule(shape, warmup="5%", warmup_start=0.1, cooldown="1 epoch", floor=0.01)
    spec = json.loads(json.dumps(to_spec(schedule)))
    assert spec == to_spec(schedule)
    assert from_spec(spec) == schedule


def test_a_spec_reads_like_the_config() -> None:
    assert to_spec(Schedule(MultiStep(0.1, ["50%", 300]), warmup="5%", floor=0.1)) == {
        "_target_": "lrflow.schedules.Schedule",
        "shape": {"_target_": "lrflow.schedules.MultiStep", "gamma": 0.1, "milestones": ["50%", "300 steps"]},
        "warmup": "5%",
        "warmup_start": None,
        "cooldown": "0 steps",
        "floor": 0.1,
    }


def test_an_argument_that_came_later_changes_no_spec_of_before() -> None:
    assert to_spec(Schedule(Cosine(k=1)))["shape"] == {"_target_": "lrflow.schedules.Cosine"}
    assert to_spec(Schedule(Cosine(), warmup_shape="linear")).keys().isdisjoint({"warmup_shape", "cooldown_shape"})
    curved = Schedule(Cosine(), floor=0.1, warmup_shape="cosine", cooldown_shape="exponential")
    assert to_spec(curved)["warmup_shape"] == "cosine"
    assert from_spec(to_spec(curved)) == curved
    assert to_spec(Schedule(Cosine(k=2)))["shape"] == {"_target_": "lrflow.schedules.Cosine", "k": 2.0}


@pytest.mark.parametrize("option", sorted({*CONF.glob("*.yaml")} - {CONF / "module.yaml"}), ids=lambda path: path.stem)
def test_every_option_of_the_config_is_a_spec(option: Path) -> None:
    content: Any = OmegaConf.to_container(OmegaConf.load(option), resolve=True)
    schedule = from_spec(objects.Schedule.spec_of(content))
    assert schedule.check(Horizon(1000, 100)) == []


def test_all_problems_of_a_piece_are_reported_with_their_keys() -> None:
    shape = {
        "_target_": "lrflow.schedules.Piecewise",
        "pieces": [
            {"duration": "soon", "shape": {"_target_": "lrflow.schedules.Step", "gamma": 2}},
            {"duration": 5, "shape": {"_target_": "lrflow.schedules.Cosin"}},
            {"shap": {"_target_": "lrflow.schedules.Cosine"}},
            {"_target_": "lrflow.schedules.Piece", "shape": {"_target_": "lrflow.schedules.Cosine"}, "start": 2},
        ],
    }
    with pytest.raises(ConfigError) as caught:
        from_spec({"_target_": "lrflow.schedules.Schedule", "shape": shape})
    assert [problem.key.removeprefix("schedule.shape.pieces") for problem in caught.value.problems] == [
        "[0].shape.gamma",
        "[1].shape._target_",
        "[3].start",
        "[0].duration",
        "[2].shap",
        "[2].shape",
    ]


def test_a_run_resumed_twice_survives_too() -> None:
    curve = Continued(Schedule(Step(), warmup=3), np.int64(40), Horizon(100, 10), "extend")
    twice = Continued(curve, 150, Horizon(200, 10), "decay_now")
    assert from_spec(json.loads(json.dumps(to_spec(twice)))) == twice


@dataclass(frozen=True)
class Halved(Shape):
    """A custom shape."""

    by: float = 2.0

    def __call__(self, step: np.ndarray, phase: Phase) -> np.ndarray:
        return 1.0 - phase.progress(step) / self.by


def test_a_custom_shape_needs_a_resolver() -> None:
    schedule = Schedule(Halved(4.0))
    spec = to_spec(schedule)
    assert spec["shape"] == {"_target_": f"{__name__}.Halved", "by": 4.0}
    with pytest.raises(ConfigError, match=r"schedule.shape._target_ = .*none of lrflow's schedules"):
        from_spec(spec)
    classes = {spec["_target_"]: Schedule, spec["shape"]["_target_"]: Halved}
    assert from_spec(spec, resolve=classes.__getitem__) == schedule


@dataclass(frozen=True)
class Picky(Halved):
    """A custom shape that raises ValueError for its arguments."""

    def __post_init__(self) -> None:
        if self.by < 1:
            raise ValueError("by is at least 1")


@pytest.mark.parametrize(
    ("shape", "fragment"),
    [
        ({"_target_": "Picky", "by": 0.5}, "schedule.shape = .*: by is at least 1"),
        ({"_target_": "Picky", "by": None}, "schedule.shape = .*: '<' not supported"),
        ({"_target_": "Pikcy"}, "schedule.shape._target_ = 'Pikcy': is not trusted"),
        ({"_target_": "_"}, "schedule.shape._target_ = '_'.*not a callable object"),
    ],
    ids=str,
)
def test_errors_of_a_custom_shape_are_reported(shape: dict[str, object], fragment: str) -> None:
    classes: dict[str, type] = {"Picky": Picky, "Schedule": Schedule, "_": 5}  # type: ignore[dict-item]

    def resolve(target: str) -> type:
        if target not in classes:
            raise ConfigError([Problem("_target_", "is not trusted", target)])
        return classes[target]

    with pytest.raises(ConfigError, match=fragment) as caught:
        from_spec({"_target_": "Schedule", "shape": shape}, resolve=resolve)
    assert len(caught.value.problems) == 1


def test_all_problems_of_a_spec_are_reported_with_their_keys() -> None:
    spec = {
        "_target_": "lrflow.schedules.Schedule",
        "shape": {"_target_": "lrflow.schedules.Step", "gamma": 2, "evry": 10},
        "warmup": "soon",
        "flor": 0.1,
    }
    with pytest.raises(ConfigError) as caught:
        from_spec(spec, key="layers.rules[1].schedule")
    problems = {problem.key.removeprefix("layers.rules[1].schedule."): problem for problem in caught.value.problems}
    assert set(problems) == {"shape.gamma", "shape.evry", "warmup", "flor"}
    assert problems["shape.evry"].hint == "did you mean every?"
    assert problems["flor"].hint == "did you mean floor?"


@pytest.mark.parametrize(
    ("spec", "fragment"),
    [
        ({}, r"schedule = {}: expected a mapping with a _target_"),
        ("cosine", r"schedule = 'cosine': expected a mapping with a _target_"),
        ({"_target_": "lrflow.schedules.Cosine"}, "schedule = .*: expected a schedule"),
        ({"_target_": "lrflow.schedules.Schedul"}, "did you mean lrflow.schedules.Schedule?"),
        ({"_target_": "lrflow.schedules.Shape"}, "schedule._target_ = .*none of lrflow's schedules"),
        ({"_target_": "os.system", "command": "true"}, "schedule._target_ = .*none of lrflow's schedules"),
        ({"_target_": 3}, "schedule._target_ = 3: .*none of lrflow's schedules"),
        ({"_target_": "lrflow.schedules.Schedule"}, "schedule.shape: Schedule needs it"),
        ({"_target_": "lrflow.schedules.Schedule", "shape": {"_target_": "lrflow.schedules.Cosin"}}, "mean .*Cosine"),
        ({"_target_": "lrflow.schedules.Horizon", "steps": 0}, "whole number >= 1"),
    ],
    ids=str,
)
def test_a_spec_that_describes_nothing(spec: dict[str, object], fragment: str) -> None:
    with pytest.raises(ConfigError, match=fragment) as caught:
        from_spec(spec)
    assert len(caught.value.problems) == 1


def test_schedules_need_neither_torch_nor_lightning() -> None:
    code = """
import sys
from lrflow.schedules import Cosine, Horizon, Schedule
Schedule(Cosine(), warmup="10%")([0, 5], Horizon(10))
print(*sorted({name.partition('.')[0] for name in sys.modules}))
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "numpy" in loaded
    heavy = {"torch", "pytorch_lightning", "hydra", "omegaconf", "pydantic", "matplotlib", "scipy", "rich"}
    assert not heavy.intersection(loaded)
