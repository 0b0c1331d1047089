"""Batches of sentences without padding, which have at most half the tokens of padded ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import default_collate


class Packed(NamedTuple):
    """The sentences of a batch, concatenated into one row.

    Args:
        tokens: [tokens], token ids.
        sentences: [tokens], index of the sentence of each token, from 0.
        positions: [tokens], position of each token in its sentence, from 0.
        lengths: [sentences], number of tokens.
    """

    tokens: Tensor
    sentences: Tensor
    positions: Tensor
    lengths: Tensor


def pack(batch: Sequence[tuple[Tensor, Tensor]]) -> tuple[Packed, Tensor]:
    """Pack padded sentences; a `collate_fn`, so that the loader counts tokens and no step waits for the device.

    Args:
        batch: pairs of a sentence (token ids [longest], padded with zeros) and its target.

    Returns:
        The packed sentences, and their targets [sentences].
    """
    padded, targets = default_collate(list(batch))
    sentences, positions = padded.nonzero(as_tuple=True)
    return Packed(padded[sentences, positions], sentences, positions, (padded != 0).sum(1)), targets


def mean_by_sentence(values: Tensor, packed: Packed) -> Tensor:
    """Return the mean over the tokens of each sentence: [tokens, width] to [sentences, width]."""
    sums = torch.zeros(len(packed.lengths), values.shape[1], dtype=values.dtype, device=values.device)
    return sums.index_add(0, packed.sentences, values) / packed.lengths[:, None]
