"""The state of every global random number generator, as plain data."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Python's, NumPy's, torch's and every CUDA device's generator, loadable with `weights_only=True`."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (str(kind), torch.from_numpy(np.array(keys, dtype=np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put every generator back to a state that `random_state` gave."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])


def same_random_state(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether every generator is at the same place in both states."""
    (kind, keys, *rest), (other_kind, other_keys, *others) = one["numpy"], other["numpy"]
    return (
        one["python"] == other["python"]
        and (kind, rest) == (other_kind, others)
        and torch.equal(keys, other_keys)
        and torch.equal(one["torch"], other["torch"])
        and all(map(torch.equal, one.get("cuda", []), other.get("cuda", [])))
    )


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave every generator as it was before."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)
