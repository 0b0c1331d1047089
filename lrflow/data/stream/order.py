"""The order of samples that lie in shards: shuffled, and yet read nearly in sequence; a pure function.

A shuffle buffer has a state: the samples in it and a random generator. Here a pass is computed from the seed and the
epoch: the shards in a random order, a few of them at once, cut into blocks of so many samples, each block shuffled. So
batch 17 of epoch 3 is the same with any number of workers, and a run that is resumed there needs only these numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrflow.data.order import EpochOrder, seed_words

_SHARDS, _BLOCKS = 1, 2
"""What is shuffled, for seeds that differ."""


@dataclass(frozen=True, eq=False)
class BlockOrder(EpochOrder):
    """The order of the samples of a data set, of which those of a unit (a tar file, a row group) lie together.

    Args:
        starts: index of the first sample of each unit, int64 [units]; begins with 0.
        samples: number of samples.
        together: number of units that are read at once.
        block: number of samples of a block, among which the order is random; 1: they stay in order within a unit.
    """

    starts: np.ndarray
    samples: int
    together: int
    block: int

    def __call__(self, seed: int, epoch: int, world: int) -> np.ndarray:
        """Return a permutation of the indices: device r of `world` takes every `world`-th of them, from the r-th on.

        Those of a device lie together in the shuffled sequence of units, so that it opens only its share of them.
        """
        draw = np.random.RandomState(seed_words(seed, epoch, _SHARDS))
        ends = np.append(self.starts[1:], self.samples)
        order = np.empty(self.samples, np.int64)
        units = draw.permutation(len(self.starts))
        lengths = ends[units] - self.starts[units]
        stops = np.cumsum(lengths)
        first = 0
        for rank in range(world):
            size = -(-(self.samples - rank) // world)
            pieces = []
            for place in range(int(np.searchsorted(stops, first, "right")), len(units)):
                begin = int(stops[place] - lengths[place])  # of the unit in the sequence
                if begin >= first + size:
                    break
                low, high = max(first, begin), min(first + size, int(stops[place]))
                offset = int(self.starts[units[place]]) - begin
                pieces.append((low + offset, high + offset))
            order[rank::world] = self._mixed(pieces, size, seed, epoch, rank)
            first += size
        return order

    def _mixed(self, pieces: list[tuple[int, int]], size: int, seed: int, epoch: int, rank: int) -> np.ndarray:
        """Return the samples of ranges: a few ranges at once, in blocks to which each gives its share."""
        draw = np.random.RandomState(seed_words(seed, epoch, _BLOCKS, rank))
        found = np.empty(size, np.int64)
        at = 0
        for group in range(0, len(pieces), self.together):
            some = pieces[group : group + self.together]
            blocks = max(1, round(sum(high - low for low, high in some) / self.block))
            # Equal shares of each range, so that all of them end with the last block.
            cuts = [np.linspace(low, high, blocks + 1).round().astype(np.int64) for low, high in some]
            for number in range(blocks):
                block = np.concatenate([np.arange(cut[number], cut[number + 1]) for cut in cuts])
                if self.block > 1:
                    draw.shuffle(block)
                found[at : at + len(block)] = block
                at += len(block)
        return found


def block_order(units: np.ndarray, together: int, block: int) -> BlockOrder:
    """Return the order of samples by the units in which they lie.

    Args:
        units: of each sample, in the order of the samples; int [samples].
        together: number of units that are read at once.
        block: number of samples among which the order is random.
    """
    starts = np.flatnonzero(np.diff(units, prepend=units[:1] - 1)) if len(units) else np.zeros(0, np.int64)
    return BlockOrder(starts, len(units), together, block)
