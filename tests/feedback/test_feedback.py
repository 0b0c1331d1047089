"""What all feedback has in common: bounds, intervals, and the interface for custom classes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import lrflow.layers
from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.feedback import SASA, Greedy, Hypergradient, KLAdaptive, MetricFeedback, Plateau
from lrflow.feedback.limits import BOUNDS, LIMITS
from lrflow.limits import outside
from lrflow.schedules import Horizon

DOCUMENT = Path(__file__).parents[2] / "docs" / "feedback.md"
KINDS = [Greedy, Hypergradient, KLAdaptive, Plateau, SASA]


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_feedback_has_factor_one_and_a_plain_state(kind: Any, tmp_path: Path) -> None:
    feedback = kind()
    assert feedback.factor == 1.0
    assert "\n" not in feedback.describe()
    torch.save(feedback.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True).keys() == feedback.state_dict().keys()


@pytest.mark.parametrize(
    ("every", "steps"), [(None, 20), ("3 epochs", 60), ("0.5 epochs", 10), (7, 7), ("1%", 4), ("0.01%", 1)]
)
def test_how_often_it_looks(every: Any, steps: int) -> None:
    assert KLAdaptive(every=every).interval(Horizon(400, 20)) == steps


def test_epochs_of_unknown_length() -> None:
    with pytest.raises(ConfigError, match="the length of an epoch is not known"):
        KLAdaptive(every="2 epochs").interval(Horizon(400))
    assert Hypergradient().interval(Horizon(400)) == 10
    assert SASA().interval(Horizon(400)) == 100


def test_the_factor_stays_in_its_bounds() -> None:
    feedback = KLAdaptive(min_factor=0.5, max_factor=2.0)
    for by, expected in ((3.0, 2.0), (0.1, 0.5), (1.5, 0.75)):
        feedback.multiply(by)
        assert feedback.factor == expected


def test_bounds_out_of_range(wrong: Any) -> None:
    assert wrong(KLAdaptive, min_factor=0.0, max_factor=0.9, every="-1") == {
        "feedback.min_factor", "feedback.max_factor", "feedback.every",
    }  # fmt: skip
    assert wrong(KLAdaptive, min_factor=1.5) == {"feedback.min_factor"}


def test_an_interval_shorter_than_the_recorded_norms() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    first, second = SASA(every=50), SASA(every=10, keep=1.0)
    first.watch([weight], Horizon(400))
    for _ in range(30):
        first.observe(0.1)
    second.load_state_dict(first.state_dict())
    second.watch([weight], Horizon(400))
    second.observe(0.1)
    assert second.state_dict()["count"] == 30


def test_the_example_of_the_documentation(factors: Any) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    feedback = names["Halve"](limit=3.0)
    assert isinstance(feedback, MetricFeedback)
    assert factors(feedback, [4.0, 2.0, 5.0]) == [0.5, 0.5, 0.25]


@pytest.mark.parametrize("kind", KINDS)
def test_each_setting_has_one_limit_that_its_default_keeps(kind: Any) -> None:
    limits = {**BOUNDS, **LIMITS[kind.__name__]}
    arguments = inspect.signature(kind).parameters
    assert arguments.keys() - {"monitor", "every"} <= limits.keys()
    assert LIMITS[kind.__name__].keys() <= arguments.keys()
    assert not outside(limits, {name: one.default for name, one in arguments.items()}, "feedback")


@pytest.mark.parametrize("kind", KINDS)
def test_config_and_class_raise_the_same_messages(kind: Any) -> None:
    option = {SASA: "sasa", KLAdaptive: "kl"}.get(kind, kind.__name__.lower())
    for name in inspect.signature(kind).parameters.keys() & {**BOUNDS, **LIMITS[kind.__name__]}.keys():
        with pytest.raises(ConfigError) as composed:
            compose([f"feedback={option}", f"feedback.{name}=-1"])
        with pytest.raises(ConfigError) as built:
            kind(**{name: -1})
        (problem,) = composed.value.problems
        assert name == "mode" or [problem] == built.value.problems


def test_former_names_of_classes_stand_for_the_classes() -> None:
    assert lrflow.feedback.Stationarity is SASA
    assert lrflow.layers.HiddenMatrices is lrflow.layers.MuonGroups
