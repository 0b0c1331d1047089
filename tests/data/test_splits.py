"""Sizes of parts, as numbers or shares."""

from __future__ import annotations

import numpy as np
import pytest

from lrflow.config import compose
from lrflow.data import Digits
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


def test_the_folds_are_parts_of_what_is_not_for_the_test() -> None:
    targets = np.repeat([0, 1, 2], [60, 30, 12])
    folds = [HeldOut("15%", 22, folds=4, fold=fold, seed=3) for fold in range(4)]
    parts = [one.rows(np.arange(102), targets) for one in folds]
    assert {tuple(one["test"]) for one in parts} == {tuple(parts[0]["test"])}
    assert len(parts[0]["test"]) == 22
    assert sorted(np.concatenate([one["val"] for one in parts])) == sorted({*range(102)} - {*parts[0]["test"]})
    for one, held_out in zip(parts, folds, strict=True):
        assert sorted(np.concatenate([*one.values()])) == [*range(102)]
        assert held_out.sizes(102) == {"val": len(one["val"]), "test": 22}
        counts = np.bincount(targets[one["val"]])
        assert np.abs(counts - len(one["val"]) * np.array([60, 30, 12]) / 102).max() <= 1.5


def test_a_data_module_holds_out_folds_and_shares() -> None:
    halves = [Digits(folds=2, fold=fold) for fold in range(2)]
    for data in halves:
        data.setup()
    inputs = [data.val_set.tensors[0] for data in halves]  # type: ignore[union-attr]
    assert [len(one) for one in inputs] == [718, 719]
    assert halves[0].train_set.tensors[0].sum() == pytest.approx(inputs[1].sum().item(), rel=1e-5)  # type: ignore[union-attr]
    shares = Digits(val_size="10%", test_size=0.2)
    shares.setup()
    assert (len(shares.val_set), len(shares.test_set)) == (180, 359)  # type: ignore[arg-type]
    assert compose(["data.folds=5", "data.fold=1"]).data.val_size == 288
