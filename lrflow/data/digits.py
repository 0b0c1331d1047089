"""The handwritten digits that come inside scikit-learn."""

from __future__ import annotations

import torch

from lrflow.data.module import DataModule, Examples

# Of the 1,797 x 64 pixels scaled to [0, 1].
MEAN, STD = 0.3053, 0.3760


class Digits(DataModule):
    """1,797 handwritten digits of 8 x 8 pixels in 10 classes (Alpaydin and Kaynak, 1998); nothing is downloaded."""

    def load(self) -> tuple[Examples, Examples | None]:
        """All images, [1797, 1, 8, 8], pixels 0 to 16; the test part is split off them."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        return Examples(torch.from_numpy(digits.images)[:, None], torch.from_numpy(digits.target).long()), None

    def normalise(self, inputs: torch.Tensor) -> torch.Tensor:
        """Pixels with zero mean and unit variance."""
        return (inputs.float() / 16 - MEAN) / STD
