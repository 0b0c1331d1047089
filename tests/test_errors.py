"""Hints name what was meant, or what there is to choose from."""

from __future__ import annotations

import pytest

from lrflow.errors import LISTED, did_you_mean

MANY = [f"{letter}{number:02d}" for letter in "abc" for number in range(30)]


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("cosin", ["cosine", "linear"], "did you mean cosine?"),
        ("zzz", ["cosine", "linear"], "known: cosine, linear"),
        ("zzz", MANY[:LISTED], f"known: {', '.join(MANY[:LISTED])}"),
        ("zzz", [], None),
        ("zzz", MANY, None),
        ("a-----", MANY, None),
    ],
)
def test_a_hint(word: str, known: list[str], hint: str | None) -> None:
    assert did_you_mean(word, known) == hint


def test_of_very_many_names_the_nearest_few_are_told() -> None:
    hint = did_you_mean("b7xx", MANY)
    assert hint is not None
    assert hint.startswith("the nearest of 90: ")
    shown = hint.partition(": ")[2].split(", ")
    assert 0 < len(shown) <= 5
    assert "b07" in shown
