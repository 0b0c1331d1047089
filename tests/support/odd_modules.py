"""Small networks of many kinds, as users write them: [batch, 16] numbers to [batch, 3] logits. And data for them."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from lrflow.data import DataModule
from lrflow.data.module import Examples
from lrflow.models import DropPath

KINDS: dict[str, Callable[[], nn.Module]] = {}


class Points(DataModule):
    """Numbers around three centres.

    Args:
        drawn: whether they are drawn from torch's global generator, which a run seeds.
    """

    def __init__(self, drawn: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.drawn = drawn

    def load(self) -> tuple[Examples, None]:
        generator = None if self.drawn else torch.Generator().manual_seed(7)
        targets = torch.arange(72) % 3
        centres = torch.randn(3, 16, generator=generator)
        return Examples(centres[targets] + torch.randn(72, 16, generator=generator), targets), None


def network(kind: str) -> nn.Module:
    """One of the networks, by its name."""
    return KINDS[kind]()


def mlp(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 8), *(middle or (nn.ReLU(),)), nn.Linear(8, 3))


def kind(made: Any) -> Any:
    """Lists a class or function under its name, in small letters."""
    KINDS[re.sub(r"(?<!^)(?=[A-Z])", "_", made.__name__).lower()] = made
    return made


class Net(nn.Module):
    """Two layers, between which a class of its own does something."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.middle(self.a(x)))

    def middle(self, hidden: Tensor) -> Tensor:
        return hidden.relu()


class Tokens(nn.Module):
    """Looks numbers up as five tokens."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 6, **options)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table((x + 2).long().clamp(0, 4)).mean(1))


# Modules of torch, put together.
for name, middle in {
    "relu": lambda: nn.ReLU(),
    "in_place": lambda: nn.ReLU(inplace=True),
    "gelu": lambda: nn.GELU(),
    "prelu": lambda: nn.PReLU(),
    "layer_norm": lambda: nn.LayerNorm(8),
    "rms_norm": lambda: nn.RMSNorm(8),
    "group_norm": lambda: nn.GroupNorm(2, 8),
    "batch_norm": lambda: nn.BatchNorm1d(8),
    "cumulative_norm": lambda: nn.BatchNorm1d(8, momentum=None),
    "no_statistics": lambda: nn.BatchNorm1d(8, track_running_stats=False),
    "dropout": lambda: nn.Dropout(0.3),
    "drop_path": lambda: DropPath(0.3),
    "dropout_in_place": lambda: nn.Dropout(0.3, inplace=True),
    "dropout_2d": lambda: nn.Dropout1d(0.3),
    "alpha_dropout": lambda: nn.AlphaDropout(0.3),
    "rrelu": lambda: nn.RReLU(),
}.items():
    KINDS[name] = lambda middle=middle: mlp(middle())


@kind
def conv() -> nn.Module:
    first = nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(first, nn.MaxPool2d(2), nn.Dropout(0.2), nn.Flatten(), nn.Linear(16, 3))


@kind
def tokens() -> nn.Module:
    return Tokens()


@kind
def padding() -> nn.Module:
    return Tokens(padding_idx=2)


@kind
def max_norm() -> nn.Module:
    return Tokens(max_norm=1.0)


@kind
def sparse() -> nn.Module:
    return Tokens(sparse=True)


@kind
class FunctionalPadding(Tokens):
    def forward(self, x: Tensor) -> Tensor:
        found = functional.embedding((x + 2).long().clamp(0, 4), self.table.weight, padding_idx=2)
        return self.head(found.mean(1))


@kind
def frozen_norm() -> nn.Module:
    made = mlp(nn.BatchNorm1d(8))
    made[1].running_var.fill_(0.3)
    made[1].eval()
    return made


@kind
def forward_hook() -> nn.Module:
    made = mlp()
    made[0].register_forward_hook(lambda module, given, output: output * 2)
    return made


@kind
def backward_hook() -> nn.Module:
    made = mlp()
    made[0].register_full_backward_hook(lambda module, into, out: (into[0] if into[0] is None else into[0] * 0,))
    return made


@kind
def gradient_hook() -> nn.Module:
    made = mlp()
    made[0].weight.register_hook(lambda grad: grad * 0)
    return made


@kind
def accumulated_hook() -> nn.Module:
    made = mlp()
    made[0].weight.register_post_accumulate_grad_hook(lambda parameter: parameter.grad.zero_())
    return made


@kind
def old_weight_norm() -> nn.Module:
    made = mlp()
    made[0] = weight_norm(made[0])
    return made


@kind
def weight_normed() -> nn.Module:
    made = mlp()
    parametrizations.weight_norm(made[0])
    return made


@kind
def old_spectral_norm() -> nn.Module:
    made = mlp()
    made[0] = spectral_norm(made[0])
    return made


@kind
def orthogonal() -> nn.Module:
    made = mlp()
    parametrizations.orthogonal(made[0])
    return made


@kind
def mixed_types() -> nn.Module:
    class Mixed(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).relu().double()).float()

    made = Mixed()
    made.b.double()
    return made


@kind
def attention() -> nn.Module:
    class Attention(Net):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def middle(self, hidden: Tensor) -> Tensor:
            words = hidden.unflatten(1, (2, 4))
            return self.attention(words, words, words, need_weights=False)[0].flatten(1)

    return Attention()


@kind
def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)  # with dropout within its attention
    return nn.Sequential(nn.Unflatten(1, (4, 4)), layer, nn.Flatten(), nn.Linear(16, 3))


@kind
class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.unflatten(1, (4, 4)))[0][:, -1])


@kind
class Cell(nn.Module):
    """A recurrence written out."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.back, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 6)
        for part in x.unflatten(1, (4, 4)).unbind(1):
            state = (self.into(part) + self.back(state)).tanh()
        return self.head(state)


