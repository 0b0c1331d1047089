"""What every data module of lrflow does: check its options, hold examples out, make loaders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lrflow.errors import ConfigError, Problem


class Examples(NamedTuple):
    """Inputs and their targets.

    Args:
        inputs: [examples, ...], of any type that `DataModule.normalise` takes.
        targets: [examples] of class numbers (int64), or [examples, ...] of numbers to predict (float32).
    """

    inputs: torch.Tensor
    targets: torch.Tensor


class DataModule(pl.LightningDataModule):
    """Tensors in memory, split into train, validation and test parts.

    A data set of your own needs one method: `load`, which returns its examples. After `setup`, the parts are the
    `TensorDataset`s `train_set`, `val_set` and `test_set`.

    Args:
        batch_size: training examples a batch and device.
        eval_batch_size: examples a batch in validation and test; None: `batch_size`.
        val_size: examples held out of the training part for validation.
        test_size: examples held out for the test, where the data has no test part of its own.
        drop_last: leave out an epoch's last, smaller batch.
        num_workers: worker processes a loader; 0 loads in this process, which is fastest for data in memory.
        split_seed: which examples are held out. The test part does not depend on `val_size`.
        facts: what the config states about the data before it is read: examples (the data without its own test
            part), shape (of one input), outputs, loss. Checked against what is read.

    Raises:
        ConfigError: options that cannot be, all at once; in `setup`, also what does not fit the data.
    """

    def __init__(
        self,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        val_size: int = 0,
        test_size: int = 0,
        drop_last: bool = False,
        num_workers: int = 0,
        split_seed: int = 0,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.val_size = val_size
        self.test_size = test_size
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.split_seed = split_seed
        self.facts = dict(facts or {})
        self.train_set: TensorDataset | None = None
        self.val_set: TensorDataset | None = None
        self.test_set: TensorDataset | None = None

    def load(self) -> tuple[Examples, Examples | None]:
        """The examples to train on and hold out from, and the data's own test part if it has one."""
        raise NotImplementedError(f"{type(self).__name__} has no load()")

    def normalise(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs as the model takes them, float32."""
        return inputs.float()

    def setup(self, stage: str | None = None) -> None:
        """Reads the data and splits it, once."""
        if self.train_set is not None:
            return
        pool, test = self.load()
        order = stratified_order(pool.targets.numpy(), self.split_seed)
        held = self.test_size if test is None else 0
        self.test_set = self._part(pool, order[:held]) if test is None else self._part(test, None)
        self.val_set = self._part(pool, order[held : held + self.val_size])
        self.train_set = self._part(pool, np.sort(order[held + self.val_size :]))

    def _part(self, examples: Examples, rows: np.ndarray | None) -> TensorDataset:
        if rows is not None:
            index = torch.from_numpy(rows)
            examples = Examples(examples.inputs[index], examples.targets[index])
        return TensorDataset(self.normalise(examples.inputs), examples.targets)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the training part: pairs [batch, *shape] float32, [batch] targets."""
        return self._loader(self.train_set, self.batch_size, shuffle=True, drop_last=self.drop_last)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation part in order."""
        return self._loader(self.val_set, self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """The test part in order."""
        return self._loader(self.test_set, self.eval_batch_size)

    def _loader(self, dataset: TensorDataset | None, batch_size: int, **options: Any) -> DataLoader[Any]:
        if dataset is None:
            raise RuntimeError("setup() comes before the loaders")
        workers = {"num_workers": self.num_workers, "persistent_workers": self.num_workers > 0}
        return DataLoader(dataset, batch_size, **workers, **options)  # type: ignore[arg-type]


def stratified_order(targets: np.ndarray, seed: int) -> np.ndarray:
    """An order of the examples of which every stretch holds the classes in proportion."""
    rng = np.random.RandomState(seed)
    order = rng.permutation(len(targets))
    if targets.ndim != 1 or targets.dtype.kind not in "iu" or not len(targets):
        return order
    _, classes, counts = np.unique(targets[order], return_inverse=True, return_counts=True)
    by_class = np.argsort(classes, kind="stable")
    place = np.empty(len(targets))
    place[by_class] = np.arange(len(targets)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[np.argsort((place + 0.5) / counts[classes], kind="stable")]
