"""A step stays cheap: its number of function calls, which is the same on every machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COUNT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from benchmarks import step_overhead
time.perf_counter = lambda: 0.0  # signals are also read once per second
print(*(step_overhead.calls_per_step(loop, True, 50, 150) for loop in (step_overhead.bare, step_overhead.lrflow)))
"""


def test_a_step_makes_no_more_calls_than_a_bare_loop_that_records_the_same(
    python: Callable[..., Any], tmp_path: Path
) -> None:
    """With all defaults: signals, update ratios, findings, metrics.csv and the LR of every group.

    The process is one of its own, since loggers of other tests patch what they record.
    """
    if not (ROOT / "benchmarks" / "step_overhead.py").is_file():
        pytest.skip("installed without benchmarks")
    (tmp_path / "count.py").write_text(COUNT)
    out, told = (job := python("count.py", str(ROOT), cwd=tmp_path)).communicate(timeout=120)
    assert job.returncode == 0, told
    bare, lean = map(float, out.splitlines()[-1].split())
    assert lean <= 1.1 * 525  # measured: 525, and 559 of the bare loop
    assert lean <= 1.1 * bare
