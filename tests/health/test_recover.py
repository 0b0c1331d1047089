"""What a rollback is put down to: the batch, or the LR."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lrflow.health.recover import Recover
from lrflow.training import Block
from lrflow.training.recovery import Changes, Recovery, Request

USUAL = [1.1, 0.9, 1.0, 1.2, 0.8, 1.0, 0.9, 1.1]
EXPLODES = [2.3, 2.4, 9.0, 80.0, 1e4, 1e9]


def policy(losses: list[float], skip: Any = "batches") -> Recover:
    made = Recover(0.3, 20, 5, skip, margin=10)
    rates = np.full((len(losses), 1), 0.1)
    made.observe(Block(0, np.array(losses), np.ones(len(losses)), np.ones(len(losses)), rates, rates))
    return made


def nan(step: int) -> Request:
    return Request(step, step, "the loss is nan", not_finite=True)


def past(step: int, to: int, factor: float = 1.0) -> list[Recovery]:
    return [Recovery(step, step, to, factor, 0, "the loss is nan")]


CASES: dict[str, tuple[list[float], Request, list[Recovery], Any, Changes]] = {
    "usual losses: the batch": (USUAL, nan(8), [], "batches", Changes(8, guard=19)),
    "batches are not to be left out": (USUAL, nan(8), [], "none", Changes(8, 0.3, 20)),
    "long after another one": (USUAL, nan(8), past(-20, -30), "batches", Changes(8, guard=19)),
    "a gradient of a finite loss: by its step": (
        USUAL,
        Request(8, 8, "the gradient norm is nan", not_finite=True, gradient_only=True),
        [],
        "batches",
        Changes(8, guard=np.inf, skip=[8]),
    ),
    "at the same step again": (USUAL, nan(8), past(8, 4), "batches", Changes(8, guard=19, skip=[8])),
    "soon at another step": (USUAL, nan(8), past(6, 4), "batches", Changes(8, 0.3, 20)),
    "exploded: the LR, from before": (EXPLODES, nan(6), [], "batches", Changes(3, 0.3, 20)),
    "exploded again: an earlier state": (EXPLODES, nan(6), past(6, 3, 0.3), "batches", Changes(2, 0.3, 20)),
    "from the first step": ([], nan(0), [], "batches", Changes(0, guard=11)),
    "the same batches after a cut": (
        USUAL,
        Request(15, 8, "no loss was finite"),
        [*past(8, 7), Recovery(15, 8, 7, 0.3, 20, "no loss was finite", list(range(8, 16)))],
        "batches",
        Changes(8, 1 / 0.3, 0, range(8, 16), 26, is_certain=True),
    ),
    "a spike": (USUAL, Request(7, 5, "a spike", suspects=True), [], "batches", Changes(5, 0.3, 20, range(5, 8))),
    "a spike, kept": (USUAL, Request(7, 5, "a spike", suspects=True), [], "none", Changes(5, 0.3, 20)),
    "another finding": (USUAL, Request(7, 5, "stalled"), [], "batches", Changes(5, 0.3, 20)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_cause_decides_what_changes(name: str) -> None:
    losses, request, before, skip, expected = CASES[name]
    assert policy(losses, skip).respond(request, before) == expected


def test_what_came_after_the_step_and_the_blocks_do_not_matter() -> None:
    later = policy([*USUAL, np.nan, 1e9, np.inf])
    assert later.respond(nan(8), []) == policy(USUAL).respond(nan(8), [])
    long, stalled = [1.0] * 80 + [50.0] * 60, Request(130, 100, "stalled")
    assert policy([*long, 1.0]).respond(stalled, []) == policy([*long] + [1.0] * 40).respond(stalled, [])
    copied = policy([])
    copied.load_state_dict(later.state_dict())
    assert copied.respond(nan(8), []) == later.respond(nan(8), [])
