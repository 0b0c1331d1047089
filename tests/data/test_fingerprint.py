"""Data that changed is reported when a run is resumed; what changes from run to run by itself is not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from lrflow.data.fingerprint import changes_of_data, fingerprint
from lrflow.training.loaders import order_loaders


class Data(pl.LightningDataModule):
    def __init__(self, train: Any, val: Any = None) -> None:
        super().__init__()
        self.train, self.val = train, val

    def train_dataloader(self) -> Any:
        return DataLoader(self.train, 4)

    def val_dataloader(self) -> Any:
        return [] if self.val is None else DataLoader(self.val, 4)


def tensors(count: int = 100, at: int | None = None, width: int = 3) -> TensorDataset:
    inputs = torch.arange(count * width, dtype=torch.float32).reshape(count, width)
    if at is not None:
        inputs[at, 0] += 1
    return TensorDataset(inputs, torch.arange(count) % 3)


class Augmented(Dataset[Any]):
    """Draws random numbers for each example, and counts them."""

    def __init__(self, images: Any, noise: float = 0.1) -> None:
        self.images, self.noise, self.read, self.generator = images, noise, 0, np.random.default_rng()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        self.read += 1
        raise AssertionError("no example is loaded")


def images(folder: Path, size: int = 100, last: bytes = b"z") -> Augmented:
    folder.mkdir(exist_ok=True)
    for number in range(5):
        (folder / f"{number}.png").write_bytes(bytes([number]) * size)
        os.utime(folder / f"{number}.png", (1000, 1000))
    (folder / "9.png").write_bytes(last)
    os.utime(folder / "9.png", (1000, 1000))
    return Augmented([(str(path), number) for number, path in enumerate(sorted(folder.iterdir()))])


def changes(before: Any, now: Any) -> list[str]:
    return changes_of_data(fingerprint(Data(before)), fingerprint(Data(now)))


BIG = 1 << 19


class Tree(Dataset[Any]):
    """A data set whose parts know it."""

    def __init__(self, values: Any) -> None:
        self.values, self.parts = values, [self]

    def __len__(self) -> int:
        return len(self.values)


SAME: dict[str, Callable[[], Any]] = {
    "tensors": tensors,
    "large tensors": lambda: tensors(BIG, width=12),
    "a subset": lambda: Subset(tensors(), [3, 1, 2]),
    "an augmented array": lambda: Augmented(np.arange(60).reshape(20, 3)),
    "a list of texts": lambda: Augmented(["a", "b", "c"]),
    "several": lambda: ConcatDataset([tensors(), tensors(50)]),
    "objects": lambda: Augmented([object()]),
    "a data set within itself": lambda: Tree(np.arange(5)),
    "complex numbers": lambda: Augmented(torch.ones(4, dtype=torch.complex64).conj()),
    "quantized numbers": lambda: Augmented(torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.quint8)),
    "nothing": lambda: Augmented(torch.zeros(0, 3)),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("make", SAME.values(), ids=SAME.keys())
def test_the_same_data_is_no_change(make: Callable[[], Any]) -> None:
    assert changes(make(), make()) == []


CHANGED: dict[str, tuple[Any, Any, str]] = {
    "the first value": (tensors(), tensors(at=0), "train: other values"),
    "a value in the middle": (tensors(), tensors(at=50), "train: other values"),
    "the last value of much": (tensors(BIG, width=12), tensors(BIG, BIG - 1, width=12), "train: other values"),
    "fewer": (tensors(), tensors(90), "train has 90 examples instead of 100"),
    "other rows": (Subset(tensors(), [1, 2]), Subset(tensors(), [1, 3]), "train: other values"),
    "an array": (Augmented(np.zeros(9)), Augmented(np.ones(9)), "train: other values"),
    "a text": (Augmented(["a", "b"]), Augmented(["a", "c"]), "train: other values"),
    "within": (ConcatDataset([tensors()]), ConcatDataset([tensors(at=3)]), "train: other values"),
}


@pytest.mark.parametrize(("before", "now", "told"), CHANGED.values(), ids=CHANGED.keys())
def test_a_change_is_named(before: Any, now: Any, told: str) -> None:
    assert changes(before, now) == [told]


def test_files_are_compared_by_size_time_and_beginning(tmp_path: Path) -> None:
    before = fingerprint(Data(images(tmp_path / "a")))
    assert fingerprint(Data(images(tmp_path / "b"))) == before, "the folder may have moved"
    os.utime(tmp_path / "b" / "2.png", (2000, 2000))
    again = fingerprint(
        Data(Augmented([(str(path), at) for at, path in enumerate(sorted((tmp_path / "b").iterdir()))]))
    )
    assert changes_of_data(before, again) == ["train: other file times"]
    assert changes_of_data(before, fingerprint(Data(images(tmp_path / "b", size=101)))) == [
        "train: other values and file sizes"
    ]
    assert changes_of_data(before, fingerprint(Data(images(tmp_path / "b", last=b"y")))) == ["train: other values"]


def test_a_data_module_may_have_no_validation_data() -> None:
    class Trains(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return DataLoader(tensors(), 4)

    data = Trains()
    assert [*fingerprint(data)] == ["train"]
    order_loaders(data, seed=0)  # as a run does, which replaces the methods
    assert [*fingerprint(data)] == ["train"]


def test_each_part_is_named_and_streams_are_left_alone() -> None:
    class Stream(IterableDataset[int]):
        values = torch.ones(3)

        def __iter__(self) -> Any:
            raise AssertionError

    class Stateful(Data):
        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            pass

    assert fingerprint(Data(Stream())) == fingerprint(Stateful(tensors())) == {}
    found = fingerprint(Data(Stream(), tensors()))
    assert [*found] == ["val"]
    assert changes_of_data(found, fingerprint(Data(tensors(), tensors(at=1)))) == ["val: other values"]
    assert changes_of_data({}, found) == changes_of_data(found, {}) == []
