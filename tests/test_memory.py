"""What a run leaves behind in memory."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

import lrflow.cli.jobs
from lrflow.cli.jobs import run_job
from lrflow.config import compose, validate
from lrflow.errors import LrflowError
from lrflow.memory import clear_locals, freed_after, kept_for_good
from lrflow.outcome import Outcome


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


def test_what_is_kept_for_good_is_not_looked_through_again() -> None:
    gc.enable()
    with kept_for_good():
        assert not gc.isenabled()
        made = weakref.ref(Ring())
    assert gc.isenabled()
    gc.collect()
    assert made() is not None
    gc.unfreeze()
    gc.collect()
    assert made() is None


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
            clear_locals(error)
    assert str(kept) == "told"
    assert made[0]() is None


@pytest.mark.parametrize("fails", [False, True])
def test_a_job_of_a_sweep_leaves_nothing_in_cycles(
    fails: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[weakref.ref[Ring]] = []

    def task(config: object) -> Outcome:
        ring = Ring()
        made.append(weakref.ref(ring))
        if fails:
            raise LrflowError("diverged")
        return Outcome.finished({"val/loss": 1.0})

    monkeypatch.setattr(lrflow.cli.jobs, "run_task", task)
    config = compose()
    outcome = run_job(validate(config.source, config.choices, [], tmp_path / "0"))
    assert outcome.status == ("failed" if fails else "finished")
    assert made[0]() is None
