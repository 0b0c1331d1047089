"""The augmentation of the recipe `resnet`, exact resumption, and that no step waits for the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from lrflow import assemble
from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.recipes.resnet.model import AugmentedResNet, flipped, shifted
from lrflow.tasks import prepare, train
from lrflow.training import Signals

# oneDNN 3.12 (torch 2.13) writes beyond its memory on CPUs with AVX2 alone, if a 1x1 convolution of stride 2 has fewer
# than 8 channels in channels_last.
SMALL = [
    "data=digits", "data.batch_size=64", "model.width=8", "model.blocks=[1,1]", "trainer.accelerator=cpu",
    "trainer.progress=false",
]  # fmt: skip
WAITING = ("_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "bincount")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def numbered(batch: int, channels: int, size: int) -> torch.Tensor:
    """Pictures in which no two pixels are equal."""
    return torch.arange(batch * channels * size * size, dtype=torch.float32).reshape(batch, channels, size, size)


def test_half_of_the_pictures_are_mirrored() -> None:
    images = numbered(2000, 2, 3)
    mirrored = flipped(images)
    as_it_was = (mirrored == images).all((1, 2, 3))
    assert ((mirrored == images.flip(-1)).all((1, 2, 3)) ^ as_it_was).all()
    assert 900 < as_it_was.sum() < 1100


def test_pictures_are_moved_by_whole_pixels_in_every_direction() -> None:
    images, most = numbered(1000, 2, 6), 2
    padded = functional.pad(images, [most] * 4, mode="replicate")
    seen: dict[tuple[int, int], int] = {}
    for image, source in zip(shifted(images, most), padded, strict=True):
        moves = [
            (down, right)
            for down in range(2 * most + 1)
            for right in range(2 * most + 1)
            if torch.equal(image, source[:, down : down + 6, right : right + 6])
        ]
        (move,) = moves
        seen[move] = seen.get(move, 0) + 1
    assert len(seen) == 25
    assert max(seen.values()) < 3 * min(seen.values())


def test_what_is_validated_is_not_augmented_and_its_labels_are_not_smoothed() -> None:
    module = AugmentedResNet([1, 8, 8], 10, width=4, blocks=[1], label_smoothing=0.2).eval()
    images, target = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    logits = module(images)
    assert torch.equal(logits, module.model(images))
    module._count("val", (images, target))
    loss = dict(module._metrics("val"))["loss"].compute()
    assert loss == pytest.approx(functional.cross_entropy(logits, target).item(), rel=1e-6)


def test_the_training_loss_is_that_of_smoothed_targets() -> None:
    module = AugmentedResNet([1, 8, 8], 10, width=4, blocks=[1], flip=False, shift=0, label_smoothing=0.2).eval()
    images, target = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    shares = functional.one_hot(target, 10) * 0.8 + 0.02
    expected = -(shares * module(images).log_softmax(1)).sum(1).mean()
    assert module.training_step((images, target), 0).item() == pytest.approx(expected.item(), rel=1e-6)


def test_bad_arguments_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        AugmentedResNet([1, 8, 8], 10, shift=8, label_smoothing=1.0)
    assert [problem.key for problem in caught.value.problems] == ["model.shift", "model.label_smoothing"]


def test_channels_last_and_compilation_reach_its_network() -> None:
    network: Any = assemble.build_module(compose(["recipe=resnet", *SMALL])).model
    assert network._compiled_call_impl is not None
    assert network.stage1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("recipe", ["resnet", "resnet/airbench"])
def test_a_resumed_run_augments_as_the_uninterrupted_one(recipe: str, tmp_path: Path) -> None:
    words = [f"recipe={recipe}", *SMALL, "trainer.compile=false", "trainer.max_epochs=1"]
    words += [
        "trainer.limit_train_batches=8",
        "trainer.checkpoint.every=5 steps",
        "trainer.checkpoint.keep=null",
        f"output={tmp_path}",
    ]
    train.run(compose([*words, "name=whole"]))
    (whole,) = tmp_path.glob("*whole")
    train.run(compose([*words, "name=second", f"resume={whole}/checkpoints/step-0000005.ckpt"]))
    (second,) = tmp_path.glob("*second")
    ends = [torch.load(run / "checkpoints/step-0000008.ckpt", weights_only=True) for run in (whole, second)]
    for name, weight in ends[0]["state_dict"].items():
        assert torch.equal(weight, ends[1]["state_dict"][name]), name


class Refusing(TorchDispatchMode):
    """Refuses operators for whose result the device has to be waited for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for listed in args
            if isinstance(listed, list | tuple)
            for index in listed
        )
        assert name not in WAITING, f"{func} waits for the device"
        assert not by_mask, f"{func} with a mask waits for the device"
        return func(*args, **(kwargs or {}))


class Watched(pl.Callback):
    """Puts a dispatcher around each step, from its batch to the end of the last callback."""

    def __init__(self, first: int = 2) -> None:
        self.first, self.steps = first, 0  # the first steps make the optimizer's state

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx >= self.first:
            self.mode = Refusing()
            self.mode.__enter__()
            self.steps += 1


class Unwatched(pl.Callback):
    def __init__(self, watched: Watched) -> None:
        self.watched = watched

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx >= self.watched.first:
            self.watched.mode.__exit__(None, None, None)


@pytest.mark.parametrize("recipe", ["resnet", "resnet/airbench"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_no_step_waits_for_the_device(
    recipe: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched()
    callbacks = prepare._callbacks
    monkeypatch.setattr(prepare, "_callbacks", lambda *given: [watched, *callbacks(*given), Unwatched(watched)])
    flush = Signals.flush

    def between_steps(signals: Signals, trainer: pl.Trainer, together: bool = True) -> None:
        """The one place that reads, every `log_every` steps or once a second; not here, where all of it is one step."""
        if not torch.utils._python_dispatch._get_current_dispatch_mode_stack():
            flush(signals, trainer, together)

    monkeypatch.setattr(Signals, "flush", between_steps)
    words = [f"recipe={recipe}", *SMALL, f"trainer.precision={precision}", "trainer.compile=false"]
    train.run(compose([*words, "trainer.max_epochs=1", "trainer.limit_train_batches=6", f"output={tmp_path}"]))
    assert watched.steps == 4


def test_a_step_that_waits_is_found() -> None:
    with pytest.raises(AssertionError, match="waits"), Refusing():
        torch.ones(3).sum().item()
    with pytest.raises(AssertionError, match="waits"), Refusing():
        torch.ones(3)[torch.tensor([True, False, True])]
    with pytest.raises(AssertionError, match="waits"), Refusing():
        bool(torch.ones(1) > 0)
