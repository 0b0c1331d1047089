"""The state of random number generators is read, saved as plain data and restored."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lrflow.training.state import random_state, set_random_state

DRAWS: list[Callable[[], Any]] = [
    random.random,
    lambda: random.gauss(0, 1),
    np.random.rand,
    np.random.randn,  # draws two and keeps the second for later
    lambda: np.random.randint(100),
    lambda: torch.rand(1).item(),
    lambda: torch.randn(17).tolist(),
]


def draw_all() -> list[Any]:
    return [draw() for draw in DRAWS]


@pytest.mark.parametrize("before", range(4))
def test_restored_generators_repeat_their_numbers(before: int) -> None:
    for _ in range(before):
        draw_all()
    random.gauss(0, 1), np.random.randn()  # leave one half of a pair waiting in each
    state = random_state()
    first = [draw_all() for _ in range(3)]
    assert [draw_all() for _ in range(3)] != first
    set_random_state(state)
    assert [draw_all() for _ in range(3)] == first


def test_reading_it_draws_nothing_and_shares_no_memory() -> None:
    state = random_state()
    again = random_state()
    draw_all()
    assert torch.equal(state["torch"], again["torch"])
    assert torch.equal(state["numpy"][1], again["numpy"][1])
    assert state["python"] == again["python"]


def test_it_is_plain_data(tmp_path: Path) -> None:
    torch.save(random_state(), tmp_path / "state")
    first = draw_all()
    set_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert draw_all() == first


def test_another_process_restores_it(tmp_path: Path) -> None:
    """With another seed, it draws the same numbers as this process."""
    import multiprocessing

    state = random_state()
    expected = draw_all()

    def go_on() -> None:
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        set_random_state(state)
        assert draw_all() == expected

    process = multiprocessing.get_context("fork").Process(target=go_on)
    process.start()
    process.join()
    assert process.exitcode == 0
