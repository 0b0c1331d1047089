"""Augmented batches: what they may be, and that they depend on the seed, the epoch and the batch alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, WeightedRandomSampler

from lrflow.config import compose
from lrflow.config.schema import Data
from lrflow.data import Digits, ordered
from lrflow.data.augment import flip_and_crop
from lrflow.errors import ConfigError
from lrflow.training.loader_settings import configure_loaders


def test_every_image_is_one_of_those_that_are_mirrored_and_shifted() -> None:
    images = torch.rand(200, 2, 4, 8) + 1
    found = flip_and_crop(images, 0.5, 0.25, torch.Generator().manual_seed(0))
    kinds = set()
    for image, new in zip(images, found, strict=True):
        possible = {}
        for flipped in (False, True):
            wide = torch.nn.functional.pad(image.flip(2) if flipped else image, (2, 2, 1, 1))
            possible |= {(flipped, y, x): wide[:, y : y + 4, x : x + 8] for y in range(3) for x in range(5)}
        (kind,) = (kind for kind, one in possible.items() if one.equal(new))
        kinds.add(kind)
    assert len(kinds) == 30
    assert flip_and_crop(images, 0, 0, torch.Generator()).equal(images)
    assert flip_and_crop(images, 1, 0, torch.Generator()).equal(images.flip(3))


def loader(workers: int, **place: Any) -> Any:
    data = Digits(batch_size=400, num_workers=workers)
    augment = {"flip": 0.5, "crop": 0.125}
    configure_loaders(data, Data.model_validate({"_target_": "lrflow.data.Digits", "augment": augment}))
    data.setup()
    return ordered(data.train_dataloader(), **{"seed": 1, **place})


def test_a_batch_depends_on_seed_epoch_and_number_alone(same: Any) -> None:
    whole = [list(batch) for batch in loader(0)]
    assert same(whole[2:], [list(batch) for batch in loader(0, start=2)])
    assert same(whole, [list(batch) for batch in loader(1)])
    plain = Digits(batch_size=400)
    plain.setup()
    before = [list(batch) for batch in ordered(plain.train_dataloader(), 1)]
    assert [batch[1].tolist() for batch in before] == [batch[1].tolist() for batch in whole]
    assert not any(one[0].equal(other[0]) for one, other in zip(before, whole, strict=True))
    for place in ({"seed": 2}, {"epoch": 1}):
        assert not next(iter(loader(0, **place)))[0].equal(whole[0][0])
    made = loader(0)
    single = made.dataset[5][0]
    assert single.equal(plain.train_set[5][0])  # type: ignore[index]


class OwnOrder(Digits):
    def train_dataloader(self) -> Any:
        assert self.train_set is not None
        return DataLoader(self.train_set, 8, sampler=WeightedRandomSampler([1.0] * len(self.train_set), 16))


def test_data_that_are_no_images_or_have_another_order_are_refused() -> None:
    data = OwnOrder()
    configure_loaders(data, Data.model_validate({"_target_": "x.Y", "augment": {"flip": 0.5}}))
    data.setup()
    with pytest.raises(ConfigError, match="lrflow's order"):
        data.train_dataloader()
    assert compose(["data.augment.flip=0.5"]).data.augment.flip == 0.5
    with pytest.raises(ConfigError, match="three dimensions"):
        compose(["data.augment.flip=0.5", "data.facts.shape=[64]"])
