"""A LightningDataModule with ordinary loaders; lrflow shuffles, shards and resumes them."""

from __future__ import annotations

import numpy as np
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset


class Diabetes(pl.LightningDataModule):
    """442 patients: ten measurements, and the progression of their diabetes after a year (Efron et al., 2004).

    Measurements and progression are standardised to mean 0 and standard deviation 1 over the training data.

    Args:
        batch_size: examples per training batch.
        val_size: patients held out for validation.
        test_size: patients held out for the test.
        split_seed: seed that selects the held-out patients.
    """

    def __init__(self, batch_size: int = 32, val_size: int = 88, test_size: int = 88, split_seed: int = 0) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.sizes = (val_size, test_size)
        self.split_seed = split_seed

    def setup(self, stage: str) -> None:
        """Read and split the data."""
        inputs, targets = load_diabetes(return_X_y=True, scaled=False)
        table = torch.tensor(np.column_stack([inputs, targets]), dtype=torch.float32)
        val_size, test_size = self.sizes
        rest, test = train_test_split(table, test_size=test_size, random_state=self.split_seed)
        train, val = train_test_split(rest, test_size=val_size, random_state=self.split_seed)
        mean, std = train.mean(0), train.std(0)
        parts = ((part - mean) / std for part in (train, val, test))
        self.train, self.val, self.test = (TensorDataset(part[:, :-1], part[:, -1]) for part in parts)

    def train_dataloader(self) -> DataLoader:
        """Return a loader of shuffled training batches."""
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Return a loader of the validation data, in one batch."""
        return DataLoader(self.val, len(self.val))

    def test_dataloader(self) -> DataLoader:
        """Return a loader of the test data, in one batch."""
        return DataLoader(self.test, len(self.test))
