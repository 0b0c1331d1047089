"""What a run leaves behind in memory."""

from __future__ import annotations

import gc
import weakref

import pytest

from lrflow.memory import freed_after, without_locals


class Ring:
    """Refers to itself, as a trainer and its module do."""

    def __init__(self) -> None:
        self.own = self


@pytest.fixture(autouse=True)
def _not_collected() -> object:
    gc.disable()
    yield
    gc.enable()


def test_a_cycle_that_was_made_within_is_freed() -> None:
    before = weakref.ref(kept := Ring())
    with freed_after():
        made = weakref.ref(Ring())
        assert made() is not None
    assert made() is None
    assert before() is kept
    assert gc.get_freeze_count() == 0


def test_a_cycle_whose_error_is_kept_is_freed() -> None:
    made: list[weakref.ref[Ring]] = []

    def fail() -> None:
        ring = Ring()
        made.append(weakref.ref(ring))
        try:
            raise KeyError("cause")
        except KeyError as cause:
            raise ValueError("told") from cause

    with freed_after():
        try:
            fail()
        except ValueError as error:
            kept = error
            without_locals(error)
    assert str(kept) == "told"
    assert made[0]() is None
