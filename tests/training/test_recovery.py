"""What rollbacks come to by the end of a run."""

from __future__ import annotations

import pytest

from lrflow.training.recovery import Recovery, describe_recovery, left_out


def back(to: int, *skipped: int) -> Recovery:
    return Recovery(to + 3, to + 3, to, 1.0, 0, "a test", list(skipped))


@pytest.mark.parametrize(
    ("recoveries", "steps"),
    [
        ([], set()),
        ([back(10, 13, 29), back(50)], {13, 29}),
        ([back(10, 13, 29), back(20, 29, 40)], {13, 29, 40}),
        ([back(10, 13, 29), back(20, 31)], {13, 31}),  # step 29 was repeated, and trained on
        ([back(10, 13, 29), back(20, 31), back(0)], set()),
    ],
)
def test_steps_that_a_later_rollback_repeats_are_left_out_only_then(
    recoveries: list[Recovery], steps: set[int]
) -> None:
    assert left_out(recoveries) == steps


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (None, None),
        ({"rollbacks": 0, "left_out": 0}, None),
        ({"rollbacks": 2, "left_out": 0}, "health: rolled back 2 times"),
        ({"rollbacks": 1, "left_out": 20}, "health: rolled back 1 time, batches of 20 of 4,000 steps left out"),
    ],
)
def test_the_end_of_a_run_has_a_line_about_it(record: dict[str, int] | None, line: str | None) -> None:
    assert describe_recovery(record, 4000) == line
