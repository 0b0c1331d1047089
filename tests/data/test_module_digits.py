from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from lrflow.data import Digits
from lrflow.errors import ConfigError

FACTS = {"examples": 1797, "shape": [1, 8, 8], "outputs": 10, "loss": "cross_entropy"}


@pytest.fixture(scope="module")
def digits() -> Digits:
    module = Digits(facts=FACTS)
    module.setup("fit")
    return module


def test_every_digit_is_in_one_part(digits: Digits) -> None:
    parts = [digits.train_set, digits.val_set, digits.test_set]
    assert [len(part) for part in parts] == [1797 - 180 - 360, 180, 360]
    reference = load_digits()
    known = {tuple(image.ravel()): int(label) for image, label in zip(reference.images, reference.target, strict=True)}
    seen: list[tuple[int, ...]] = []
    for part in parts:
        images, labels = part.tensors
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        pixels = ((images * 0.3760 + 0.3053) * 16).round().flatten(1).tolist()
        seen += [tuple(row) for row in pixels]
        assert [known[tuple(row)] for row in pixels] == labels.tolist()
    assert sorted(seen) == sorted(tuple(image.ravel()) for image in reference.images)


def test_inputs_have_zero_mean_and_unit_variance(digits: Digits) -> None:
    images = torch.cat([part.tensors[0] for part in (digits.train_set, digits.val_set, digits.test_set)])
    assert images.shape == (1797, 1, 8, 8)
    assert abs(images.mean()) < 1e-3
    assert abs(images.std() - 1) < 1e-3


def test_each_part_holds_the_classes_in_proportion(digits: Digits) -> None:
    shares = torch.bincount(torch.from_numpy(load_digits().target)) / 1797
    for part in (digits.val_set, digits.test_set):
        counts = torch.bincount(part.tensors[1], minlength=10)
        assert (counts - shares * len(part)).abs().max() <= 1


def test_loaders_return_batches_of_the_configured_sizes(digits: Digits) -> None:
    assert [len(batch[0]) for batch in digits.val_dataloader()] == [180]
    sizes = [len(batch[0]) for batch in digits.train_dataloader()]
    assert sizes == [64] * 19 + [41]


def test_too_many_held_out_examples_are_reported_before_the_data_is_read() -> None:
    with pytest.raises(ConfigError, match=r"data\.test_size = 1700: nothing is left to train on"):
        Digits(test_size=1700, facts=FACTS)
    with pytest.raises(ConfigError, match=r"data\.batch_size = 1258: larger than the 1,257 training examples"):
        Digits(batch_size=1258, facts=FACTS)
