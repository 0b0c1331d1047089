"""Sizes of parts, as numbers or shares."""

from __future__ import annotations

import pytest

from lrflow.data.splits import HeldOut, examples_of, is_share


def test_a_fold_without_folds_is_reported() -> None:
    assert [problem.key for problem in HeldOut(fold=2).problems()] == ["data.fold"]
    assert not HeldOut(folds=3, fold=2).problems()


def test_a_size_is_a_number_of_examples_or_a_share_of_them() -> None:
    given = {0: 0, 17: 17, "10%": 15, " 2.5 %": 4, 0.5: 76, "0%": 0}
    assert {size: examples_of(size, 151) for size in given} == given
    assert [is_share(size) for size in given] == [False, False, True, True, True, True]
    for wrong in (-1, 1.0, "100%", "10", "ten%", None, True, [1], float("nan")):
        assert not is_share(wrong)
        with pytest.raises(ValueError, match="a share of them such as 10%"):
            examples_of(wrong, 151)
