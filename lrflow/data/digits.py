"""`Digits`, the default data: the digits of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch

from lrflow.data.module import DataModule, Examples

# Mean and standard deviation of all 1,797 x 64 pixels, scaled to [0, 1]; independent of the split.
MEAN, STD = 0.3053, 0.3760


class Digits(DataModule):
    """1,797 handwritten digits of 8 x 8 pixels in 10 classes (Alpaydin and Kaynak, 1998).

    Args:
        batch_size: training examples per batch and device.
        eval_batch_size: examples per batch in validation and test; None: `batch_size`.
        val_size: examples held out for validation, stratified, or a share of them such as `10%`.
        test_size: examples held out for the test, stratified, or a share of them.
        drop_last: whether to leave out an epoch's last batch if it is smaller.
        num_workers: worker processes per loader.
        split_seed: seed that selects the examples held out.
        facts: properties of the data that the config states before it is read; see `DataModule`.
        folds: number of parts of a cross-validation; see `DataModule`.
        fold: the part that validates, from 0.
    """

    def __init__(
        self,
        batch_size: int = 64,
        eval_batch_size: int | None = 512,
        val_size: int | float | str = 180,
        test_size: int | float | str = 360,
        drop_last: bool = False,
        num_workers: int = 0,
        split_seed: int = 0,
        facts: Mapping[str, Any] | None = None,
        folds: int | None = None,
        fold: int = 0,
    ) -> None:
        sizes = (val_size, test_size, drop_last, num_workers, split_seed)
        super().__init__(batch_size, eval_batch_size, *sizes, facts, folds, fold)

    pixel_moments = ([MEAN], [STD])

    def load(self) -> tuple[Examples, None]:
        """All images, [1797, 1, 8, 8] with pixels from 0 to 16, and their classes; the data has no test part."""
        images, classes = _digits()
        return Examples(torch.tensor(images)[:, None], torch.tensor(classes, dtype=torch.long)), None

    def normalise(self, inputs: torch.Tensor) -> torch.Tensor:
        """Scale pixels to zero mean and unit variance."""
        return (inputs.float() / 16 - MEAN) / STD


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """The images and classes of scikit-learn's file, read once per process: a sweep trains on it often."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target
