"""Plans as plain data: read back exactly; invalid data raise one error and import nothing."""

import sys
from dataclasses import dataclass

import numpy as np
import pytest

from lrflow.errors import ConfigError, LrflowError
from lrflow.plan import Plan
from lrflow.schedules import Cosine, Horizon, Linear, Schedule, Shape
from lrflow.schedules.serialization import builtin_class


@dataclass(frozen=True)
class Half(Shape):
    """A custom shape."""

    level: float = 0.5

    def __call__(self, step, phase):
        return np.where(phase.progress(step) > 0.5, self.level, 1.0)

    def jumps(self, phase):
        return (phase.start + phase.steps // 2 + 1,)


def known(path):
    if path.endswith(".Half"):
        return Half
    return builtin_class(path)


def test_a_custom_shape_is_read_back_through_resolve(plan_of, horizon):
    plan = plan_of(Schedule(Half(level=0.25), warmup=10), horizon)
    again = Plan.from_dict(plan.to_dict(), resolve=known)
    assert again.fingerprint == plan.fingerprint
    assert np.array_equal(again.lr(np.arange(200)), plan.lr(np.arange(200)))


def test_without_resolve_only_lrflows_own_are_known(plan_of, horizon):
    with pytest.raises(ConfigError) as caught:
        Plan.from_dict(plan_of(Schedule(Half()), horizon).to_dict())
    assert [problem.key for problem in caught.value.problems] == ["plan.groups[0].schedule.shape._target_"]


def test_a_plan_cannot_import_or_run_anything(plan_of, horizon):
    data = plan_of(Schedule(Cosine()), horizon).to_dict()
    data["groups"][0]["schedule"] = {"_target_": "this.s"}
    with pytest.raises(ConfigError):
        Plan.from_dict(data)
    assert "this" not in sys.modules


def test_all_problems_are_reported_at_once(plan_of, horizon):
    data = plan_of(Schedule(Cosine()), horizon, 0.1, 0.2, 0.3).to_dict()
    data["groups"][0]["shedule"] = data["groups"][0].pop("schedule")
    data["groups"][1]["schedule"]["shape"] = {"_target_": "lrflow.schedules.Cosin"}
    data["groups"][2] = "c"
    data["horizon"]["steps"] = 0
    with pytest.raises(ConfigError) as caught:
        Plan.from_dict(data)
    problems = {problem.key: problem for problem in caught.value.problems}
    assert set(problems) == {
        "plan.groups[0].shedule",
        "plan.groups[1].schedule.shape._target_",
        "plan.groups[2]",
        "plan.horizon",
    }
    assert problems["plan.groups[0].shedule"].hint == "did you mean schedule?"


@pytest.mark.parametrize("data", [{}, {"version": 99}, [], "plan", None])
def test_data_that_are_no_plan_are_an_error(data):
    with pytest.raises(ConfigError, match=r"plan\.version"):
        Plan.from_dict(data)


def test_a_schedule_that_json_cannot_hold_is_an_error_with_its_name(plan_of, horizon):
    plan = plan_of(Schedule(Half(level=np.array([0.5]))), horizon)  # type: ignore[arg-type]
    with pytest.raises(LrflowError, match="Half"):
        _ = plan.fingerprint


def test_other_keys_are_ignored(plan_of):
    plan = plan_of(Schedule(Linear()), Horizon(10))
    assert Plan.from_dict({**plan.to_dict(), "checks": []}).fingerprint == plan.fingerprint


def test_numbers_of_numpys_are_numbers(plan_of, horizon):
    plain, numpys = Schedule(Linear(), floor=0.5), Schedule(Linear(), floor=np.float32(0.5))  # type: ignore[arg-type]
    of_numpy = plan_of(numpys, Horizon(np.int64(200), np.int64(50)))  # type: ignore[arg-type]
    assert of_numpy.fingerprint == plan_of(plain, Horizon(200, 50)).fingerprint


def test_a_route_is_read_back_and_a_plan_without_one_has_the_fingerprint_it_always_had(group, horizon):
    linear = Schedule(Linear())
    plain, routed = (Plan((group("a", 0.1, linear, **more),), horizon) for more in ({}, {"route": "muon"}))
    assert "route" not in plain.to_dict()["groups"][0]
    assert Plan.from_dict(routed.to_dict()).groups[0].route == "muon"
    assert Plan.from_dict(plain.to_dict()).groups[0].route is None
    assert plain.fingerprint != routed.fingerprint
    assert (
        plain.fingerprint == "7741b903990de8ba365e6a148aa5cb1a11dd6f94b901779f6011a0b9d71e8a9c"
    )  # of the release before routes
