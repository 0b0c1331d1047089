"""The handwritten digits that come inside scikit-learn: the default data, there at once on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lrflow.data.module import DataModule, Examples

# Of all 1,797 x 64 pixels scaled to [0, 1], so that another split does not move the inputs.
MEAN, STD = 0.3053, 0.3760


class Digits(DataModule):
    """1,797 handwritten digits of 8 x 8 pixels in 10 classes (Alpaydin and Kaynak, 1998).

    Args:
        batch_size: training examples a batch and device.
        eval_batch_size: examples a batch in validation and test; None: `batch_size`.
        val_size: examples held out for validation, stratified.
        test_size: examples held out for the test, stratified.
        drop_last: leave out an epoch's last, smaller batch.
        num_workers: worker processes a loader.
        split_seed: which examples are held out.
        facts: what the config states about the data before it is read; see `DataModule`.
    """

    def __init__(
        self,
        batch_size: int = 64,
        eval_batch_size: int | None = 512,
        val_size: int = 180,
        test_size: int = 360,
        drop_last: bool = False,
        num_workers: int = 0,
        split_seed: int = 0,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, val_size, test_size, drop_last, num_workers, split_seed, facts)

    def load(self) -> tuple[Examples, None]:
        """All pictures, [1797, 1, 8, 8] with pixels from 0 to 16, and their classes; no test part of its own."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        return Examples(torch.from_numpy(digits.images)[:, None], torch.from_numpy(digits.target).long()), None

    def normalise(self, inputs: torch.Tensor) -> torch.Tensor:
        """Pixels with zero mean and unit variance."""
        return (inputs.float() / 16 - MEAN) / STD
