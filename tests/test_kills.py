"""Two configurations of `benchmarks.kills`: runs that are killed at random moments end as if they had not been."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

kills = pytest.importorskip("benchmarks.kills", reason="installed without benchmarks")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["EMA of the weights", "best weights tested"])
def test_a_killed_run_ends_as_the_one_that_was_not(name: str, python: Callable[..., Any], tmp_path: Path) -> None:
    words = (*kills.CONFIGURATIONS[name], "trainer.max_steps=25")
    result = kills.measure(words, 1, random.Random(1), tmp_path)
    assert result.kills == 1
    assert result.differences == []
