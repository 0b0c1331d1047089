"""Augmented batches: that they depend on the seed, the epoch and the batch alone, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler, default_collate

from lrflow import assemble
from lrflow.augment import Augmentation, FlipCrop, MixUp, RandAugment
from lrflow.augment.base import Augmented, Pipeline
from lrflow.config import compose
from lrflow.config.schemas.objects import Data
from lrflow.data import Digits, ordered
from lrflow.data.digits import MEAN, STD
from lrflow.data.order import collate_whole
from lrflow.errors import ConfigError, LrflowError
from lrflow.training.loader_settings import configure_loaders
from lrflow.training.loaders import set_up_data

EVERYTHING = "augment=[flip_crop,randaugment,erasing,mixup_cutmix]"


def loader(workers: int, **place: Any) -> Any:
    config = compose([EVERYTHING, "data.batch_size=400", f"data.loader.num_workers={workers}"])
    data = assemble.load_data(config)
    return ordered(data.train_dataloader(), **{"seed": 1, **place})  # type: ignore[arg-type]


def test_a_batch_depends_on_seed_epoch_and_number_alone(same: Any) -> None:
    whole = [list(batch) for batch in loader(0)]
    assert same(whole[2:], [list(batch) for batch in loader(0, start=2)])
    assert same(whole, [list(batch) for batch in loader(1)])
    plain = Digits(batch_size=400)
    plain.setup()
    before = [list(batch) for batch in ordered(plain.train_dataloader(), 1)]
    assert not any(one[0].equal(other[0]) for one, other in zip(before, whole, strict=True))
    for classes, (_, targets) in zip([batch[1] for batch in before], whole, strict=True):
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
        assert (targets.gather(1, classes[:, None]) > 0).float().mean() > 0.9
    for place in ({"seed": 2}, {"epoch": 1}):
        assert not next(iter(loader(0, **place)))[0].equal(whole[0][0])
    made = loader(0)
    assert made.dataset[5][0].equal(plain.train_set[5][0])  # type: ignore[index]


def test_batches_and_epochs_draw_other_numbers() -> None:
    alike = TensorDataset(torch.rand(1, 1, 8, 8).expand(64, 1, 8, 8), torch.zeros(64))
    dataset = Augmented(alike, default_collate, Pipeline({"flip": FlipCrop()}))
    loader = DataLoader(dataset, 16, collate_fn=collate_whole)
    batches = [batch[0] for epoch in (0, 1) for batch in ordered(loader, 0, epoch=epoch)]
    assert not any(one.equal(other) for number, one in enumerate(batches) for other in batches[:number])


def test_what_is_validated_is_not_augmented() -> None:
    config = compose([EVERYTHING, "trainer.overfit_batches=2", "data.batch_size=100"])
    data = set_up_data(assemble.build_data(config), None, 0, overfit=2)
    plain = set_up_data(Digits(batch_size=100), None, 0, overfit=2)
    batches = [next(iter(one.val_dataloader())) for one in (data, plain)]
    assert batches[0][0].equal(batches[1][0])
    assert batches[0][1].equal(batches[1][1])
    config = compose([EVERYTHING])
    assert next(iter(assemble.load_data(config).val_dataloader()))[1].dtype == torch.long


class Noted(Augmentation):
    """Remembers what it gets."""

    def __init__(self, **traits: bool) -> None:
        self.traits = Augmentation.traits._replace(**traits)  # type: ignore[misc]
        self.seen: list[tuple[Tensor, Any]] = []

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        self.seen.append((inputs, targets))
        return inputs, targets


def test_an_augmentation_gets_the_pixels_and_targets_that_it_needs() -> None:
    images, targets = torch.randn(4, 1, 3, 3).clamp(-0.8, 1.8), torch.tensor([0, 2, 1, 1])
    steps = {"a": Noted(), "b": Noted(pixels=True), "c": Noted(pixels=True, mixes=True), "d": Noted()}
    found, soft = Pipeline(steps, "classes", 3, ([MEAN], [STD]))(images, targets, torch.Generator())
    assert torch.allclose(found, images, atol=1e-6)
    assert steps["a"].seen[0][0] is images
    pixels = steps["b"].seen[0][0]
    assert torch.allclose(pixels, images * STD + MEAN)
    assert steps["c"].seen[0][0] is pixels
    assert steps["b"].seen[0][1] is targets
    assert soft.tolist() == steps["d"].seen[0][1].tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 0]]
    labels = Pipeline({"c": Noted(mixes=True)}, "labels")(images, targets % 2, torch.Generator())[1]
    assert labels.tolist() == [0.0, 0.0, 1.0, 1.0]
    own = Pipeline({"own": lambda inputs, targets, generator: (inputs + 1, targets)})
    assert own(images, targets, torch.Generator())[0].equal(images + 1)


def test_batches_that_do_not_fit_are_told() -> None:
    images, classes = torch.rand(4, 1, 8, 8), torch.arange(4)
    cases: list[tuple[Pipeline, Any, Any, str]] = [
        (Pipeline({"f": FlipCrop()}), torch.rand(4, 8), classes, "augment.f needs batches of .images"),
        (Pipeline({"m": MixUp()}), torch.arange(4), classes, "whole numbers such as those of tokens"),
        (Pipeline({"m": MixUp()}, "classes"), images, classes, "data.facts.outputs"),
        (Pipeline({"m": MixUp()}, "classes", 3), images, classes, "from 0 to 2"),
        (Pipeline({"m": MixUp()}, "classes", 3), images, torch.zeros(4, 8, 8).long(), "one class number per example"),
    ]
    for pipeline, inputs, targets, message in cases:
        with pytest.raises(LrflowError, match=message):
            pipeline(inputs, targets, torch.Generator())
    with pytest.raises(ConfigError, match="pixel_moments"):
        Pipeline({"r": RandAugment()})


class OwnOrder(Digits):
    def train_dataloader(self) -> Any:
        assert self.train_set is not None
        return DataLoader(self.train_set, 8, sampler=WeightedRandomSampler([1.0] * len(self.train_set), 16))


def test_a_loader_with_an_order_of_its_own_is_refused() -> None:
    data = OwnOrder()
    configure_loaders(data, Data.model_validate({"_target_": "x.Y"}), lambda _: Pipeline({"flip": FlipCrop()}))
    data.setup()
    with pytest.raises(ConfigError, match="lrflow's order"):
        data.train_dataloader()


def test_options_that_do_not_fit_the_data_or_the_loss_are_reported_first(tmp_path: Path) -> None:
    rows = "".join(f"{i},{'xyz'[i % 3]},{i * 1.5}\n" for i in range(60))
    (tmp_path / "t.csv").write_text(f"a,c,y\n{rows}")
    table = ["data=table", f"data.file={tmp_path}/t.csv", "data.target=y", "data.batch_size=8"]
    one_hot = [*table, "data.categories=one_hot"]
    cases = [
        (["augment=flip_crop", "data.facts.shape=[64]"], "augment.flip_crop: .*three dimensions"),
        ([*one_hot, "augment=erasing"], "augment.erasing: .*three dimensions"),
        (["augment=cutmix", "data.facts.loss=mse", "data.facts.outputs=1"], "augment=mixup mixes numbers"),
        ([*table, "model=table", "augment=mixup"], "data.categories=one_hot"),
        (["augment=mixup", "model.loss=multi_margin"], "model.loss=cross_entropy"),
        (["augment=mixup", "model.loss={name: cross_entropy, ignore_index: 3}"], "model.loss.ignore_index = 3"),
        (["augment=flip_crop", "augment.flip_crop.flip=2"], "augment.flip_crop.flip = 2: .*a number from 0 to 1"),
        (["augment=flip_crop", "augment.flip_crop.flop=1"], "did you mean augment.flip_crop.flip"),
        (["augment=[flip_crop,mixap]"], "mixup"),
        (["augment.mixup.alpha=1"], "add augment=mixup"),
        (["data.augment.flip=0.5"], "augment=flip_crop mirrors"),
    ]
    for overrides, message in cases:
        with pytest.raises(ConfigError) as caught:
            compose(overrides)
        assert caught.match(f"(?s){message}"), (overrides, str(caught.value))
    assert list(compose([*one_hot, "augment=mixup"]).augment.named) == ["mixup"]
    order = ["mixup", "flip_crop"]
    assert list(compose([f"augment=[{','.join(order)}]"]).augment.named) == order
