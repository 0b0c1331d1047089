"""Batches of sentences without padding: half the tokens of a padded batch, or fewer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import default_collate


class Packed(NamedTuple):
    """The sentences of a batch, one after another in one row.

    Args:
        tokens: [tokens], the vocabulary's numbers.
        sentences: [tokens], the sentence that each belongs to, from 0.
        positions: [tokens], its place in that sentence, from 0.
        lengths: [sentences], tokens of each.
    """

    tokens: Tensor
    sentences: Tensor
    positions: Tensor
    lengths: Tensor


def pack(batch: Sequence[tuple[Tensor, Tensor]]) -> tuple[Packed, Tensor]:
    """A loader's `collate_fn`: packs padded sentences, in the loader so that no step waits for a device to count them.

    Args:
        batch: pairs of a sentence, [longest] of tokens with zeros for padding, and its target.

    Returns:
        The sentences, and their targets [sentences].
    """
    padded, targets = default_collate(list(batch))
    sentences, positions = padded.nonzero(as_tuple=True)
    return Packed(padded[sentences, positions], sentences, positions, (padded != 0).sum(1)), targets


def mean_by_sentence(values: Tensor, packed: Packed) -> Tensor:
    """The mean of what belongs to each sentence: [tokens, width] to [sentences, width]."""
    sums = torch.zeros(len(packed.lengths), values.shape[1], dtype=values.dtype, device=values.device)
    return sums.index_add(0, packed.sentences, values) / packed.lengths[:, None]
