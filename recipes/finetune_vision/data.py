"""A few pictures of clothes, at a size that ImageNet's networks can read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lrflow.data import Examples, FashionMNIST
from lrflow.data.module import stratified_order


class FewClothes(FashionMNIST):
    """A stratified draw from FashionMNIST, as bytes: `examples` of its 60,000, `test_examples` of its 10,000.

    Args:
        examples: to train on and, `val_size` of them, to validate on; `split_seed` says which they are.
        test_examples: to test on, always the same.
        size: height and width that pictures are enlarged to.
        options: of `lrflow.data.FashionMNIST`.
    """

    def __init__(self, examples: int = 2000, test_examples: int = 2000, size: int = 48, **options: Any) -> None:
        super().__init__(**options)
        self.examples = examples
        self.test_examples = test_examples
        self.size = size

    def load(self) -> tuple[Examples, Examples]:
        """The drawn pictures, [examples, 1, 28, 28] of bytes, with their classes; those of the test."""
        pool, test = super().load()
        return _draw(pool, self.examples, self.split_seed), _draw(test, self.test_examples, seed=0)

    def normalise(self, inputs: Tensor) -> Tensor:
        """Pictures of [size, size] pixels, still bytes; the model knows the range that its weights were trained on."""
        return interpolate(inputs.float(), size=(self.size, self.size), mode="bilinear").round().to(torch.uint8)


def _draw(examples: Examples, count: int, seed: int) -> Examples:
    order = stratified_order(examples.targets.numpy(), seed)
    return examples.at(torch.from_numpy(order[:count]))
