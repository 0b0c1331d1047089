"""The comparison of two plans."""

import io
import math

import numpy as np
import pytest
from rich.console import Console

from lrflow.plan import Plan
from lrflow.schedules import Constant, Continued, Cosine, Horizon, Linear, Schedule

LINEAR = Schedule(Linear())


def printed(diff, width=120):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(diff)
    return console.export_text()


def test_equal_plans_are_the_same(plan_of, schedule, horizon):
    diff = plan_of(schedule, horizon, 0.1, 0.2).diff(plan_of(schedule, horizon, 0.1, 0.2))
    assert diff.same
    assert diff.same_rates
    assert (diff.added, diff.removed, diff.renamed, diff.changes, diff.rates) == ((), (), {}, (), ())
    assert "nothing changed" in printed(diff)


class TestGroups:
    def test_added_removed_renamed(self, group, horizon):
        before = Plan(
            (
                group("stem", 0.1, LINEAR, parameters=5),
                group("body", 0.1, LINEAR, parameters=70),
                group("gone", 0.1, LINEAR),
            ),
            horizon,
        )
        after = Plan(
            (
                group("stem", 0.1, LINEAR, parameters=5),
                group("trunk", 0.1, LINEAR, parameters=70),
                group("new", 0.1, LINEAR, parameters=9),
            ),
            horizon,
        )
        diff = after.diff(before)
        assert (diff.added, diff.removed, diff.renamed) == (("new",), ("gone",), {"body": "trunk"})
        assert diff.compared == ("stem", "trunk")
        assert diff.same_rates
        assert not diff.same
        assert "the same at every step in the groups of both plans" in " ".join(printed(diff).split())

    def test_two_of_one_size_are_not_taken_for_renamed(self, group, horizon):
        before = Plan((group("a", 0.1, LINEAR), group("b", 0.1, LINEAR)), horizon)
        after = Plan((group("c", 0.1, LINEAR), group("d", 0.1, LINEAR)), horizon)
        diff = after.diff(before)
        assert (diff.added, diff.removed, diff.renamed) == (("c", "d"), ("a", "b"), {})
        assert "no group is trained in both" in printed(diff)

    def test_settings(self, group, horizon):
        before = Plan((group("a", 0.1, LINEAR), group("b", 0.1, LINEAR, weight_decay=0.05)), horizon)
        after = Plan(
            (group("a", 0.1, LINEAR, frozen=True), group("b", 0.2, Schedule(Cosine(), warmup="5%"), scale=2.0)), horizon
        )
        changes = {
            (change.group, change.setting): (change.before, change.after) for change in after.diff(before).changes
        }
        assert changes == {
            ("a", "frozen"): (False, True),
            ("b", "lr"): (0.1, 0.2),
            ("b", "scale"): (1.0, 2.0),
            ("b", "weight_decay"): (0.05, None),
            ("b", "schedule"): ("linear", "cosine, warmup 5%"),
        }
        assert after.diff(before).compared == ("b",)


class TestRates:
    def test_only_what_differs_is_listed(self, group, horizon):
        before = Plan((group("a", 0.1, LINEAR), group("b", 0.1, LINEAR)), horizon)
        after = Plan((group("a", 0.1, LINEAR), group("b", 0.3, LINEAR)), horizon)
        diff = after.diff(before)
        assert {change.groups for change in diff.rates} == {("b",)}
        assert [change.steps for change in diff.rates] == [(step, step) for step in (0, 50, 100, 150, 199)]
        for change in diff.rates:
            assert change.before == before.lr(change.steps[0])[1]
            assert change.after == after.lr(change.steps[1])[1]
            assert change.ratio == pytest.approx(3)
        assert diff.furthest.groups == ("b",)
        assert diff.furthest.steps == (0, 0)
        assert diff.lr_sum_ratios == {"a": 1.0, "b": pytest.approx(3)}

    def test_groups_that_changed_alike_share_an_entry(self, plan_of, horizon):
        diff = plan_of(LINEAR, horizon, 0.3, 0.3).diff(plan_of(LINEAR, horizon, 0.1, 0.1))
        assert all(change.groups == ("a", "b") for change in diff.rates)
        assert diff.furthest.groups == ("a", "b")
        assert "all groups: 0.1 → 0.3 (3x)" in printed(diff)

    def test_the_largest_difference_is_relative_to_the_peak(self, plan_of, horizon):
        linear, cosine = plan_of(LINEAR, horizon, 0.1), plan_of(Schedule(Cosine()), horizon, 0.1)
        gaps = np.abs(linear.lr(np.arange(200)) - cosine.lr(np.arange(200)))[:, 0]
        assert cosine.diff(linear).furthest.steps[0] == gaps.argmax()

    def test_from_and_to_zero(self, plan_of, custom, horizon):
        late = custom(lambda steps, horizon: (steps >= 100).astype(float), declared=(100,))
        rates = plan_of(late, horizon, 0.1).diff(plan_of(Schedule(Constant()), horizon, 0.1)).rates
        assert {change.ratio for change in rates} == {0.0}
        rates = plan_of(Schedule(Constant()), horizon, 0.1).diff(plan_of(late, horizon, 0.1)).rates
        assert {change.ratio for change in rates} == {math.inf}


class TestLength:
    def test_one_curve_over_two_lengths_has_the_same_lrs(self, plan_of):
        curve = Schedule(Cosine(), warmup="10%", warmup_start=0.0, floor=0.1)
        short, long = plan_of(curve, Horizon(100, 50), 0.1), plan_of(curve, Horizon(300, 50), 0.1)
        diff = long.diff(short)
        assert not diff.same
        assert diff.same_rates
        assert [change.why for change in diff.rates] == ["last step"]
        assert diff.lr_sum_ratios["a"] == pytest.approx(3, rel=0.01)
        text = printed(diff)
        assert "100 steps, 2 epochs of 50 → 300 steps, 6 epochs of 50" in text
        assert "at the same fraction" in text

    def test_a_run_is_compared_with_its_continuation_step_by_step(self, plan_of):
        before, after = Horizon(100), Horizon(200)
        old = plan_of(LINEAR, before, 0.1)
        new = plan_of(Continued(LINEAR, 60, before, "extend"), after, 0.1)
        diff = new.diff(old)
        assert diff.stepwise
        assert [change.steps for change in diff.rates] == [(75, 75), (99, 99)]
        assert diff.furthest.steps == (99, 99)
        assert "step by step" in printed(diff)


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_terminal(plan_of, width, group):
    before = Plan((group("backbone.stage1/no_decay", 0.1, LINEAR), group("head", 0.1, LINEAR)), Horizon(1000))
    after = Plan((group("backbone.stage1/no_decay", 0.2, LINEAR), group("head", 0.3, LINEAR)), Horizon(2000))
    lines = printed(after.diff(before), width).splitlines()
    assert max(map(len, lines)) <= width


def test_a_changed_route_is_reported(group, horizon):
    before, after = (Plan((group("a", 0.1, LINEAR, route=route),), horizon) for route in (None, "muon"))
    diff = after.diff(before)
    assert [(change.setting, change.before, change.after) for change in diff.changes] == [("route", None, "muon")]
    assert not diff.same
    assert diff.same_rates
    assert "a: the main optimizer → muon" in printed(diff)
