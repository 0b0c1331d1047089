"""What a run leaves behind in memory."""

from __future__ import annotations

import gc
import platform
import weakref
from pathlib import Path

import pytest
import torch

import lrflow.cli.jobs
from lrflow import memory
from lrflow.cli.jobs import run_job
from lrflow.config import compose, validate
from lrflow.errors import LrflowError
from lrflow.memory import (
    available_memory,
    clear_locals,
    freed_after,
    kept_for_good,
    peak_memory,
    release_memory,
    resident_memory,
)
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what can be returned")
def test_small_blocks_that_were_freed_are_returned_to_the_machine() -> None:
    """The block that is made last keeps those before it from being returned when they are freed."""
    blocks = [torch.ones(2**14) for _ in range(2**10)]
    last = torch.ones(2**14)
    del blocks
    before = resident_memory()
    release_memory()
    after = resident_memory()
    assert before is not None
    assert after is not None
    assert before - after > 32 * 2**20
    assert last.sum() == 2**14


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


def test_the_memory_that_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least of machine, control groups of both versions and the process's own limit, less what is held."""
    process, groups = tmp_path / "self", tmp_path / "cgroup"
    process.mkdir()
    monkeypatch.setattr(memory, "_PROCESS", process)
    monkeypatch.setattr(memory, "_GROUPS", groups)
    monkeypatch.setattr(memory, "_left_in_machine", lambda: [10_000])
    assert available_memory() == 10_000  # nothing else is known
    (process / "cgroup").write_text("4:memory:/jobs/7\n3:cpu:/\n0::/one\n")
    old, new = groups / "memory" / "jobs" / "7", groups / "one"
    for folder, names in ((old, ("limit_in_bytes", "usage_in_bytes")), (new, ("max", "current"))):
        folder.mkdir(parents=True)
        for name, value in zip(names, ("9000", "2000"), strict=True):
            (folder / f"memory.{name}").write_text(f"{value}\n")
    (old / "memory.stat").write_text("cache 5\ntotal_inactive_file 500\n")
    (new / "memory.stat").write_text("anon 5\ninactive_file 900\n")
    assert available_memory() == 9000 - 2000 + 500
    (old / "memory.usage_in_bytes").write_text("1")
    assert available_memory() == 9000 - 2000 + 900
    (new / "memory.max").write_text("max\n")
    assert available_memory() == 9000 - 1 + 500
    (old / "memory.usage_in_bytes").write_text("9900")
    assert available_memory() == 0
    (process / "status").write_text("VmPeak:\t 9 kB\nVmHWM:\t 4 kB\nVmRSS:\t 3 kB\nVmSize:\t 2 kB\n")
    assert (peak_memory(), resident_memory()) == (4096, 3072)
    (old / "memory.usage_in_bytes").write_text("1")
    monkeypatch.setattr("resource.getrlimit", lambda _: (6000, 6000))
    assert available_memory() == 6000 - 2048
