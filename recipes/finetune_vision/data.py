"""A few pictures of clothes, enlarged for networks pretrained on ImageNet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lrflow.data import Examples, FashionMNIST
from lrflow.data.splits import stratified_order


class FewClothes(FashionMNIST):
    """A stratified draw from FashionMNIST as bytes: `examples` of its 60,000 and `test_examples` of its 10,000.

    Args:
        examples: examples for training and validation (`val_size` of them); `split_seed` selects them.
        test_examples: examples for the test, always the same.
        size: height and width to which pictures are enlarged.
        options: arguments of `lrflow.data.FashionMNIST`.
    """

    def __init__(self, examples: int = 2000, test_examples: int = 2000, size: int = 48, **options: Any) -> None:
        super().__init__(**options)
        self.examples = examples
        self.test_examples = test_examples
        self.size = size

    def load(self) -> tuple[Examples, Examples]:
        """Return the drawn pictures, bytes [examples, 1, 28, 28], with their classes, and those of the test."""
        pool, test = super().load()
        return _draw(pool, self.examples, self.split_seed), _draw(test, self.test_examples, seed=0)

    def normalise(self, inputs: Tensor) -> Tensor:
        """Enlarge pictures to [size, size] pixels, as bytes; the model scales them to its range of values."""
        return interpolate(inputs.float(), size=(self.size, self.size), mode="bilinear").round().to(torch.uint8)


def _draw(examples: Examples, count: int, seed: int) -> Examples:
    order = stratified_order(examples.targets.numpy(), seed)
    return examples.at(torch.from_numpy(order[:count]))
