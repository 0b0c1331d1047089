"""Numbers and counts as text."""

from __future__ import annotations

import pytest

from lrflow.wording import counted


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (1, "step", "1 step"),
        (0, "step", "0 steps"),
        (1200, "group", "1,200 groups"),
        ("2.5", "epoch", "2.5 epochs"),
        ("1", "epoch", "1 epoch"),
        (1, "batch", "1 batch"),
        (3, "batch", "3 batches"),
        (2, "class", "2 classes"),
        (2, "process", "2 processes"),
    ],
)
def test_a_count_agrees_with_its_noun(count: int | str, noun: str, text: str) -> None:
    assert counted(count, noun) == text
