"""`data.loader` changes how any data module's loaders load, and not which batches they make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from lrflow.config.schemas.objects import Data
from lrflow.errors import ConfigError
from lrflow.training.loader_settings import configure_loaders
from lrflow.training.loaders import order_loaders
from lrflow.training.look_ahead import combine


class Pairs(torch.utils.data.Dataset[Any]):
    """Examples that are made one by one."""

    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((2,), float(index)), index


class Own(DataLoader[Any]):
    """A loader of the user's own, with arguments of its own and an attribute."""

    def __init__(self, colour: str, **options: Any) -> None:
        super().__init__(Pairs(), 4, **options)
        self.colour = colour


class Users(pl.LightningDataModule):
    """A data module that makes its loaders in its own code."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def train_dataloader(self) -> Any:
        return self.make()

    def val_dataloader(self) -> Any:
        return [DataLoader(Pairs(), 8), Own("red")]


def configured(make: Any, settings: dict[str, Any]) -> Users:
    data = Users(make)
    configure_loaders(data, Data.model_validate({"_target_": "my_pkg.Users", "loader": settings}))
    order_loaders(data, seed=1)
    return data


def batches(loaders: Any) -> list[Any]:
    combined = combine(loaders)
    combined.limits = None
    return [batch for batch, _, _ in combined]


MAKERS = {
    "shuffled": lambda: DataLoader(Pairs(), 4, shuffle=True),
    "its own workers": lambda: DataLoader(Pairs(), 4, shuffle=True, num_workers=1, timeout=60, prefetch_factor=3),
    "a subclass": lambda: Own("blue", shuffle=True),
    "a sampler of its own": lambda: DataLoader(
        Pairs(), 4, sampler=WeightedRandomSampler([1.0] * 22, 22, generator=torch.Generator().manual_seed(3))
    ),
    "single examples": lambda: DataLoader(Pairs(), None, shuffle=True),
    "two of different length": lambda: {"a": DataLoader(Pairs(), 4, shuffle=True), "b": DataLoader(Pairs(), 8)},
    "combined": lambda: CombinedLoader([DataLoader(Pairs(), 4, shuffle=True), Own("red", shuffle=True)], "min_size"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_any_number_of_workers_makes_the_same_batches(name: str, same: Any) -> None:
    expected = batches(configured(MAKERS[name], {"num_workers": 0}).train_dataloader())
    assert len(expected) in (6, 22)
    made = configured(MAKERS[name], {"num_workers": 2, "prefetch_factor": 1}).train_dataloader()
    flat = combine(made).flattened
    assert {(loader.num_workers, loader.prefetch_factor) for loader in flat} == {(2, 1)}
    assert same(batches(made), expected)


def test_what_is_left_out_stays_as_the_module_makes_it() -> None:
    kept = MAKERS["its own workers"]()
    loader = configured(lambda: kept, {"persistent_workers": True, "pin_memory": True}).train_dataloader()
    assert (loader.num_workers, loader.timeout, loader.prefetch_factor, loader.persistent_workers) == (1, 60, 3, True)
    assert loader.pin_memory == torch.accelerator.is_available()
    assert (kept.persistent_workers, kept.pin_memory, kept.num_workers) == (False, False, 1)
    data = configured(MAKERS["a subclass"], {"num_workers": 2})
    assert data.train_dataloader().colour == "blue"
    assert data.train_dataloader().prefetch_factor == 2
    assert [loader.num_workers for loader in data.val_dataloader()] == [2, 2]
    assert not is_overridden("test_dataloader", data)


class Stream(IterableDataset[Any]):
    """Each worker would make all of its examples."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(9))


class WithItsState(DataLoader[Any]):
    """A loader that saves where it is."""

    def state_dict(self) -> dict[str, int]:
        return {}


PLAIN = TensorDataset(torch.arange(8.0))


@pytest.mark.parametrize(
    ("make", "settings", "key", "reason"),
    [
        (lambda: DataLoader(Stream(), 4), {"num_workers": 2}, ".num_workers", "Stream is an IterableDataset"),
        (lambda: WithItsState(PLAIN), {"pin_memory": True}, "", "an object of WithItsState, which saves its own state"),
        (lambda: [range(4)], {"num_workers": 2}, "", "an object of range, which is no DataLoader of torch"),
        (lambda: DataLoader(PLAIN), {"prefetch_factor": 2}, ".prefetch_factor", "training loader without any"),
        (lambda: DataLoader(PLAIN), {"persistent_workers": True}, ".persistent_workers", "needs worker processes"),
    ],
)
def test_a_setting_that_cannot_be_changed_is_refused(make: Any, settings: Any, key: str, reason: str) -> None:
    data = configured(make, settings)
    with pytest.raises(ConfigError) as caught:
        data.train_dataloader()
    (problem,) = caught.value.problems
    assert problem.key == f"data.loader{key}"
    assert reason in problem.message
    assert "leave it out" in problem.hint
    same_as_its_own = {"num_workers": 0, "pin_memory": False}
    assert configured(lambda: DataLoader(Stream(), 4), same_as_its_own).train_dataloader().num_workers == 0
