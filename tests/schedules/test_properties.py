"""Properties of every schedule, tested with Hypothesis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from lrflow.schedules import (
    Constant,
    Continued,
    Cosine,
    Cyclical,
    Duration,
    Exponential,
    Horizon,
    InverseSqrt,
    InverseTime,
    Linear,
    MultiStep,
    OneCycle,
    Piece,
    Piecewise,
    Polynomial,
    Power,
    Product,
    Rex,
    Schedule,
    Shape,
    Step,
    Tabulated,
    Tanh,
    WarmRestarts,
)
from lrflow.schedules.serialization import from_spec, to_spec

relaxed = settings(deadline=None)  # the machine may be busy

horizons = st.builds(Horizon, st.integers(1, 150), st.integers(1, 30))
durations = st.one_of(
    st.integers(0, 80).map(lambda steps: Duration(steps, "steps")),
    st.floats(0, 3).map(lambda epochs: Duration(epochs, "epochs")),
    st.floats(0, 0.9).map(lambda share: Duration(share, "fraction")),
)
gammas = st.floats(0.01, 1.0)
falling: st.SearchStrategy[Shape] = st.one_of(
    st.sampled_from([Constant(), Linear(), Cosine(), Rex(), InverseSqrt()]),
    st.builds(Cosine, st.floats(0.5, 5.0)),
    st.builds(Polynomial, st.floats(0.5, 5.0)) | st.builds(Polynomial, st.just(1.0), st.floats(0.5, 5.0)),
    st.builds(Tanh, st.floats(-100, 0), st.floats(0.1, 10)),
    st.builds(InverseTime, st.floats(0.01, 100), st.floats(0.1, 5), durations),
    st.builds(InverseSqrt, durations),
    st.builds(Exponential, gammas, durations, st.booleans()),
    st.builds(Step, gammas, durations),
    st.builds(MultiStep, gammas, st.lists(durations, min_size=1, max_size=4)),
)
restarts = st.builds(WarmRestarts, durations, st.floats(1, 4), gammas, durations)
rising: st.SearchStrategy[Shape] = st.one_of(
    st.builds(Power, st.integers(1, 80), st.floats(0.1, 2)),  # may have left the peak where the warmup ends
    st.builds(Cyclical, durations, st.floats(0.01, 1), st.floats(0, 1), gammas, st.booleans()),
    st.builds(OneCycle, durations, st.floats(0, 1), st.floats(0, 1), st.sampled_from(["cosine", "linear"])),
)
pieces = st.builds(Piece, falling | restarts, durations | st.none(), st.floats(0.01, 1), st.just(0.0))
slopes = st.builds(Piece, st.sampled_from([Linear(), Cosine()]), durations, st.floats(0.01, 1), st.floats(0.01, 1))
many = st.builds(
    lambda first, others, last: Piecewise([first, *others, last]),
    st.builds(Piece, falling, durations),
    st.lists(slopes, max_size=3),
    pieces,
)
tables = st.builds(
    lambda steps, values, between: Tabulated(list(zip(sorted(steps), values, strict=True)), None, between),
    st.lists(st.integers(0, 150), min_size=5, max_size=5, unique=True),
    st.lists(st.floats(0.01, 1) | st.just(1.0), min_size=5, max_size=5),
    st.sampled_from(["linear", "hold"]),
)


def schedules_of(shapes: st.SearchStrategy[Shape]) -> st.SearchStrategy[Schedule]:
    """Schedules over such shapes; exponential ramps need somewhere to come from and to go to."""
    any_ramps = st.builds(
        Schedule,
        shapes,
        warmup=durations,
        warmup_start=st.none() | st.floats(0, 1),
        cooldown=durations,
        floor=st.just(0.0) | st.floats(0, 1),
        warmup_shape=st.sampled_from(["linear", "cosine", "constant"]),
        cooldown_shape=st.sampled_from(["linear", "cosine", "1-sqrt", "1-square", "power"]),
    )
    exponential = st.builds(
        Schedule,
        shapes,
        warmup=durations,
        warmup_start=st.none() | st.floats(1e-3, 1),
        cooldown=durations,
        floor=st.floats(1e-3, 1),
        warmup_shape=st.just("exponential"),
        cooldown_shape=st.just("exponential"),
    )
    return any_ramps | exponential


schedules = schedules_of(falling | restarts | rising | many | tables)
products = st.builds(Product, st.lists(falling | restarts | rising, min_size=2, max_size=3))
clocked = st.builds(
    lambda durations, shapes: Piecewise(
        [Piece(shape, duration, clock="piece") for shape, duration in zip(shapes, durations, strict=True)]
    ),
    st.lists(durations, min_size=3, max_size=3),
    st.lists(falling | restarts, min_size=3, max_size=3),
)
forms = st.builds(
    lambda schedule, hold, mode, linspace, **changes: replace(
        schedule,
        hold=hold,
        warmup_mode=mode if changes["shape_from"] == "start" else "meet",
        warmup_ends_at="last_step" if linspace and schedule.warmup_shape != "constant" else "next_step",
        **changes,
    ),
    schedules | schedules_of(products | clocked),
    st.just(0) | durations,
    st.sampled_from(["meet", "override", "multiply", "blend"]),
    st.booleans(),
    shape_from=st.sampled_from(["warmup_end", "start"]),
    shape_length=st.none() | st.integers(1, 300),
    count_from=st.integers(0, 1),
    hold_part=st.sampled_from(["all", "shape"]),
    rounding=st.sampled_from(["nearest", "up", "down"]),
    delay=st.just(0) | durations,
)
above = st.builds(lambda schedule, start: replace(schedule, warmup_start=start), forms, st.floats(1.0, 20.0))
held = st.builds(lambda schedule, hold: replace(schedule, hold=hold), schedules, durations)
ways = st.sampled_from(["keep", "rescale", "extend", "decay_now", "rewarm"])
continued = st.builds(Continued, schedules | held | forms | above, st.integers(0, 150), horizons, ways)
curves = (
    schedules | held | forms | above | continued | st.builds(Continued, continued, st.integers(0, 150), horizons, ways)
)


def every_step(horizon: Horizon) -> np.ndarray:
    return np.arange(horizon.steps + 1)


@relaxed
@given(curves, horizons)
def test_never_above_the_peak_nor_below_zero(curve: Schedule | Continued, horizon: Horizon) -> None:
    rates = curve(every_step(horizon), horizon)
    assert np.all((rates >= 0.0) & (rates <= curve.highest))


@relaxed
@given(schedules | held | forms, horizons)
def test_only_a_warmup_that_starts_above_the_peak_is_above_it(schedule: Schedule, horizon: Horizon) -> None:
    assume(not schedule.check(horizon))
    assert schedule.highest == 1.0
    falls = replace(schedule, warmup_start=3.0)
    assert falls.highest == (3.0 if schedule.warmup.value else 1.0)
    after = np.arange(falls.phase(horizon).start, horizon.steps + 1)
    assert falls(after, horizon).tobytes() == schedule(after, horizon).tobytes()


@relaxed
@given(schedules_of(falling), horizons, st.floats(1.0, 20.0, exclude_min=True))
def test_a_warmup_from_above_the_peak_falls_to_it(schedule: Schedule, horizon: Horizon, start: float) -> None:
    warmup = schedule.warmup.steps(horizon)
    assume(0 < warmup < horizon.steps)
    rates = replace(schedule, warmup_start=start)(np.arange(horizon.steps + 50), horizon)
    assert rates[0] == start
    assert rates[warmup] == 1.0
    assert np.all(np.diff(rates) <= 0)


@relaxed
@given(schedules, horizons)
def test_never_under_the_floor_outside_the_warmup(schedule: Schedule, horizon: Horizon) -> None:
    warmup = schedule.warmup.steps(horizon)
    assume(warmup <= horizon.steps)
    steps = np.arange(warmup, horizon.steps + 50)
    assert np.all(schedule(steps, horizon) >= schedule.floor)


@relaxed
@given(schedules_of(falling | restarts), horizons)
def test_the_peak_is_where_the_warmup_ends(schedule: Schedule, horizon: Horizon) -> None:
    warmup = schedule.warmup.steps(horizon)
    assume(warmup < horizon.steps)
    assert schedule(warmup, horizon) == 1.0


@relaxed
@given(schedules_of(falling), horizons)
def test_it_rises_to_the_peak_and_never_again(schedule: Schedule, horizon: Horizon) -> None:
    warmup = schedule.warmup.steps(horizon)
    rates = schedule(np.arange(horizon.steps + 50), horizon)
    assert np.all(np.diff(rates[: warmup + 1]) >= 0)
    assert np.all(np.diff(rates[warmup:]) <= 0)


@relaxed
@given(schedules, horizons)
def test_a_warmup_leads_to_where_the_shape_starts(schedule: Schedule, horizon: Horizon) -> None:
    warmup = schedule.warmup.steps(horizon)
    assume(0 < warmup < horizon.steps)
    rates = schedule(np.arange(warmup + 1), horizon)
    assert np.all(np.diff(rates) >= 0)
    if warmup not in schedule.jumps(horizon):
        np.testing.assert_allclose(schedule(warmup - 1e-9, horizon), rates[-1], rtol=1e-6)


@relaxed
@given(schedules, horizons)
def test_a_cooldown_ends_on_the_floor(schedule: Schedule, horizon: Horizon) -> None:
    warmup, cooldown = (part.steps(horizon) for part in (schedule.warmup, schedule.cooldown))
    assume(cooldown > 0 and warmup + cooldown <= horizon.steps)
    assert schedule(horizon.steps, horizon) == schedule.floor


@relaxed
@given(curves, horizons, st.integers(1, 150))
def test_one_step_many_steps_and_blocks_of_steps_agree_bit_for_bit(
    curve: Schedule | Continued, horizon: Horizon, block: int
) -> None:
    steps = every_step(horizon)
    at_once = curve(steps, horizon)
    singly = np.array([curve(int(step), horizon) for step in steps])
    in_blocks = np.concatenate([curve(steps[i : i + block], horizon) for i in range(0, len(steps), block)])
    backwards = curve(steps[::-1], horizon)[::-1]
    assert at_once.tobytes() == singly.tobytes() == in_blocks.tobytes() == backwards.tobytes()


@relaxed
@given(curves, horizons, horizons, st.randoms(use_true_random=False))
def test_earlier_calls_change_nothing(
    curve: Schedule | Continued, horizon: Horizon, other: Horizon, random: object
) -> None:
    steps = every_step(horizon)
    given_steps = steps.copy()
    spec = to_spec(curve)
    first = curve(steps, horizon)
    shuffled = list(steps)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for step in shuffled[:10]:
        curve(step, horizon)
    curve(steps, other)
    curve.check(other)
    curve.jumps(other)
    assert curve(steps, horizon).tobytes() == first.tobytes()
    assert steps.tolist() == given_steps.tolist()
    assert to_spec(curve) == spec


@relaxed
@given(curves, horizons)
@example(  # the LR after the warmup is that of the next hold, at which the run has cooled down
    Schedule(Constant(), warmup=3, cooldown=1, hold=2, hold_part="shape", count_from=1), Horizon(4, 1)
)
@example(  # the shape jumps where the cooldown cuts it off
    Schedule(
        Piecewise([Piece(Linear(), 60, clock="piece"), Piece(Constant())]), cooldown=51, floor=0.5, shape_length=61
    ),
    Horizon(111, 1),
)
@example(  # the LR at the resumption is above the one that the second warmup leads to
    Continued(Schedule(OneCycle(0, start=0.5), warmup=1), 2, Horizon(2, 1), "rewarm"), Horizon(4, 1)
)
def test_nothing_jumps_except_where_it_is_declared(curve: Schedule | Continued, horizon: Horizon) -> None:
    # A warmup that fills its run is refused; a constant one would jump where that run has ended.
    assume(all(problem.key != "schedule.warmup" for problem in curve.check(horizon)))
    steps = np.setdiff1d(np.arange(1, horizon.steps), curve.jumps(horizon))
    before, at = curve(steps - 1e-9, horizon), curve(steps, horizon)
    # The steepest that is not a jump falls all the way within one step, as a square root, in a stretch pressed twice.
    assert np.all(np.abs(before - at) < 0.01)


@relaxed
@given(curves, horizons)
def test_jumps_are_rising_steps_of_the_run(curve: Schedule | Continued, horizon: Horizon) -> None:
    jumps = curve.jumps(horizon)
    assert all(isinstance(jump, int) and 0 < jump <= horizon.steps for jump in jumps)
    assert list(jumps) == sorted(jumps)


@relaxed
@given(curves, horizons)
def test_a_schedule_without_problems_moves(curve: Schedule | Continued, horizon: Horizon) -> None:
    assume(not curve.check(horizon))
    rates = curve(np.arange(horizon.steps), horizon)
    assert rates[-1] > 0.0 or (isinstance(curve, Schedule) and curve.count_from)
    # With hold, a rise of the shape itself may skip the peak; the plan's checks report it.
    if isinstance(curve, Schedule) and not (curve.hold.value or curve.may_stay_below or curve.cut_off(horizon)):
        assert rates.max() == curve.highest


@relaxed
@given(schedules, horizons, st.integers(2, 60))
def test_a_held_lr_is_that_of_the_last_multiple_of_hold(schedule: Schedule, horizon: Horizon, hold: int) -> None:
    assume(schedule.warmup_start is not None)  # else it depends on the hold, so that all rises are equal
    steps = np.arange(horizon.steps)
    one = replace(schedule, hold=hold)
    assert one(steps, horizon).tobytes() == schedule(steps // hold * hold, horizon).tobytes()
    assert one(horizon.steps, horizon) == schedule(horizon.steps, horizon)
    moves = np.flatnonzero(np.diff(one(every_step(horizon), horizon))) + 1
    assert one.jumps(horizon) == tuple(moves.tolist())


@relaxed
@given(forms, horizons)
def test_a_delay_moves_the_clock_of_the_whole_schedule(schedule: Schedule, horizon: Horizon) -> None:
    late = schedule.delay.steps(horizon.rounding_to(schedule.rounding))
    assume(late < horizon.steps)
    on_time, rest = replace(schedule, delay=0), Horizon(horizon.steps - late, horizon.steps_per_epoch)
    rates = schedule(every_step(horizon), horizon)
    assert rates[late:].tobytes() == on_time(every_step(rest), rest).tobytes()
    assert np.all(rates[:late] == rates[late])
    assert schedule.jumps(horizon) == tuple(late + step for step in on_time.jumps(rest))
    assert schedule.check(horizon) == on_time.check(rest)
    assert schedule.ends_at_floor(horizon) == on_time.ends_at_floor(rest)
    assert schedule.cut_off(horizon) == on_time.cut_off(rest)
    phase, own = schedule.phase(horizon), on_time.phase(rest)
    assert (phase.start, phase.stop) == (late + own.start, late + own.stop)


@relaxed
@given(curves)
def test_specs_round_trip(curve: Schedule | Continued) -> None:
    assert from_spec(to_spec(curve)) == curve


@relaxed
@given(schedules | continued, horizons, horizons, ways, st.data())
def test_a_resumed_run_follows_the_old_schedule_up_to_there(
    schedule: Schedule | Continued, before: Horizon, horizon: Horizon, how: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, min(before.steps, horizon.steps)))
    steps = np.arange(at)
    assert Continued(schedule, at, before, how)(steps, horizon).tobytes() == schedule(steps, before).tobytes()


@relaxed
@given(schedules | continued, horizons, horizons, st.data())
def test_only_rescaling_moves_the_lr_where_a_run_is_resumed(
    schedule: Schedule | Continued, before: Horizon, horizon: Horizon, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, min(before.steps, horizon.steps) - 1))
    old = schedule(at, before)
    assert Continued(schedule, at, before, "keep")(at, horizon) == old
    assert Continued(schedule, at, before, "extend")(at, horizon) == old
    np.testing.assert_allclose(Continued(schedule, at, before, "decay_now")(at, horizon), old, rtol=1e-15)
    again = Continued(schedule, at, before, "rewarm")
    if at and at not in again.jumps(horizon):  # a run that goes on at step 0 has no LR to rise from
        np.testing.assert_allclose(again(at, horizon), min(old, again(again.phase(horizon).start, horizon)), rtol=1e-12)
    assert Continued(schedule, at, before, "rescale")(at, horizon) == schedule(at, horizon)


@relaxed
@given(schedules, horizons, horizons, st.data())
def test_extending_ends_where_the_old_schedule_did(
    schedule: Schedule, before: Horizon, horizon: Horizon, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, min(before.steps, horizon.steps) - 1))
    assert Continued(schedule, at, before, "extend")(horizon.steps, horizon) == schedule(before.steps, before)


@relaxed
@given(schedules | continued, horizons, ways, st.data())
def test_no_step_left_is_no_change(
    schedule: Schedule | Continued, horizon: Horizon, how: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(horizon.steps, horizon.steps + 50))
    before = Horizon(at, horizon.steps_per_epoch)
    steps = every_step(horizon)
    assert Continued(schedule, at, before, how)(steps, horizon).tobytes() == schedule(steps, before).tobytes()


@relaxed
@given(schedules | continued, horizons, ways, st.data())
def test_resuming_with_the_same_horizon_changes_nothing(
    schedule: Schedule | Continued, horizon: Horizon, how: str, data: st.DataObject
) -> None:
    assume(how not in ("decay_now", "rewarm"))
    at = data.draw(st.integers(0, horizon.steps))
    steps = every_step(horizon)
    same = Continued(schedule, at, horizon, how)(steps, horizon)
    np.testing.assert_allclose(same, schedule(steps, horizon), rtol=1e-12, atol=1e-15)
