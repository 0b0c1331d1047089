"""Who has which examples: partitions of a data set among clients, pure functions of the classes and a seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lrflow.data.order import seed_words

Rows = list[npt.NDArray[np.int64]]


def equal(classes: np.ndarray, clients: int, seed: int) -> Rows:
    """Return equal parts of a shuffled data set, whose clients therefore have similar classes.

    Args:
        classes: class of each example; [examples].
        clients: number of clients, at most the number of examples.
        seed: seed of the partition.

    Returns:
        The examples of each client; `examples // clients` indices each, and the remaining examples belong to none.
    """
    order = _random(seed).permutation(len(classes))
    size = len(classes) // clients
    return list(order[: size * clients].reshape(clients, size))


def by_dirichlet(classes: np.ndarray, clients: int, seed: int, alpha: float) -> Rows:
    """Return parts of equal size whose classes are unequal (Hsu, Qi and Brown, 2019, arXiv 1909.06335).

    Each client draws its shares of the classes from a Dirichlet distribution around those of the data set, and then
    its examples by these shares, without replacement. A class of which none is left is left out of the later draws.

    Args:
        classes: class of each example; [examples].
        clients: number of clients, at most the number of examples.
        seed: seed of the partition.
        alpha: concentration, above 0: towards 0 each client has a single class, towards infinity all are alike.

    Returns:
        The examples of each client; `examples // clients` indices each, and the remaining examples belong to none.
    """
    random, size = _random(seed), len(classes) // clients
    kinds, numbers = np.unique(classes, return_inverse=True)
    order = random.permutation(len(classes))
    left = [order[numbers[order] == kind].tolist() for kind in range(len(kinds))]
    prior = np.bincount(numbers) / len(classes)
    rows = []
    for _ in range(clients):
        shares = _dirichlet(random, alpha * prior)
        chosen: list[int] = []
        while len(chosen) < size:
            there = np.array([len(rest) for rest in left])
            weights = np.where(there > 0, shares, 0.0)
            if not weights.sum():  # its classes are used up
                weights = there.astype(float)
            wanted = random.multinomial(size - len(chosen), weights / weights.sum())
            for rest, count in zip(left, np.minimum(wanted, there), strict=True):
                chosen += [rest.pop() for _ in range(count)]
        rows.append(np.array(chosen))
    return rows


def by_shards(classes: np.ndarray, clients: int, seed: int, shards: int) -> Rows:
    """Return parts of a few shards each, of examples sorted by class (McMahan et al., 2017, arXiv 1602.05629).

    Args:
        classes: class of each example; [examples].
        clients: number of clients.
        seed: seed of the partition.
        shards: shards per client; `clients * shards` is at most the number of examples.

    Returns:
        The examples of each client, as many for each; the remaining examples belong to none.
    """
    random = _random(seed)
    order = random.permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    size = len(classes) // (clients * shards)
    dealt = order[: size * clients * shards].reshape(clients * shards, size)[random.permutation(clients * shards)]
    return list(dealt.reshape(clients, shards * size))


def _random(seed: int) -> np.random.RandomState:
    return np.random.RandomState(seed_words(seed))  # whose streams NumPy never changes


def _dirichlet(random: np.random.RandomState, alphas: np.ndarray) -> np.ndarray:
    """Return one draw; in logarithms, since gamma variates of a small alpha underflow to 0, all of them at times."""
    logs = np.log(random.gamma(alphas + 1)) + np.log(random.random_sample(len(alphas))) / alphas
    draw: np.ndarray = np.exp(logs - logs.max())
    return draw / draw.sum()
