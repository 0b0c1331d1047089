"""Seeds of batches: a batch that a worker loads has the same random numbers in a resumed run."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import get_worker_info


def seed_words(*numbers: int) -> list[int]:
    """Eight well-mixed 32-bit words from the low 64 bits of each of a few integers."""
    # SeedSequence pads with zeros and splits large numbers into words: pass the count, and two words per number.
    entropy = [len(numbers), *(word for number in numbers for word in (number % 2**32, (number >> 32) % 2**32))]
    return np.random.SeedSequence(entropy).generate_state(8).tolist()


class SeededBatch(list[int]):
    """The indices of a batch; a worker process that iterates over them first seeds its random number generators.

    Otherwise the state of a worker's generators would depend on its earlier batches, which a resumed run cannot know.
    With the seed, the random numbers that a data set draws for a batch, such as for augmentation, depend only on the
    run's seed and the batch. The main process is not seeded: its generators are saved and restored with the run.

    Args:
        indices: the indices of the batch's examples.
        origin: seed of the run, epoch, rank and number of the batch, which make the seed.
    """

    def __init__(self, indices: Sequence[int] | np.ndarray, origin: tuple[int, ...]) -> None:
        self.rows = np.asarray(indices, np.int64)
        self.origin = origin
        super().__init__(self.rows.tolist())

    @property
    def seed(self) -> int:
        """The seed, 32 bits; computed where it is needed, since that takes as long as fetching a small batch."""
        return seed_words(*self.origin)[0]

    def __iter__(self) -> Iterator[int]:
        if get_worker_info() is not None:
            seed = self.seed
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
        return super().__iter__()

    def __reduce__(self) -> tuple[type[SeededBatch], tuple[list[int], tuple[int, ...]]]:
        return type(self), (self[:], self.origin)
