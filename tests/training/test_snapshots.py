"""Which snapshots a run keeps."""

from __future__ import annotations

import pytest

from lrflow.training.snapshots import superfluous


def ring(keep: int, steps: range) -> list[int]:
    """Return the steps whose snapshots are kept after a run that takes these."""
    kept: list[int] = []
    for step in steps:
        kept.append(step)
        if len(kept) > 1 + keep:
            del kept[superfluous(kept)]
    return kept


@pytest.mark.parametrize(
    ("keep", "steps", "kept"),
    [
        (5, range(0, 60, 10), [0, 10, 20, 30, 40, 50]),
        (5, range(0, 70, 10), [0, 20, 30, 40, 50, 60]),  # without 10: a gap of 20 at an age of 50
        (5, range(0, 80, 10), [0, 20, 40, 50, 60, 70]),  # without 30: 20 at an age of 40; without 20: 30 at 50
        (5, range(0, 251, 10), [0, 150, 200, 230, 240, 250]),
        (5, range(0, 501, 10), [0, 360, 440, 470, 490, 500]),
        (3, range(0, 251, 10), [0, 180, 240, 250]),
        (1, range(0, 251, 10), [0, 250]),
    ],
)
def test_ages_grow_about_geometrically(keep: int, steps: range, kept: list[int]) -> None:
    assert ring(keep, steps) == kept


def test_a_run_goes_back_in_proportion_to_how_late_it_notices() -> None:
    for end in range(60, 500, 10):
        kept = ring(5, range(0, end + 1, 10))
        for late in range(0, end, 10):
            to = max(step for step in kept if step <= end - late)
            assert end - to <= 4 * (late + 10)
