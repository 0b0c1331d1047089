"""A step stays cheap: its number of function calls, which is the same on every machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def test_a_step_makes_at_most_1800_function_calls() -> None:
    """The benchmark counts calls: with the default loggers, there are fewer than with Lightning alone."""
    path = Path(__file__).parents[2] / "benchmarks" / "step_overhead.py"
    if not path.is_file():
        pytest.skip("installed without benchmarks")
    spec = importlib.util.spec_from_file_location("step_overhead", path)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    calls = benchmark.calls_per_step(benchmark.lrflow, fused=True)
    assert calls <= 1800
    assert calls < benchmark.calls_per_step(benchmark.lightning_lean, fused=True)
