"""Mixed batches against the formulas of the papers: inputs that show who was mixed give the targets independently."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import one_hot

from lrflow.augment import CutMix, MixUp, MixUpOrCutMix

CLASSES = torch.tensor([0, 1, 2, 0, 1, 2, 1, 0])
SOFT = one_hot(CLASSES).float()


def mixed(augmentation: MixUp | CutMix | MixUpOrCutMix, inputs: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    return augmentation(inputs, SOFT, torch.Generator().manual_seed(seed))


def test_mixup_weighs_inputs_and_targets_alike_by_a_beta_distribution() -> None:
    weights = []
    for seed in range(400):
        parts, targets = mixed(MixUp(0.4), torch.eye(8), seed)  # row i: how much of each example is in example i
        np.testing.assert_allclose(targets, parts @ SOFT, atol=1e-6)
        np.testing.assert_allclose(parts.sum(1), 1, atol=1e-6)
        assert (parts.count_nonzero(1) <= 2).all()
        own = parts.diagonal()[parts.diagonal() < 1]
        assert torch.allclose(own, own[:1])  # one weight per batch
        weights.append(own[0].item())
    assert stats.kstest(weights, stats.beta(0.4, 0.4).cdf).pvalue > 0.001
    numbers, targets = MixUp(1.0)(torch.arange(8.0)[:, None], torch.arange(8.0) * 3, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(targets, 3 * numbers[:, 0], atol=1e-5)  # a regression


def test_cutmix_takes_a_rectangle_and_weighs_targets_by_its_area() -> None:
    height, width = 12, 20
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 2, height, width)
    for seed in range(100):
        found, targets = mixed(CutMix(1.0), images, seed)
        counts = np.stack([np.bincount(image.long().ravel(), minlength=8) for image in found[:, 0]]) / (height * width)
        np.testing.assert_allclose(targets, counts @ SOFT.numpy(), atol=1e-6)
        for number, image in enumerate(found):
            taken = image[0] != number
            assert taken.equal(taken.any(1)[:, None] & taken.any(0))
            assert image[0].equal(image[1])
    # Of a side s, whose centre is uniform in the unit interval, s - s^2 / 4 lies inside on average; s^2 is uniform. So
    # the mean of the area is E[(s - s^2 / 4)^2] = 1/2 - 1/5 + 1/48.
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 150, 200)
    areas = [1 - mixed(CutMix(1.0), images, seed)[1].gather(1, CLASSES[:, None]).min().item() for seed in range(800)]
    assert np.mean(areas) == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.03)


def test_a_batch_is_mixed_with_a_probability_and_by_one_of_two_ways() -> None:
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 8, 8)
    unchanged = sum(mixed(MixUp(1.0, prob=0.25), images, seed)[0].equal(images) for seed in range(400))
    assert 260 < unchanged < 340
    assert mixed(CutMix(1.0, prob=0), images, 0)[1] is SOFT
    whole = [mixed(MixUpOrCutMix(share=0.25), images, seed)[0] for seed in range(400)]
    cut = sum(bool((one == one.round()).all()) for one in whole)  # mixup gives no whole numbers
    assert 70 < cut < 135
