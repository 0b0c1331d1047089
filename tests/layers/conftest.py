from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lrflow.errors import ConfigError


class Backbone(nn.Module):
    """Linear, norm, and a block with a custom norm."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.own = OwnNorm(4)


class OwnNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))


class Net(nn.Module):
    """Ten parameters: an embedding, a backbone, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.backbone = Backbone()
        self.head = nn.Linear(4, 7)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def net() -> nn.Module:
    return Net()


@pytest.fixture
def tied() -> nn.Module:
    """The head shares the embedding's weight, which then has two names."""
    model = Net()
    model.head.weight = model.embed.weight
    return model


@pytest.fixture
def refused() -> Callable[..., dict[str, str]]:
    """Calls a function that must raise a ConfigError and returns its problems: key -> text."""

    def call(function: Callable, *args: object, **kwargs: object) -> dict[str, str]:
        with pytest.raises(ConfigError) as caught:
            function(*args, **kwargs)
        return {problem.key: str(problem) for problem in caught.value.problems}

    return call
