"""Breast cancer: a small table of measurements on different scales."""

from __future__ import annotations

import torch

from lrflow.data import DataModule, Examples


class BreastCancer(DataModule):
    """569 tumours of the breast, malignant (0) or benign (1), with 30 measurements (Street et al., 1993).

    Each measurement is standardised by its mean and standard deviation over the training data. The arguments are those
    of `lrflow.data.DataModule`.
    """

    def load(self) -> tuple[Examples, None]:
        """Return the measurements [569, 30] with the classes [569], and None: there is no separate test set."""
        from sklearn.datasets import load_breast_cancer

        tumours = load_breast_cancer()
        return Examples(torch.from_numpy(tumours.data), torch.from_numpy(tumours.target).long()), None

    def fit_normalisation(self, inputs: torch.Tensor) -> None:
        """Compute the mean and standard deviation of each measurement over the training data."""
        self._mean, self._std = inputs.mean(0), inputs.std(0, correction=0)

    def normalise(self, inputs: torch.Tensor) -> torch.Tensor:
        """Standardise measurements; returns float32."""
        return ((inputs - self._mean) / self._std).float()
