"""The clocks of a run whose batch changes, against a loop that takes its steps one by one."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrflow.errors import ConfigError
from lrflow.schedules import Duration, Horizon
from lrflow.schedules.batch_schedule import compile_batches
from lrflow.schedules.batches import BatchSteps


def walk(starts: list[int], sizes: list[int], epoch: int, parts: int, drop: bool, steps: int) -> list[tuple[Any, ...]]:
    """Per step: its epoch, the samples of the epoch before it, and where each of its batches ends."""
    made: list[tuple[Any, ...]] = []
    at, offset = 0, 0
    while len(made) < steps:
        size = next(size for start, size in zip(reversed(starts), reversed(sizes), strict=True) if start <= len(made))
        each, ends = size // parts, []
        while len(ends) < parts and epoch - offset >= (each if drop else 1):
            ends.append(min(offset + each, epoch))
            offset = ends[-1]
        if ends:
            first = made[-1][2][-1] if made and made[-1][0] == at else 0
            made.append((at, first, ends))
        if len(ends) < parts:  # a step with fewer batches is the last one of its epoch
            at, offset = at + 1, 0
    return made


@st.composite
def batches(draw: st.DrawFn) -> tuple[BatchSteps, int, bool]:
    parts, drop = draw(st.integers(1, 3)), draw(st.booleans())
    count = draw(st.integers(1, 4))
    starts = sorted({0, *draw(st.lists(st.integers(1, 30), min_size=count - 1, max_size=count - 1))})
    sizes = [parts * draw(st.integers(1, 9)) for _ in starts]
    epoch = draw(st.integers(max(sizes) // parts, 60))
    return BatchSteps(tuple(starts), tuple(sizes), epoch, parts if drop else 0), parts, drop


@settings(max_examples=60)
@given(batches())
def test_the_clocks_are_those_of_a_loop_over_steps(drawn: tuple[BatchSteps, int, bool]) -> None:
    batch, parts, drop = drawn
    assert batch.epoch is not None
    walked = walk([*batch.starts], [*batch.sizes], batch.epoch, parts, drop, 60)
    firsts: dict[int, int] = {}
    for step, (epoch, offset, _) in enumerate(walked):
        firsts.setdefault(epoch, step)
        assert batch.place(step) == (epoch, offset)
        assert batch.samples(step) == sum(batch.size(before) for before in range(step))
        assert batch.step_of_samples(Fraction(batch.samples(step))) == step
    for epoch in range(walked[-1][0]):
        assert batch.first_step(epoch) == firsts[epoch]
        assert batch.steps_in(epoch) == firsts[epoch + 1] - firsts[epoch]
        ends = [end for at, _, each in walked if at == epoch for end in each]
        assert batch.batches_in(epoch, parts) == [0, *ends]
        for step in range(firsts[epoch], firsts[epoch + 1]):
            assert batch.step_of_epochs(batch.epochs(step)) == step


@given(batches(), st.integers(0, 40), st.sampled_from(["7 samples", "0.5 epochs", "1 epoch", "2.25 epochs", "5"]))
def test_durations_are_counted_from_where_they_begin(
    drawn: tuple[BatchSteps, int, bool], start: int, text: str
) -> None:
    horizon, duration = Horizon(50, batch=drawn[0]), Duration.parse(text)
    steps = duration.exact(horizon, start)
    again = duration.exact(Horizon(50, batch=drawn[0].from_step(start)), 0) if duration.unit != "epochs" else steps
    assert steps == again
    if steps == int(steps) and steps > 0:
        end = Horizon(start + int(steps), batch=drawn[0])
        assert duration.steps_at_end(end) == steps  # what begins at `start` and lasts so long ends there
    assert Horizon(**horizon.to_dict()) == horizon


def test_growing_batches_take_fewer_steps() -> None:
    sizes = [(Duration.parse("0"), 64), (Duration.parse("6400 samples"), 256)]
    run = compile_batches(sizes, 12_800, max_epochs=2)
    assert run.batch == BatchSteps((0, 100), (64, 256), 12_800)
    assert run.steps == 100 + 25 + 50
    assert run.samples == 25_600
    assert compile_batches(sizes, max_samples=6400 + 300).steps == 101  # of the last 300 samples one step of 256
    assert compile_batches([sizes[0], (Duration.parse("1 epoch"), 128)], 100, max_epochs=3).steps == 2 + 1 + 1


@given(
    st.lists(st.tuples(st.integers(1, 99), st.integers(8, 16)), min_size=1, max_size=4, unique_by=lambda one: one[0]),
    st.integers(8, 16),
    st.integers(2, 30),
)
def test_shares_are_those_of_the_steps_that_the_run_then_has(
    shares: list[tuple[int, int]], first: int, epochs: int
) -> None:
    sizes = [(Duration(0, "steps"), first), *((Duration(at / 100, "fraction"), size) for at, size in sorted(shares))]
    try:
        run = compile_batches(sizes, 200, max_epochs=epochs)
    except ConfigError:  # a share that rounds to the whole run
        return
    assert run.batch is not None
    assert run.batch.place(run.steps) == (epochs, 0)
    for share, _ in sizes:  # a step more of a large batch is two of a small one less
        assert any(abs(start - share.value * run.steps) <= 1 + 2 * len(sizes) for start in run.batch.starts)
    in_order = iter(size for _, size in sizes)  # of those that begin at one step the last one counts
    assert all(size in in_order for size in run.batch.sizes)


@pytest.mark.parametrize(
    ("sizes", "options", "expected"),
    [
        ([("0", 4), ("30 samples", 8), ("20 samples", 4)], {"max_steps": 50}, "list the sizes in order"),
        ([("0", 4), ("60", 8)], {"max_steps": 50}, "begins at step 60, but the run has only 50 steps"),
        ([("0", 4), ("1 epoch", 8)], {"max_steps": 50}, "the training data has no length"),
        ([("0", 4), ("1 epoch", 80)], {"max_steps": 50, "epoch": 20, "dropped": 1}, "has no full batch of 80"),
    ],
)
def test_sizes_that_make_no_sense(sizes: list[tuple[str, int]], options: dict[str, int], expected: str) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.batch") as raised:
        compile_batches([(Duration.parse(at), size) for at, size in sizes], **options)
    assert expected in str(raised.value)


@pytest.mark.parametrize("text", ["1 epoch", "100 samples"])
def test_an_interval_has_no_fixed_length(text: str) -> None:
    horizon = Horizon(50, batch=BatchSteps((0, 10), (4, 8), 40))
    with pytest.raises(ValueError, match=r"is no fixed number of steps, since schedule\.batch changes the batch"):
        Duration.parse(text).interval(horizon)
    assert Duration.parse("10%").interval(horizon) == 5
