"""The checks pass for every schedule of lrflow and fail for curves with each kind of defect."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lrflow.plan.checks as module
from lrflow.plan import Plan
from lrflow.schedules import Constant, Cosine, Exponential, Horizon, Linear, MultiStep, Polynomial, Schedule, Shape

NAMES = [
    "peak reached",
    "peak never exceeded",
    "floor met",
    "no undeclared jump",
    "warmup shorter than the run",
    "schedule fits the run",
    "every group moves",
]


def failed(plan):
    return {check.name for check in plan.check() if not check.ok}


def detail(plan, name):
    return next(check.detail for check in plan.check() if check.name == name)


def test_all_hold_for_every_schedule(plan_of, schedule, horizon):
    plan = plan_of(schedule, horizon, 0.1, 0.003)
    assert [check.name for check in plan.check()] == NAMES
    assert failed(plan) == set()


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("shape", [Constant(), Linear(), Cosine(), Polynomial(6.0), Exponential(0.001, 1)])
def test_a_short_and_steep_run_does_not_jump(plan_of, shape, steps):
    assert failed(plan_of(Schedule(shape, warmup=steps // 3), Horizon(steps))) == set()


class TestPeak:
    def test_one_that_is_exceeded(self, plan_of, custom, horizon):
        plan = plan_of(custom(lambda steps, horizon: 1.0 + 0.02 * np.sin(steps)), horizon)
        assert "peak never exceeded" in failed(plan)
        assert "at step" in detail(plan, "peak never exceeded")

    def test_one_that_is_never_reached(self, plan_of, custom, horizon):
        plan = plan_of(custom(lambda steps, horizon: 0.5 * (1 - steps / horizon.steps)), horizon)
        assert failed(plan) == {"peak reached"}
        assert detail(plan, "peak reached") == "a: the highest is 50% of the peak, at step 0"

    def test_one_from_above_which_a_warmup_falls_as_declared(self, plan_of, horizon):
        plan = plan_of(Schedule(Cosine(), 10, 2.0), horizon)
        assert failed(plan) == set()
        assert detail(plan, "peak never exceeded").startswith("the highest is 200% of the peak, from which")
        assert detail(plan, "peak reached") == "100% where the warmup ends, at step 10"

    def test_one_between_two_steps_is_reached(self, plan_of, custom, horizon):
        def tent(steps, horizon):
            return 1 - np.abs(steps - 30.5) / horizon.steps

        assert failed(plan_of(custom(tent), horizon)) == set()

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_an_lr_that_is_no_number(self, plan_of, custom, horizon, bad):
        plan = plan_of(custom(lambda steps, horizon: np.where(steps == 120, bad, 1.0)), horizon)
        assert "peak never exceeded" in failed(plan)


class TestFloor:
    def test_one_that_is_broken(self, plan_of, custom, horizon):
        plan = plan_of(custom(lambda steps, horizon: 1 - steps / horizon.steps, floor=0.1), horizon)
        assert failed(plan) == {"floor met"}
        assert detail(plan, "floor met") == "a: falls to 0.5% at step 199, under the floor of 10%"

    def test_a_negative_lr(self, plan_of, custom, horizon):
        assert "floor met" in failed(plan_of(custom(lambda steps, horizon: np.cos(steps / 60)), horizon))

    def test_one_that_a_landing_shape_misses(self, plan_of, horizon):
        class Short(Shape):
            lands = True

            def __call__(self, step, phase):
                return 1.0 - 0.8 * phase.progress(step)

        class Told(Schedule):
            def spec(self):
                return {"_target_": "Told"}

        plan = plan_of(Told(Short()), horizon)
        assert failed(plan) == {"floor met"}
        assert detail(plan, "floor met") == "a: ends at 20% of the peak, not at the floor of 0%"

    def test_the_reported_lr_is_the_last_row_of_the_table(self, plan_of):
        """A landing curve meets its floor a step after the last one."""
        plan = plan_of(Schedule(Cosine()), Horizon(2))
        assert failed(plan) == set()
        assert detail(plan, "floor met") == "last step at 50% of the peak, floor 0%"
        assert plan.lr(1) == pytest.approx(0.5 * plan.lr(0))

    def test_the_warmup_may_start_under_it(self, plan_of, horizon):
        assert failed(plan_of(Schedule(Cosine(), warmup=20, floor=0.5), horizon)) == set()


class TestJumps:
    @settings(max_examples=40)
    @given(at=st.integers(1, 199), size=st.floats(0.05, 1.0))
    def test_an_undeclared_one_is_found_wherever_it_is(self, plan_of, custom, horizon, at, size):
        curve = custom(lambda steps, horizon: np.where(steps >= at, 1 - size, 1.0))
        plan = plan_of(curve, horizon)
        assert "no undeclared jump" in failed(plan)
        assert f"at step {at}," in detail(plan, "no undeclared jump")

    @settings(max_examples=40)
    @given(at=st.integers(1, 199), size=st.floats(0.05, 0.95))
    def test_a_declared_one_is_none(self, plan_of, custom, horizon, at, size):
        curve = custom(lambda steps, horizon: np.where(steps >= at, 1 - size, 1.0), declared=(at,))
        assert failed(plan_of(curve, horizon)) == set()

    def test_a_small_one_low_on_a_curve_is_found(self, plan_of, custom, horizon):
        def curve(steps, horizon):
            return (1 - 0.999 * steps / horizon.steps) * np.where(steps >= 190, 0.9, 1.0)

        assert "no undeclared jump" in failed(plan_of(custom(curve), horizon))

    def test_a_jump_between_declared_ones_is_found(self, plan_of, horizon):
        class Silent(MultiStep):
            def jumps(self, phase):
                return (100,)

            def __call__(self, step, phase):
                return np.where(step >= 100, 0.1, 1.0) * np.where(step >= 150, 0.1, 1.0)

        plan = plan_of(Schedule(Silent()), horizon)
        assert "no undeclared jump" in failed(plan)
        assert "at step 150," in detail(plan, "no undeclared jump")

    @pytest.mark.parametrize("at", [15, 16, 17, 31, 32, 33])
    def test_one_at_the_seam_of_two_chunks_is_found(self, plan_of, custom, horizon, monkeypatch, at):
        monkeypatch.setattr(module, "CHUNK", 16)
        plan = plan_of(custom(lambda steps, horizon: np.where(steps >= at, 0.5, 1.0)), horizon)
        assert f"at step {at}," in detail(plan, "no undeclared jump")

    def test_one_in_a_long_run_is_found_soon(self, plan_of, custom):
        horizon = Horizon(2_000_000)
        start = time.process_time()
        plan = plan_of(custom(lambda steps, horizon: np.where(steps >= 1_234_567, 0.5, 1.0)), horizon)
        assert "at step 1,234,567," in detail(plan, "no undeclared jump")
        assert time.process_time() - start < 2


class TestFit:
    def test_a_warmup_as_long_as_the_run(self, plan_of, horizon):
        plan = plan_of(Schedule(Cosine(), warmup=200), horizon)
        assert {"peak reached", "warmup shorter than the run", "schedule fits the run"} <= failed(plan)

    def test_a_milestone_past_the_end(self, plan_of, horizon):
        plan = plan_of(Schedule(MultiStep(milestones=[50, 900])), horizon)
        assert failed(plan) == {"schedule fits the run"}
        assert "schedule.shape.milestones[1]" in detail(plan, "schedule fits the run")


class TestMovement:
    def test_a_schedule_that_never_rises_above_zero(self, plan_of, custom, horizon):
        plan = plan_of(custom(lambda steps, horizon: np.zeros_like(steps)), horizon)
        assert {"peak reached", "every group moves"} <= failed(plan)

    def test_groups_that_cannot_move_are_named(self, group, horizon):
        constant = Schedule(Constant())
        plan = Plan((group("still", 0.0, constant), group("empty", 0.1, constant, parameters=0)), horizon)
        assert failed(plan) == {"every group moves"}
        assert detail(plan, "every group moves") == "never moved: still, empty"

    def test_nothing_to_train(self, group, horizon):
        plan = Plan((group("a", 0.1, Schedule(Constant()), frozen=True),), horizon)
        assert "every group moves" in failed(plan)


def test_only_the_groups_at_fault_are_named(group, custom, horizon):
    low = custom(lambda steps, horizon: np.full_like(steps, 0.5))
    plan = Plan((group("good", 0.1, Schedule(Constant())), group("low", 0.1, low)), horizon)
    assert detail(plan, "peak reached") == "low: the highest is 50% of the peak, at step 0"


@pytest.mark.parametrize(
    ("warmup", "reported"),
    [("5%", "no warmup: 5% of 8 steps is less than one"), ("0%", "no warmup"), ("10%", "1 of 8 steps")],
)
def test_a_warmup_of_less_than_a_step_is_none(plan_of, warmup, reported):
    assert detail(plan_of(Schedule(Cosine(), warmup=warmup), Horizon(8)), "warmup shorter than the run") == reported


def test_a_delay_is_no_part_of_the_warmup(plan_of):
    plan = plan_of(Schedule(Cosine(), warmup=20, delay=30), Horizon(100))
    assert detail(plan, "warmup shorter than the run") == "20 of 100 steps from step 30"
