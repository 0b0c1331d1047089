"""A plan is a pure function of the step: the same bits for any shape of the steps."""

import json
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrflow.errors import ConfigError
from lrflow.layers import Rule, resolve
from lrflow.plan import Plan
from lrflow.plan.table import landmarks
from lrflow.schedules import Constant, Cosine, Horizon, Linear, Schedule


def test_the_lr_is_the_peak_times_the_schedule(plan_of, schedule, horizon):
    plan = plan_of(schedule, horizon, 0.3, 0.007)
    steps = np.arange(horizon.steps + 20)
    for column, peak in enumerate((0.3, 0.007)):
        expected = [float(schedule(int(step), horizon)) * peak for step in steps]
        assert plan.lr(steps)[:, column].tolist() == expected


@settings(max_examples=20)
@given(steps=st.lists(st.integers(0, 250), max_size=40))
def test_any_steps_in_any_order_give_the_same_bits(plan_of, schedule, horizon, steps):
    plan = plan_of(schedule, horizon, 0.3, 0.007)
    every = plan.lr(np.arange(251))
    assert np.array_equal(plan.lr(np.array(steps, dtype=int)), every[np.array(steps, dtype=int)])
    for step in steps[:3]:
        assert np.array_equal(plan.lr(step), every[step])


def test_a_long_run_in_pieces_gives_the_same_bits(plan_of):
    plan = plan_of(Schedule(Cosine(), warmup="3%", floor=0.01), Horizon(60_000), 0.1)
    whole = plan.lr(np.arange(60_000))
    pieces = [plan.lr(np.arange(start, min(start + 997, 60_000))) for start in range(0, 60_000, 997)]
    assert np.array_equal(whole, np.concatenate(pieces))


def test_shapes(plan_of, horizon):
    plan = plan_of(Schedule(Constant()), horizon, 0.1, 0.2, 0.3)
    assert plan.lr(5).shape == (3,)
    assert plan.lr(np.int64(5)).shape == (3,)
    assert plan.lr([5]).shape == (1, 3)
    assert plan.lr(np.arange(7)).shape == (7, 3)
    assert plan.lr(np.array([], dtype=int)).shape == (0, 3)
    assert plan.lr(5).dtype == plan.lr([5]).dtype == np.float64


@settings(max_examples=20)
@given(first=st.floats(1e-8, 1e3), second=st.floats(1e-8, 1e3))
def test_groups_keep_their_ratio_at_every_step(plan_of, schedule, horizon, first, second):
    rates = plan_of(schedule, horizon, first, second).lr(np.arange(horizon.steps))
    moving = rates[:, 0] > 0
    assert np.allclose(rates[moving, 1] / rates[moving, 0], second / first, rtol=1e-14)
    assert not rates[~moving].any()


def test_frozen_groups_have_no_column_and_own_schedules_hold(group, horizon):
    cosine, constant = Schedule(Cosine()), Schedule(Constant())
    plan = Plan((group("a", 0.1, cosine), group("stem", 0.1, cosine, frozen=True), group("b", 0.2, constant)), horizon)
    assert plan.names == ("a", "b")
    assert plan.lr(150).tolist() == [0.1 * float(cosine(150, horizon)), 0.2]


def test_a_schedule_that_groups_share_is_evaluated_once(group, custom, horizon):
    calls = []

    def function(steps, horizon):
        calls.append(len(steps))
        return np.ones_like(steps)

    # Two equal curves that are different objects, and another curve.
    curves = [custom(function), custom(function), custom(function, name="other")]
    plan = Plan(tuple(group(name, 0.1, curve) for name, curve in zip("abc", curves, strict=True)), horizon)
    plan.lr(np.arange(100))
    assert calls == [100, 100]


def test_a_million_steps_take_less_than_a_tenth_of_a_second(group):
    horizon = Horizon(1_000_000)
    plan = Plan((group("a", 0.1, Schedule(Cosine(), warmup="5%")), group("b", 0.2, Schedule(Linear()))), horizon)
    steps = np.arange(1_000_000)
    took = []
    for _ in range(5):
        start = time.process_time()
        plan.lr(steps)
        took.append(time.process_time() - start)
    assert min(took) < 0.1


