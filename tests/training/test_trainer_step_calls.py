"""A step stays cheap: its number of function calls, which is the same on every machine."""

from __future__ import annotations

import gc
import importlib.util
import time
from pathlib import Path

import pytest


def test_a_step_makes_no_more_calls_than_a_bare_loop_that_records_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all defaults: signals, update ratios, findings, metrics.csv and the LR of every group."""
    path = Path(__file__).parents[2] / "benchmarks" / "step_overhead.py"
    if not path.is_file():
        pytest.skip("installed without benchmarks")
    spec = importlib.util.spec_from_file_location("step_overhead", path)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)  # signals are also read once per second
    gc.collect()
    gc.disable()  # the ends of objects of earlier tests are calls too
    try:
        bare, lean = (benchmark.calls_per_step(loop, True, 50, 150) for loop in (benchmark.bare, benchmark.lrflow))
    finally:
        gc.enable()
    assert lean <= 1.1 * 525  # measured: 525, and 559 of the bare loop
    assert lean <= 1.1 * bare
