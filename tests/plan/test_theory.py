"""What theory says of a plan, in words and as a part of the comparison with another plan."""

import io

import pytest
from rich.console import Console

from lrflow.plan import Plan
from lrflow.plan.theory import describe_bound, main_curve, record_bound
from lrflow.schedules import Constant, Cosine, Horizon, Linear, Schedule

COSINE, WSD, LINEAR = Schedule(Cosine()), Schedule(Constant(), cooldown="20%"), Schedule(Linear())
HORIZON = Horizon(6400)


def printed(what):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


def test_one_line_per_value_of_the_bound(group):
    alike = Plan((group("a", 0.1, COSINE), group("b", 0.2, COSINE)), HORIZON)
    line = (
        "theory: at the best LR, the bound of the last iterate is 1.03x that of a linear decay to zero over 6,400 steps"
    )
    assert describe_bound(alike) == [line]
    two = Plan((group("a", 0.1, WSD), group("b", 0.2, LINEAR), group("c", 0, WSD, frozen=True)), HORIZON)
    assert [line.partition("iterate is ")[2].partition("x")[0] for line in describe_bound(two)] == ["1.08", "1"]
    assert [line.rpartition(" ")[2] for line in describe_bound(two)] == ["(a)", "(b)"]
    assert [one["groups"] for one in record_bound(two)] == [["a"], ["b"]]
    assert record_bound(two)[1]["relative"] == 1


def test_the_curve_of_a_plan_is_that_of_most_parameters(group):
    groups = (
        group("a", 0.1, WSD, parameters=5),
        group("b", 0.1, COSINE, parameters=9),
        group("c", 0.1, WSD, parameters=5),
    )
    assert main_curve(Plan(groups, HORIZON)) == WSD
    assert main_curve(Plan((group("a", 0, WSD, frozen=True),), HORIZON)) is None


def test_a_comparison_states_how_the_best_lr_changes(group):
    def plan(curve, steps=6400, peak=0.1):
        return Plan((group("a", peak, curve), group("b", peak, LINEAR)), Horizon(steps))

    assert plan(WSD).diff(plan(COSINE)).best_lrs == {"0.529x": ["a"], "1x": ["b"]}
    assert "best LR, by theory  0.529x (a); 1x (b)" in printed(plan(WSD).diff(plan(COSINE)))
    longer = {group: text for text, (group,) in plan(WSD, 25_600).diff(plan(COSINE)).best_lrs.items()}
    assert longer["b"] == "0.5x"
    assert longer["a"].endswith("x, length 0.5x)")
    assert float(longer["a"].partition("x")[0]) == pytest.approx(0.529 / 2, rel=0.01)
    assert "by theory" not in printed(plan(COSINE, peak=0.2).diff(plan(COSINE)))
