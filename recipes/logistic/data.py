"""Breast cancer: a small table of measurements on scales of their own."""

from __future__ import annotations

import torch

from lrflow.data import DataModule, Examples


class BreastCancer(DataModule):
    """569 tumours of the breast, malignant (0) or benign (1), by 30 measurements (Street et al., 1993).

    Each measurement is standardised by its mean and standard deviation over the training part. The arguments are those
    of `lrflow.data.DataModule`.
    """

    def load(self) -> tuple[Examples, None]:
        """The measurements [569, 30] and the classes [569]; no test part of its own."""
        from sklearn.datasets import load_breast_cancer

        tumours = load_breast_cancer()
        return Examples(torch.from_numpy(tumours.data), torch.from_numpy(tumours.target).long()), None

    def fit_normalisation(self, inputs: torch.Tensor) -> None:
        """Takes the mean and the standard deviation of each measurement from the training part."""
        self._mean, self._std = inputs.mean(0), inputs.std(0, correction=0)

    def normalise(self, inputs: torch.Tensor) -> torch.Tensor:
        """Measurements of zero mean and unit variance over the training part, float32."""
        return ((inputs - self._mean) / self._std).float()
