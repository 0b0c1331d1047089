"""Which examples are held out: a seeded order of which every part holds the classes in proportion, and its sizes."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from lrflow.limits import is_whole

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
