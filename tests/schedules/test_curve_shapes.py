"""Shapes by themselves: their ends, their jumps, their problems."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from lrflow.errors import ConfigError
from lrflow.schedules import (
    Constant,
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
    Phase,
    Piece,
    Piecewise,
    Polynomial,
    Rex,
    Shape,
    Step,
    Tabulated,
    Tanh,
    WarmRestarts,
)

SHAPES = [
    Constant(),
    Linear(),
    Cosine(),
    Cosine(k=2),
    Polynomial(3),
    Polynomial(1, k=0.5),
    Rex(),
    Tanh(),
    InverseTime(),
    InverseSqrt(),
    InverseSqrt("10%"),
    Exponential(0.5, 10),
    Exponential(0.5, 10, True),
    Step(0.5, 10),
    MultiStep(),
    WarmRestarts(20),
    WarmRestarts("10%", 2, 0.5, 5),
    Piecewise([Piece(Linear(), "10%", 1, 0.5), Piece(Exponential(0.5, 10))]),
    Tabulated([[20, 1], [50, 0.5], [90, 0.1]], between="hold"),
]
RISING = [
    Cyclical(),
    Cyclical("30%", 0.2, 0.3, 0.5),
    Cyclical(20, gamma=0.5, smooth=True),
    OneCycle(),
    OneCycle(25),
    Piecewise([Piece(Linear(), "10%", 0.5, 1), Piece(Constant())]),
    Tabulated([[20, 0.5], [50, 1], [90, 0.1]]),
]


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_every_shape_starts_at_its_peak_and_holds_outside_its_phase(shape: Shape) -> None:
    phase = Phase(20, 80, Horizon(100))
    before, first, last, after = shape(np.array([0.0, 20.0, 80.0, 100.0]), phase)
    assert before == first == 1.0
    assert last == after


@pytest.mark.parametrize("shape", RISING, ids=repr)
def test_a_shape_with_a_rise_of_its_own_reaches_its_peak_once(shape: Shape) -> None:
    phase = Phase(20, 80, Horizon(100))
    assert shape.check(phase) == []
    values = shape(np.arange(20.0, 81.0), phase)
    assert values[0] < 1.0
    assert values.max() == 1.0
    before, first, last, after = shape(np.array([0.0, 20.0, 80.0, 100.0]), phase)
    assert before == first
    assert last == after


@pytest.mark.parametrize("shape", SHAPES + RISING, ids=repr)
def test_a_shape_that_lands_is_at_zero_at_the_end_of_its_phase(shape: Shape) -> None:
    end = shape(np.array([80.0]), Phase(20, 80, Horizon(100)))[0]
    assert (end == 0.0) == shape.lands


@pytest.mark.parametrize(
    ("shape", "phase", "jumps"),
    [
        (Cosine(), (0, 100), ()),
        (Exponential(0.5, 10), (0, 100), ()),
        (Exponential(0.5, 30, staircase=True), (0, 100), (30, 60, 90)),
        (Exponential(0.5, 30, staircase=True), (25, 100), (55, 85)),  # from the phase's start
        (Step(0.5, 30), (0, 100), (30, 60, 90)),
        (Step(0.5, 30), (25, 100), (30, 60, 90)),  # on the run's clock
        (Step(0.5, 30), (30, 90), (60,)),  # neither at the peak nor at the end
        (Step(0.5, "25%"), (0, 100), (25, 50, 75)),
        (Step(0.5, "1 epoch"), (0, 50), (20, 40)),
        (MultiStep(0.5, ["50%", "75%"]), (0, 100), (50, 75)),
        (MultiStep(0.5, ["1 epoch", 50, "75%"]), (30, 60), (50,)),
    ],
)
def test_the_steps_at_which_shapes_fall(shape: Shape, phase: tuple[int, int], jumps: tuple[int, ...]) -> None:
    stretch = Phase(*phase, Horizon(100, 20))
    assert shape.jumps(stretch) == jumps
    before, at = (shape(np.array(jumps, dtype=float) - nudge, stretch) for nudge in (1e-6, 0.0))
    assert np.allclose(at, 0.5 * before)


@pytest.mark.parametrize(
    ("shape", "phase", "jumps"),
    [
        (WarmRestarts(25), (0, 100), (25, 50, 75)),
        (WarmRestarts("25%"), (10, 100), (35, 60)),  # the last is stretched: a fourth would not be over in time
        (WarmRestarts("1 epoch"), (0, 99), (20, 40, 60)),
        (WarmRestarts(10, 2), (0, 70), (10, 30)),
        (WarmRestarts(10, 2), (0, 100), (10, 30)),
        (WarmRestarts(10, 1.25), (0, 100), (10, 23, 39, 59)),  # 10, 12.5, 15.6, 19.5, 24.4: rounded, and 41 to the end
        (WarmRestarts(60), (0, 100), ()),
        (WarmRestarts(0), (0, 4), (1, 2, 3)),
        (WarmRestarts(10, 1e300), (0, 100), ()),
    ],
    ids=repr,
)
def test_the_steps_at_which_cycles_restart(shape: WarmRestarts, phase: tuple[int, int], jumps: tuple[int, ...]) -> None:
    stretch = Phase(*phase, Horizon(100, 20))
    assert shape.jumps(stretch) == jumps
    assert shape(np.array(jumps, dtype=float), stretch).tolist() == [1.0] * len(jumps)
    ends = np.array([*jumps, phase[1]]) - 1e-6
    assert np.allclose(shape(ends, stretch), 0.0, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "fragment"),
    [
        (lambda: WarmRestarts("often"), "schedule.shape.period = 'often'.*not a duration"),
        (lambda: WarmRestarts(multiplier=0.5), "schedule.shape.multiplier = 0.5: expected a number from 1"),
        (lambda: WarmRestarts(decay=0), "schedule.shape.decay = 0: expected a number above 0 to 1"),
        (lambda: WarmRestarts(restart_warmup=-1), "schedule.shape.restart_warmup = -1.*cannot be negative"),
        (lambda: Cyclical(low=2), "schedule.shape.low = 2: expected a number from 0 to 1"),
        (lambda: Cyclical(rise="half"), "schedule.shape.rise = 'half': expected a number from 0 to 1"),
        (lambda: Cyclical(gamma=1.5), "schedule.shape.gamma = 1.5: expected a number above 0 to 1"),
        (lambda: OneCycle(start=-1), "schedule.shape.start = -1: expected a number from 0 to 1"),
        (lambda: OneCycle(end="x"), "schedule.shape.end = 'x': expected a number from 0 to 1"),
        (lambda: OneCycle(curve="cosin"), "schedule.shape.curve = 'cosin': expected cosine, linear\n.*mean cosine"),
    ],
)
def test_invalid_arguments_of_cycles(make: Callable[[], Shape], fragment: str) -> None:
    with pytest.raises(ConfigError, match=fragment):
        make()


@pytest.mark.parametrize("gamma", [0, -0.1, 1.1, float("nan"), "fast", None, True])
@pytest.mark.parametrize("shape", [Exponential, Step, MultiStep])
def test_gamma_is_a_factor_that_lowers(shape: type[Shape], gamma: float) -> None:
    with pytest.raises(ConfigError, match=r"schedule.shape.gamma = .*expected a number above 0 to 1"):
        shape(gamma=gamma)


@pytest.mark.parametrize("value", [0, -1, float("inf"), "2"])
@pytest.mark.parametrize(
    ("shape", "name"),
    [(Polynomial, "power"), (Polynomial, "k"), (Cosine, "k"), (InverseTime, "gamma"), (InverseTime, "power")],
)
def test_a_number_that_is_above_zero(shape: type[Shape], name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"schedule.shape.{name} = .*expected a number above 0"):
        shape(**{name: value})


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ({"lower": -101}, "lower = -101: expected a number from -100 to 10"),
        ({"upper": 20}, "upper = 20: expected a number from -100 to 10"),  # its tanh is 1
        ({"upper": "3"}, "upper = '3': expected a number from -100 to 10"),
        ({"upper": -6}, "upper = -6: expected a number above lower, which is -6"),
    ],
    ids=str,
)
def test_where_a_tanh_starts_and_ends(arguments: dict[str, float], fragment: str) -> None:
    with pytest.raises(ConfigError, match=fragment):
        Tanh(**arguments)


@pytest.mark.parametrize("milestones", ["50%", 50, [], None, 0.5])
def test_milestones_are_a_list(milestones: object) -> None:
    with pytest.raises(ConfigError, match=r"schedule.shape.milestones = .*expected a list"):
        MultiStep(milestones=milestones)


def test_all_problems_of_a_shape_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        MultiStep(gamma=2, milestones=["50%", "soon", -3])
    keys = [problem.key for problem in caught.value.problems]
    assert keys == ["schedule.shape.gamma", "schedule.shape.milestones[1]", "schedule.shape.milestones[2]"]


@pytest.mark.parametrize(
    ("shape", "messages"),
    [
        (Exponential(0.9, "1 epoch"), []),
        (Exponential(0.9, 1000), []),  # smooth: it need not come round
        (Exponential(0.9, 1000, staircase=True), ["every: is 1,000 steps, so the LR never falls"]),
        (Exponential(0.9, "0.1%"), ["every: is shorter than one step"]),
        (Step(0.1, "30%"), []),
        (Step(0.1, 90), ["every: is 90 steps, so the LR never falls between step 10 and step 90"]),
        (Step(0.1, 0), ["every: is shorter than one step"]),
        (InverseTime(every="0.1%"), ["every: is shorter than one step"]),
        (InverseSqrt(), []),
        (InverseSqrt(0), ["timescale: is shorter than one step"]),
        (WarmRestarts("20%"), []),
        (WarmRestarts(0), ["period: is shorter than one step"]),
        (WarmRestarts(41), ["period: is 41 steps, so no second cycle ends by step 90: there is no restart"]),
        (WarmRestarts(20, 4), ["period: is 20 steps, so no second cycle ends by step 90"]),
        (
            WarmRestarts(20, restart_warmup="1 epoch"),
            ["restart_warmup: is 20 steps, but the first cycle after a restart has only 20"],
        ),
        (Cyclical(), []),
        (Cyclical(1), ["cycle: is 1 step, but needs two: one up, one down"]),
        (Cyclical(170), ["cycle: is 170 steps, so the first peak would be at step 95, but the shape ends at 90"]),
        (OneCycle(), []),
        (OneCycle(0), ["rise: is shorter than one step"]),
        (OneCycle("80%"), ["rise: is 80 steps, but there are only 80 from step 10 to 90"]),
        (MultiStep(), []),
        (MultiStep(milestones=[5]), ["milestones[0]: is step 5, in the warmup, which ends at step 10"]),
        (MultiStep(milestones=[95]), ["milestones[0]: is step 95, in the cooldown, which starts at 90"]),
        (MultiStep(milestones=["6 epochs"]), ["milestones[0]: is step 120, but the run has 100"]),
        (MultiStep(milestones=[50, 40, 40]), []),
    ],
    ids=repr,
)
def test_problems_of_a_shape_with_a_phase(shape: Shape, messages: list[str]) -> None:
    problems = shape.check(Phase(10, 90, Horizon(100, 20)))
    texts = [f"{problem.key}: {problem.message}" for problem in problems]
    assert len(texts) == len(messages)
    assert all(text.startswith(start) for text, start in zip(texts, messages, strict=True)), texts


def test_an_inverse_square_root_needs_a_length_from_somewhere() -> None:
    (problem,) = InverseSqrt().check(Phase(0, 100, Horizon(100)))
    assert str(problem) == (
        "timescale = None: is the length of the warmup by default, and the shape follows no warmup\n"
        "    give a warmup, or a timescale such as 5%"
    )
    assert InverseSqrt("5%").check(Phase(0, 100, Horizon(100))) == []


@pytest.mark.parametrize(
    "shape",
    [
        Exponential(),
        InverseTime(every="1 epoch"),
        InverseSqrt("1 epoch"),
        WarmRestarts("1 epoch"),
        Cyclical("1 epoch"),
        OneCycle("1 epoch"),
        Step(every="1 epoch"),
        MultiStep(milestones=["50%", "3 epochs"]),
    ],
)
def test_epochs_of_unknown_length_are_a_problem_before_they_are_an_error(shape: Shape) -> None:
    phase = Phase(0, 100, Horizon(100))
    assert [problem.message for problem in shape.check(phase)] == [
        f"{'3 epochs' if isinstance(shape, MultiStep) else '1 epoch'} cannot be counted in steps: "
        "the horizon has no steps_per_epoch"
    ]
    with pytest.raises(ValueError, match="no steps_per_epoch"):
        shape(np.array([1.0]), phase)


@pytest.mark.parametrize(
    ("pieces", "messages"),
    [
        ([], ["pieces = .*: expected a list with at least one piece"]),
        ("cosine", ["pieces = 'cosine': expected a list"]),
        ({"shape": Cosine()}, ["pieces = .*: expected a list"]),
        ([Cosine()], [r"pieces\[0\] = Cosine.*: expected a mapping of shape, duration, start, end"]),
        ([{"shape": Cosine(), "length": 5}], [r"pieces\[0\].length = 5: a piece takes no such argument"]),
        ([{"duration": 5}], [r"pieces\[0\].shape = None: expected a shape"]),
        (
            [{"shape": Cosine(), "duration": "long", "start": 2}, {"shape": Linear(), "end": -1}],
            [r"pieces\[0\].duration = 'long'", r"pieces\[0\].start = 2", r"pieces\[1\].end = -1"],
        ),
        (
            [{"shape": Constant()}, {"shape": Cosine()}],
            [r"pieces\[0\].duration = None: only the last piece may last to the end"],
        ),
        ([{"shape": Constant(), "start": 0.5, "end": 1}], [r"pieces\[0\].end = 1: is above start: only a shape that"]),
        ([{"shape": Constant(), "start": 0.0}], ["pieces: no piece starts or ends above 0"]),
    ],
    ids=str,
)
def test_invalid_pieces(pieces: object, messages: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Piecewise(pieces)
    assert len(caught.value.problems) == len(messages)
    for problem, start in zip(caught.value.problems, messages, strict=True):
        assert re.match(rf"schedule.shape.{start}", str(problem)), problem


@pytest.mark.parametrize(
    ("pieces", "messages"),
    [
        ([Piece(Cosine(), 80)], []),
        ([Piece(Cosine(), 40), Piece(Cosine())], []),
        ([Piece(Cosine(), 0), Piece(Cosine())], ["pieces[0].duration: is shorter than one step"]),
        (
            [Piece(Cosine(), 60), Piece(Cosine(), 30)],
            ["pieces[1].duration: ends at step 100, but the shape ends at 90"],
        ),
        (
            [Piece(Cosine(), 90), Piece(Cosine(), 5), Piece(Cosine())],
            [
                "pieces[0].duration: ends at step 100, but the shape ends at 90",
                "pieces[1]: would start at step 100, but the shape ends at 90",
            ],
        ),
        (
            [Piece(Constant(), 10), Piece(Step(0.1, 15), 8), Piece(MultiStep(milestones=[5]))],
            [
                "pieces[1].shape.every: is 15 steps, so the LR never falls between step 20 and step 28",
                "pieces[2].shape.milestones[0]: is step 5, in the warmup",
            ],
        ),
    ],
    ids=str,
)
def test_pieces_that_do_not_fit_a_phase(pieces: list[Piece], messages: list[str]) -> None:
    problems = Piecewise(pieces).check(Phase(10, 90, Horizon(100, 20)))
    texts = [f"{problem.key}: {problem.message}" for problem in problems]
    assert len(texts) == len(messages)
    assert all(text.startswith(start) for text, start in zip(texts, messages, strict=True)), texts


def test_pieces_jump_where_one_does_not_start_where_the_last_ended() -> None:
    pieces = [
        Piece(Linear(), 20, 1, 0.3),
        Piece(Constant(), 20, 0.3),  # goes on from there
        Piece(Step(0.5, 20), 20),  # jumps itself, at 60
        Piece(Cosine(), 5),
        Piece(Linear(), None, 0.5),
    ]
    assert Piecewise(pieces).jumps(Phase(10, 90, Horizon(100))) == (50, 60, 70, 75)


def test_shapes_are_values() -> None:
    assert Step(0.1, "30%") == Step(0.1, Duration(0.3, "fraction"))
    assert hash(MultiStep(milestones=["50%"])) == hash(MultiStep(milestones=("50%",)))
    assert Exponential(0.9, 10) != Exponential(0.9, 11)