class TestCompile:
    def model(self):
        return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 2))

    def test_it_takes_the_values_of_the_groups(self, horizon):
        own = Schedule(Constant())
        rules = [
            Rule("stem", match="0.*", freeze=True),
            Rule("norm", select="norm", weight_decay=0.0, lr="0.5x"),
            Rule("head", match="*", schedule=own),
        ]
        run = Schedule(Cosine())
        plan = Plan.compile(resolve(self.model(), rules, lr=0.1), run, horizon)
        stem, norm, head = plan.groups
        assert (stem.name, stem.frozen, stem.tensors, stem.parameters) == ("stem", True, 2, 15)
        assert (norm.lr, norm.scale, norm.weight_decay, norm.schedule) == (0.05, 0.5, 0.0, run)
        assert (head.lr, head.scale, head.weight_decay, head.schedule) == (0.1, 1.0, None, own)
        assert plan.names == ("norm", "head")

    def test_a_schedule_in_epochs_of_unknown_length_is_an_error(self):
        groups = resolve(self.model(), [Rule("all", match="*")], lr=0.1)
        with pytest.raises(ConfigError) as caught:
            Plan.compile(groups, Schedule(Cosine(), warmup="1 epoch"), Horizon(100))
        assert [problem.key for problem in caught.value.problems] == ["schedule.warmup"]


class TestFingerprint:
    def test_it_is_the_same_for_equal_plans(self, plan_of, schedule, horizon):
        assert plan_of(schedule, horizon, 0.1).fingerprint == plan_of(schedule, horizon, 0.1).fingerprint

    def test_it_does_not_change_between_versions(self, plan_of):
        """Checkpoints hold the fingerprint: a change here would report unchanged plans as changed."""
        plan = plan_of(Schedule(Cosine(), warmup="5%"), Horizon(200, 50), 0.1)
        assert plan.fingerprint == "2333985e21ffd745d2fcf32d2c38e4c26cd3b63e308df9553a0c249a1128544e"

    def test_everything_in_a_plan_changes_it(self, group, horizon):
        cosine = Schedule(Cosine())
        plans = [Plan((group("a", 0.1, cosine),), horizon), Plan((group("a", 0.1, cosine),), Horizon(200, 25))]
        settings = {
            "name": "b", "lr": 0.2, "scale": 2.0, "weight_decay": 0.0, "schedule": Schedule(Linear()),
            "tensors": 3, "parameters": 11, "frozen": True,
        }  # fmt: skip
        for setting, value in settings.items():
            other = group(**{"name": "a", "lr": 0.1, "schedule": cosine, setting: value})
            plans.append(Plan((other,), horizon))
        assert len({plan.fingerprint for plan in plans}) == len(plans)


def test_landmarks(plan_of):
    cooled = plan_of(Schedule(Constant(), warmup="5%", cooldown="20%"), Horizon(200))
    assert landmarks(cooled) == {
        0: "start", 10: "warmup ends", 50: "25%", 100: "50%", 150: "75%", 160: "cooldown starts", 199: "last step"
    }  # fmt: skip
    assert landmarks(plan_of(Schedule(Cosine()), Horizon(1))) == {0: "last step"}


def test_landmarks_of_every_schedule_lie_in_the_run_and_in_order(plan_of, schedule, horizon):
    steps = list(landmarks(plan_of(schedule, horizon)))
    assert steps == sorted(set(steps))
    assert steps[0] == 0
    assert steps[-1] == horizon.steps - 1


def test_of_very_many_drops_some_are_landmarks(plan_of):
    from lrflow.schedules import Step

    marks = landmarks(plan_of(Schedule(Step(gamma=0.9, every="1 epoch")), Horizon(9_000, 100)))
    drops = [step for step, why in marks.items() if why == "drop"]
    assert len(drops) == 6
    assert drops[0] == 100
    assert drops[-1] == 8_900


def test_a_plan_survives_json(plan_of, schedule, horizon):
    plan = plan_of(schedule, horizon, 0.1, 1 / 3)
    again = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again.fingerprint == plan.fingerprint
    assert np.array_equal(again.lr(np.arange(220)), plan.lr(np.arange(220)))