@kind
class Residual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])

    def middle(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = hidden + block(hidden.relu())
        return hidden


@kind
class Towers(Net):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"left": nn.Linear(8, 8), "right": nn.Linear(8, 8)})

    def middle(self, hidden: Tensor) -> Tensor:
        return torch.stack([part(hidden).tanh() for part in self.parts.values()]).mean(0)


@kind
class Tied(Net):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)
        self.down.weight = self.up.weight

    def middle(self, hidden: Tensor) -> Tensor:
        return self.down(self.up(hidden).relu())


@kind
class OwnParameters(Net):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.rand(8)), nn.Parameter(torch.tensor(0.1))

    def middle(self, hidden: Tensor) -> Tensor:
        return (hidden * self.scale + self.shift).relu()


@kind
class Unused(Net):
    """With layers that no loss depends on, in the middle of its groups."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.spare, self.b = nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 3)


@kind
class OneBranch(Net):
    """Which of two layers it takes depends on the values of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 8)

    def middle(self, hidden: Tensor) -> Tensor:
        return self.other(hidden) if float(hidden.mean()) > 0 else hidden.relu()


@kind
class Alternating(Net):
    def __init__(self) -> None:
        super().__init__()
        self.other, self.calls = nn.Linear(8, 8), 0

    def middle(self, hidden: Tensor) -> Tensor:
        self.calls += self.training
        return self.other(hidden) if self.calls % 2 else hidden.relu()


