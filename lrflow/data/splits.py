"""Which examples are held out: a seeded order of which every part holds the classes in proportion, and its sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrflow.errors import ConfigError, Problem
from lrflow.limits import is_whole, outside, whole

if TYPE_CHECKING:
    import numpy as np

_PERCENT = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*%\s*")

SIZE = "a number of examples, or a share of them such as 10% or 0.1"
"""What a size may be, in words."""


def stratified_order(targets: np.ndarray, seed: int) -> np.ndarray:
    """Return a shuffled order in which every contiguous part holds the classes in proportion.

    Each class is shuffled and spread evenly over the order, as Webster's method apportions seats.

    Args:
        targets: class numbers [examples]; the order of any other targets is only shuffled.
        seed: determines the order together with `targets`; 0 to 2**32 - 1.

    Returns:
        A permutation of the examples' indices, int64.
    """
    import numpy as np  # here, since the check of a config reads only sizes

    order = np.random.RandomState(seed).permutation(len(targets))
    if not len(targets) or not are_classes(targets):
        return order
    _, classes, counts = np.unique(targets[order], return_inverse=True, return_counts=True)
    place = np.empty(len(targets))  # the position of each example within its class, from 0
    place[np.argsort(classes, kind="stable")] = np.arange(len(targets)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[np.argsort((place + 0.5) / counts[classes], kind="stable")]


def are_classes(targets: Any) -> bool:
    """Return whether targets, an array or a tensor, are class numbers."""
    return targets.ndim == 1 and str(targets.dtype).removeprefix("torch.") in ("int64", "int32", "uint8")


def share_of(size: object) -> float | None:
    """Return a size as a share of the examples, from 0 to below 1; None if it is a number of examples.

    Raises:
        ValueError: it is neither.
    """
    if is_whole(size) and size >= 0:  # type: ignore[operator]
        return None
    share = math.nan
    if isinstance(size, float):
        share = size
    elif isinstance(size, str) and (percent := _PERCENT.fullmatch(size)):
        share = float(percent[1]) / 100
    if not 0 <= share < 1:
        raise ValueError(f"expected {SIZE}")
    return share


def is_share(size: object) -> bool:
    """Return whether a size is a share of the examples."""
    try:
        return share_of(size) is not None
    except ValueError:
        return False


def examples_of(size: object, examples: int) -> int:
    """Return the number of examples of a part.

    Args:
        size: a number of examples, or a share of them as `share_of` reads it.
        examples: number of all examples.

    Raises:
        ValueError: it is neither.
    """
    share = share_of(size)
    return int(size) if share is None else round(share * examples)  # type: ignore[call-overload]


PARTS = ("train", "val", "test")
"""The parts of the data."""


def kept_rows(rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the indices of the examples that belong to a part, sorted, and the rows of each part among them."""
    import numpy as np

    kept = np.sort(np.concatenate([*rows.values()]))
    return kept, {part: np.searchsorted(kept, own) for part, own in rows.items()}


_PART_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip


def part_named(name: str) -> str | None:
    """Return the part that a name in a file means, such as `validation`; None if it means none."""
    return _PART_NAMES.get(name.lower())


@dataclass(frozen=True)
class HeldOut:
    """What is held out of examples at random.

    Args:
        val_size: for validation, as `examples_of` reads it.
        test_size: for the test.
        folds: number of parts of a cross-validation, one of which validates instead of `val_size`; None: none.
        fold: that part, from 0.
        seed: selects the examples.
    """

    val_size: int | float | str = 0
    test_size: int | float | str = 0
    folds: int | None = None
    fold: int = 0
    seed: int = 0

    def problems(self) -> list[Problem]:
        """Return the problems of the values."""
        problems = []
        for name in ("val_size", "test_size"):
            try:
                examples_of(getattr(self, name), 1)
            except ValueError as error:
                problems.append(Problem(f"data.{name}", str(error), getattr(self, name)))
        limits = {"folds": whole(2).or_null(), "fold": whole(0), "split_seed": whole(0, 2**32 - 1)}
        problems += outside(limits, {"folds": self.folds, "fold": self.fold, "split_seed": self.seed}, "data")
        if not problems and self.folds is not None and self.fold >= self.folds:
            problems.append(Problem("data.fold", f"expected a whole number from 0 to {self.folds - 1}", self.fold))
        if not problems and self.folds is None and self.fold:
            problems.append(Problem("data.fold", "has no effect without data.folds", self.fold, "add data.folds=5"))
        return problems

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> HeldOut:
        """Return what the arguments of a data module hold out, by their names; other arguments do not count."""
        names = {name: given[name] for name in ("val_size", "test_size", "folds", "fold") if name in given}
        return cls(**names, seed=given.get("split_seed", 0))

    def sizes(self, examples: int) -> dict[str, int]:
        """Return the numbers of examples that are held out for `val` and `test`.

        Args:
            examples: number of examples in the pool.
        """
        held = {part: examples_of(getattr(self, f"{part}_size"), examples) for part in PARTS[1:]}
        if self.folds is not None:
            start, stop = self._limits(examples - held["test"])
            held["val"] = stop - start
        return held

    def _limits(self, examples: int) -> tuple[int, int]:
        """Return where the fold begins and ends among the examples that are not for the test."""
        import numpy as np

        assert self.folds is not None
        stops = np.linspace(0, max(examples, 0), self.folds + 1).round().astype(int)
        return int(stops[self.fold]), int(stops[self.fold + 1])

    def rows(
        self, pool: np.ndarray, targets: np.ndarray, what: str = "rows", shuffled: bool = True
    ) -> dict[str, np.ndarray]:
        """Return the indices of each part, with classes in proportion; those to train on are sorted.

        Args:
            pool: indices of the examples.
            targets: of all examples that have an index.
            what: the examples, in a message.
            shuffled: false: parts are contiguous, the last examples for the test and those before for validation.

        Raises:
            ConfigError: none is left to train on, or there are more folds than examples.
        """
        import numpy as np

        held = self.sizes(len(pool))
        # The test part is split off first, so that it does not depend on val_size and is the same for all folds.
        order = pool[stratified_order(targets[pool], self.seed)] if shuffled else pool[::-1]
        test, rest = np.split(order, [min(held["test"], len(pool))])
        start = 0
        if self.folds is not None:
            if self.folds > len(rest):
                message = f"there are only {len(rest):,} {what} to divide"
                raise ConfigError([Problem("data.folds", message, self.folds)])
            start, stop = self._limits(len(rest))
            start = start if shuffled else len(rest) - stop  # the first fold is the first in their order
        if len(pool) - held["val"] - held["test"] < 1:
            message = f"val_size and test_size hold out {held['val'] + held['test']:,} of {len(pool):,} {what}"
            raise ConfigError([Problem("data.val_size", message, self.val_size)])
        val, train = rest[start : start + held["val"]], np.delete(rest, np.s_[start : start + held["val"]])
        if not shuffled:
            val, test = np.sort(val), np.sort(test)
        return {"train": np.sort(train), "val": val, "test": test}
