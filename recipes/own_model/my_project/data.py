"""A LightningDataModule: ordinary loaders, which lrflow orders, shards and resumes."""

from __future__ import annotations

import numpy as np
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset


class Diabetes(pl.LightningDataModule):
    """442 patients: ten measurements, and how far their diabetes had progressed a year later (Efron et al., 2004).

    Measurements and progression have mean 0 and standard deviation 1 over the training part.

    Args:
        batch_size: examples of a training batch.
        val_size: patients held out to choose by.
        test_size: patients held out for the end.
        split_seed: which patients are held out.
    """

    def __init__(self, batch_size: int = 32, val_size: int = 88, test_size: int = 88, split_seed: int = 0) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.sizes = (val_size, test_size)
        self.split_seed = split_seed

    def setup(self, stage: str) -> None:
        """Reads and divides the data."""
        inputs, targets = load_diabetes(return_X_y=True, scaled=False)
        table = torch.tensor(np.column_stack([inputs, targets]), dtype=torch.float32)
        val_size, test_size = self.sizes
        rest, test = train_test_split(table, test_size=test_size, random_state=self.split_seed)
        train, val = train_test_split(rest, test_size=val_size, random_state=self.split_seed)
        mean, std = train.mean(0), train.std(0)
        parts = ((part - mean) / std for part in (train, val, test))
        self.train, self.val, self.test = (TensorDataset(part[:, :-1], part[:, -1]) for part in parts)

    def train_dataloader(self) -> DataLoader:
        """Batches of the training part, shuffled."""
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """All of the validation part."""
        return DataLoader(self.val, len(self.val))

    def test_dataloader(self) -> DataLoader:
        """All of the test part."""
        return DataLoader(self.test, len(self.test))
