"""The table describes the plan on any terminal."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from lrflow.plan import Plan
from lrflow.plan.table import describe, landmarks
from lrflow.schedules import Constant, Continued, Cosine, Horizon, Linear, MultiStep, Product, Schedule, Step, Tabulated


def printed(plan, width=80, **settings):
    file = io.StringIO()
    Console(file=file, width=width, **settings).print(plan.table())
    return file.getvalue()


@pytest.fixture(scope="module")
def plan(group):
    cosine = Schedule(Cosine(), warmup="5%")
    return Plan(
        (
            group("no_decay", 3e-3, cosine, weight_decay=0.0, tensors=8, parameters=1_546),
            group("decay", 3e-3, cosine, tensors=3, parameters=84_000),
            group("head", 3e-2, cosine, scale=10.0),
            group("embed", 3e-3, cosine, frozen=True),
        ),
        Horizon(938, 469),
    )


def rows(text):
    return [line.split() for line in text.splitlines()]


def test_it_shows_the_run_and_the_schedule(plan):
    assert ["run", "938", "steps,", "2", "epochs", "of", "469"] in rows(printed(plan))
    assert ["schedule", "cosine,", "warmup", "5%"] in rows(printed(plan))
    assert plan.fingerprint[:12] in printed(plan)


def test_one_epoch_and_a_warmup_that_the_run_is_too_short_for(group):
    text = printed(Plan((group("a", 3e-3, Schedule(Cosine(), warmup="5%")),), Horizon(8, 8)))
    assert "8 steps, 1 epoch of 8" in text
    assert "cosine, warmup 5% (less than a step)" in text


def test_it_lists_every_group(plan):
    found = rows(printed(plan))
    assert ["no_decay", "8", "1,546", "1x", "0.003", "0"] in found
    assert ["decay", "3", "84,000", "1x", "0.003", "optimizer's"] in found
    assert ["head", "2", "10", "10x", "0.03", "optimizer's"] in found
    assert ["embed", "2", "10", "frozen"] in found


def test_it_gives_the_lr_at_every_landmark_once_for_groups_that_share_it(plan):
    found = rows(printed(plan))
    assert ["step", "epoch", "no_decay,", "decay", "head"] in found
    assert ["47", "0.1", "warmup", "ends", "0.003", "0.03"] in found
    for step in landmarks(plan):
        assert any(row[:1] == [str(step)] for row in found)


def test_it_marks_the_checks(plan_of, plan, custom):
    assert printed(plan).count("✓") == 7
    broken = plan_of(custom(lambda steps, horizon: 2.0 + 0 * steps), Horizon(10))
    assert "✗  peak never exceeded" in printed(broken)


def test_there_is_no_colour_but_on_a_terminal(plan):
    assert "\x1b" not in printed(plan)
    assert "\x1b" in printed(plan, force_terminal=True, color_system="standard")


def test_a_terminal_that_knows_ascii_only_gets_ascii(plan):
    file = SimpleNamespace(encoding="ascii", text="", flush=lambda: None, isatty=lambda: False)
    file.write = lambda text: setattr(file, "text", file.text + text)
    Console(file=file, width=80).print(plan.table())
    assert file.text.isascii()
    assert "ok  peak reached" in file.text


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("count", [1, 3, 12, 60])
def test_many_groups_fit_and_every_one_has_its_lr(group, width, count):
    cosine = Schedule(Cosine(), warmup="5%")
    groups = tuple(group(f"backbone.stage{i}/no_decay", 0.1 * 0.8**i, cosine) for i in range(count))
    text = printed(Plan(groups, Horizon(100_000, 1_000)), width)
    assert max(len(line) for line in text.splitlines()) <= width
    if count > 3:
        rates = text[text.index("LR at step") :]
        assert all(f"stage{i}/no_decay" in rates for i in range(count))


def test_names_with_brackets_are_shown_as_they_are(group, horizon):
    plan = Plan((group("layers[red]/no_decay[/]", 0.1, Schedule(Constant())),), horizon)
    assert "layers[red]/no_decay[/]" in printed(plan, 120)
    other = Plan((group("layers[red]/no_decay[/]", 0.2, Schedule(Constant())),), horizon)
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(other.diff(plan))
    assert "layers[red]/no_decay[/]" in console.export_text()


def test_groups_with_their_own_schedules_are_distinguished(group, horizon):
    plan = Plan((group("a", 0.1, Schedule(Cosine())), group("b", 0.1, Schedule(Linear()))), horizon)
    assert "schedule  cosine (a)" in printed(plan)
    assert "schedule  linear (b)" in printed(plan)


def test_a_plan_that_trains_nothing_has_a_table(group, horizon):
    text = printed(Plan((group("a", 0.1, Schedule(Constant()), frozen=True),), horizon))
    assert "every group is frozen" in text


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Schedule(Constant()), "constant"),
        (Schedule(Cosine(), warmup="5%", cooldown=10, floor=0.1), "cosine, warmup 5%, cooldown 10 steps, floor 0.1"),
        (Schedule(MultiStep(gamma=0.5, milestones=["50%", 80])), "multistep, gamma 0.5, milestones 50% 80 steps"),
        (Continued(Schedule(Linear()), 1200, Horizon(2000), "extend"), "linear; from step 1,200: extend"),
    ],
)
def test_schedules_in_words(schedule, words):
    assert describe(schedule) == words


def test_forms_in_words(group, horizon):
    floored = Schedule(Linear(), floor="1e-6 lr", rounding="up").of_peak(0.1)
    assert describe(floored) == "linear, floor 1e-06 lr, rounding up"  # the same for groups with other peaks
    long = Schedule(Cosine(), shape_length=5_000)
    assert describe(long, Horizon(1000)) == "cosine, shape_length 5000 steps (cut off)"
    assert describe(long, Horizon(9000)) == "cosine, shape_length 5000 steps"
    product = Schedule(Product([Cosine(), Step(0.1, 30)]))
    assert describe(product) == "product, of (cosine) (step, gamma 0.1, every 30 steps)"
    low = Plan((group("a", 0.1, Schedule(Tabulated([[0, 0.3], ["100%", 0.1]]))),), horizon)
    (reached,) = [check for check in low.check() if check.name == "peak reached"]
    assert (reached.ok, reached.detail) == (True, "the highest is 30% of the peak, at step 0")


def test_a_route_has_a_column_only_where_there_is_one(plan, group):
    cosine = Schedule(Cosine())
    routed = Plan((group("hidden", 0.02, cosine, route="muon"), group("rest", 3e-3, cosine)), Horizon(938, 469))
    found = rows(printed(routed))
    assert ["group", "route", "tensors", "parameters", "LR", "scale", "peak", "LR", "weight", "decay"] in found
    assert ["hidden", "muon", "2", "10", "1x", "0.02", "optimizer's"] in found
    assert ["rest", "2", "10", "1x", "0.003", "optimizer's"] in found
    assert "route" not in printed(plan)