@kind
class LayerDrop(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        return hidden if self.training and random.random() < 0.5 else hidden.relu()


@kind
class NumpyNoise(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        return hidden.relu() + np.random.randn() * self.training


@kind
class Noise(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        return hidden.relu() + 0.1 * torch.randn_like(hidden) if self.training else hidden.relu()


@kind
class FunctionalDropout(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        return functional.dropout(hidden.relu(), 0.2, self.training)


@kind
class RandomAttribute(Net):
    def __init__(self) -> None:
        super().__init__()
        self.frequencies = torch.randn(8, 8)

    def middle(self, hidden: Tensor) -> Tensor:
        return (hidden @ self.frequencies).cos()


@kind
class RandomList(Net):
    """Layers that torch does not see, since they stand in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Linear(8, 8)]

    def middle(self, hidden: Tensor) -> Tensor:
        return self.hidden[0](hidden).relu()


@kind
class FixedAttribute(Net):
    def __init__(self) -> None:
        super().__init__()
        self.positions = torch.linspace(0, 1, 8)

    def middle(self, hidden: Tensor) -> Tensor:
        return (hidden + self.positions).relu()


@kind
class AssignedBuffer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def middle(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean(0)
        return (hidden - self.mean).relu()


@kind
class RunningMaximum(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("highest", torch.zeros(8), persistent=False)

    def middle(self, hidden: Tensor) -> Tensor:
        if self.training:
            torch.maximum(self.highest, hidden.detach().amax(0), out=self.highest)
        return (hidden / (1 + self.highest)).relu()


@kind
class CopiedMaximum(RunningMaximum):
    def middle(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.highest.copy_(torch.maximum(self.highest, hidden.detach().amax(0)))
        return (hidden / (1 + self.highest)).relu()


@kind
class CountingBuffer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.tensor(0))

    def middle(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
        return (hidden / (1 + 0.1 * self.steps)).relu()


@kind
class MadeBuffer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", None)

    def middle(self, hidden: Tensor) -> Tensor:
        if self.mean is None:
            self.mean = hidden.detach().mean(0)
        return (hidden - self.mean).relu()


@kind
class Counter(Net):
    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def middle(self, hidden: Tensor) -> Tensor:
        self.steps += self.training
        return (hidden / (1 + 0.1 * self.steps)).relu()


@kind
class Remembering(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        self.last = hidden.detach()
        return hidden.relu()


@kind
class HookInForward(Net):
    """Changes its gradient through a hook on what it computes."""

    def middle(self, hidden: Tensor) -> Tensor:
        if hidden.requires_grad:
            hidden.register_hook(lambda grad: grad * 0.5)
        return hidden.relu()


class Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: Tensor) -> Tensor:
        return given.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad / 2


class VectorizedHalf(Half):
    generate_vmap_rule = True

    @staticmethod
    def forward(given: Tensor) -> Tensor:
        return given.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass


@kind
class OwnFunction(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        return Half.apply(hidden).relu()


@kind
class VectorizedFunction(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        return VectorizedHalf.apply(hidden).relu()


@kind
class Clamped(Net):
    """Keeps its weights in bounds, in place."""

    def middle(self, hidden: Tensor) -> Tensor:
        with torch.no_grad():
            self.b.weight.clamp_(-0.3, 0.3)
        return hidden.relu()


@kind
class OtherData(Net):
    """Changes its weights behind torch's back."""

    def middle(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.b.weight.data = self.b.weight.data * 0.9
        return hidden.relu()


@kind
class Lazy(Net):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.LazyLinear(8)


@kind
class AlwaysTraining(Net):
    """Dropout that goes on in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.2)

    def train(self, mode: bool = True) -> AlwaysTraining:
        super().train(mode)
        self.drop.train()
        return self

    def middle(self, hidden: Tensor) -> Tensor:
        return self.drop(hidden.relu())


@kind
class BatchOfOthers(Net):
    """Each example sees the whole batch."""

    def middle(self, hidden: Tensor) -> Tensor:
        return (hidden - hidden.mean(0)) / (hidden.std(0) + 1) if self.training else hidden


@kind
class Dynamic(Net):
    """The shape of what it computes depends on the values."""

    def middle(self, hidden: Tensor) -> Tensor:
        return hidden * hidden[hidden > 0].sum()


# State that all modules of a class share. The first two act on it long after the steps that are compared.
CALLS = {"forward": 0, "train": 0}
GENERATOR = np.random.RandomState(5)
UNUSED = threading.Lock()  # which cannot be compared, and need not be


@kind
class ClassCounter(Net):
    seen = 0

    def middle(self, hidden: Tensor) -> Tensor:
        type(self).seen += self.training
        return hidden.relu() * (2 if self.seen > 1000 else 1)


@kind
class GlobalCounter(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        CALLS["forward"] += self.training
        return hidden.relu() * (2 if CALLS["forward"] > 1000 else 1)


@kind
class GlobalGenerator(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        return hidden.relu() * (1 + 1e-6 * float(GENERATOR.randn()))


@kind
class ModeCounter(Net):
    def train(self, mode: bool = True) -> Net:
        CALLS["train"] += 1
        return super().train(mode)


def counted(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    calls = 0

    def counting(*given: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return call(*given) * (2 if calls > 1000 else 1)

    return counting


@kind
class CountedMethod(Net):
    @counted
    def middle(self, hidden: Tensor) -> Tensor:
        return hidden.relu()
