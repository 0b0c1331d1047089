"""Isolated code has no side effects on a run, whatever state its module keeps."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import MISSING, OmegaConf
from torch import Tensor, nn
from torchmetrics import MaxMetric, MeanMetric

from lrflow.health import Sharpness
from lrflow.layers import Rule
from lrflow.schedules import Constant, Schedule
from lrflow.training import Supervised
from lrflow.training.isolation import Snapshot, isolated
from lrflow.training.state import namespaces

ALL = [Rule("all", match="*")]


class Meter:
    """An object of a user's class."""

    def __init__(self) -> None:
        self.total, self.seen = 0.0, [0]

    def __call__(self, value: float) -> float:
        self.total += value
        self.seen[0] += 1
        return self.total / self.seen[0]


@dataclass(slots=True)
class Tally:
    """An object whose attributes are in `__slots__`."""

    calls: int = 0

    def __call__(self) -> float:
        self.calls += 1
        return self.calls % 5 / 5


class Keeps(nn.Module):
    """A layer whose output depends on state that its forward sets, in training and in evaluation."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.register_buffer("mean", torch.zeros(()))
        self.plain, self.calls, self.array = torch.zeros(()), 0, np.zeros(1)
        self.listed: list[float] = [0.0]
        self.kept: dict[str, Any] = {"nested": {"calls": 0}}
        self.last: deque[float] = deque([0.0], maxlen=3)
        self.seen: set[int] = {0}
        self.meter, self.tally, self.inner = Meter(), Tally(), nn.Identity()
        self.python, self.numpy = random.Random(1), np.random.default_rng(1)
        self.torch, self.legacy = torch.Generator().manual_seed(1), np.random.RandomState(1)
        self.average = MeanMetric()
        self.weight = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        value = inputs.detach().abs().mean()
        return inputs * (1 + 0.3 * torch.tanh(torch.as_tensor(CHANGES[self.how](self, value)).float()))


def _assign(layer: Keeps, value: Tensor) -> Tensor:
    layer.mean = 0.9 * layer.mean + 0.1 * value
    return layer.mean


def _assign_plain(layer: Keeps, value: Tensor) -> Tensor:
    layer.plain = 0.9 * layer.plain + 0.1 * value
    return layer.plain


def _count(layer: Keeps, value: Tensor) -> float:
    layer.calls += 1
    return layer.calls % 7 / 7


def _append(layer: Keeps, value: Tensor) -> float:
    layer.listed.append(float(value))
    return len(layer.listed) % 5 / 5 + layer.listed[len(layer.listed) // 2]


def _nest(layer: Keeps, value: Tensor) -> float:
    layer.kept["nested"]["calls"] += 1
    return layer.kept["nested"]["calls"] % 5 / 5


def _queue(layer: Keeps, value: Tensor) -> float:
    layer.last.append(float(value))
    return sum(layer.last)


def _collect(layer: Keeps, value: Tensor) -> float:
    layer.seen.add(len(layer.seen))
    return len(layer.seen) % 5 / 5


def _add_attribute(layer: Any, value: Tensor) -> float:
    layer.late = getattr(layer, "late", 0) + 1
    return layer.late % 5 / 5


def _array(layer: Keeps, value: Tensor) -> float:
    layer.array += float(value)
    return float(layer.array[0]) % 1


def _inner(layer: Any, value: Tensor) -> float:
    layer.inner.calls = getattr(layer.inner, "calls", 0) + 1
    return layer.inner.calls % 5 / 5


def _metric(layer: Keeps, value: Tensor) -> Tensor:
    layer.average.update(value)
    return layer.average.compute()


def _weight(layer: Keeps, value: Tensor) -> Tensor:
    layer.weight.data.mul_(0.9).add_(0.1 * value)
    return layer.weight


CHANGES: dict[str, Callable[[Any, Tensor], Any]] = {
    "a buffer assigned anew": _assign,
    "a buffer changed in place": lambda layer, value: layer.mean.mul_(0.9).add_(0.1 * value),
    "a plain tensor assigned anew": _assign_plain,
    "a counter": _count,
    "a list": _append,
    "a dict in a dict": _nest,
    "a deque": _queue,
    "a set": _collect,
    "an attribute added": _add_attribute,
    "an object": lambda layer, value: layer.meter(float(value)),
    "an object with slots": lambda layer, value: layer.tally(),
    "an array": _array,
    "a submodule's attribute": _inner,
    "Python's generator": lambda layer, value: layer.python.random(),
    "NumPy's generator": lambda layer, value: layer.numpy.random(),
    "NumPy's old generator": lambda layer, value: layer.legacy.rand(),
    "torch's generator": lambda layer, value: torch.rand((), generator=layer.torch),
    "a global generator": lambda layer, value: torch.rand(()) + random.random() + np.random.rand(),
    "a metric": _metric,
    "a parameter": _weight,
}
VALIDATED = [how for how in CHANGES if how not in ("a metric", "a parameter")]
"""The kinds of state that a validation must not change; metrics are its result, and parameters are not covered."""


def keeping(*hows: str) -> Supervised:
    torch.manual_seed(3)
    body = (nn.Linear(6, 8), nn.BatchNorm1d(8), *map(Keeps, hows), nn.Tanh(), nn.Linear(8, 3))
    network = nn.Sequential()
    network.add_module("body", nn.Sequential(*body))
    network.add_module("head", nn.Identity())
    return Supervised(network, "cross_entropy")


def numbers(run: Any) -> list[list[float]]:
    return [run.column("train/loss"), *(value.flatten().tolist() for value in run.weights.values())]


def test_measuring_sharpness_does_not_change_the_run(prepare: Any, tmp_path: Path) -> None:
    options = {"optimizer": torch.optim.SGD, "settings": {}, "max_epochs": 1, "rules": ALL, "val_size": 0}

    def same(*hows: str) -> bool:
        found = []
        for every in (None, "2 steps"):
            folder = tmp_path / f"{hash(hows)} {every}"
            run = prepare(folder, module=keeping(*hows), monitor=None, save_every=None, **options)
            if every:
                run.watch("sharpness", Sharpness(every, batches=2, products=3))
            found.append(numbers(run.fit()))
        assert len(run.column("sharpness/top")) == 4
        return found[0] == found[1]

    assert same(*CHANGES), [how for how in CHANGES if not same(how)]


@pytest.mark.parametrize("schedule_free", [False, True])
def test_the_frequency_of_validation_does_not_change_training(schedule_free: bool, train: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_epochs": 2, "rules": ALL, "save_every": None, "monitor": None}
    if schedule_free:
        kind = pytest.importorskip("schedulefree").AdamWScheduleFree
        options |= {"optimizer": kind, "settings": {"weight_decay": 0.1}, "schedule": Schedule(Constant(), "10%")}

    def same(*hows: str) -> bool:
        seldom, often = (
            train(tmp_path / f"{hash(hows)} {every}", module=keeping(*hows), val_every=every, **options)
            for every in ("2 epochs", "3 steps")
        )
        assert len(often.column("val/loss")) > len(seldom.column("val/loss"))
        return bool(seldom.column("train/loss") == often.column("train/loss"))

    assert same(*VALIDATED), [how for how in VALIDATED if not same(how)]


class Own(pl.LightningModule):
    """A module with both kinds of state: set by its forward, and by its validation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("best", torch.tensor(torch.inf))
        self.calls, self.validations = 0, 0
        self.losses: list[float] = []
        self.highest = MaxMetric()

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * inputs.abs().mean()
        return self.head(torch.tanh(self.body(inputs - self.mean))) * (1 + self.calls % 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(float(loss))
        self.highest.update(loss)
        self.log("val/loss", loss)

    def on_validation_epoch_end(self) -> None:
        self.validations += 1
        self.best.copy_(torch.minimum(self.best, torch.tensor(self.losses[-1])))


def test_state_set_by_validation_hooks_stays(train: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_epochs": 2, "rules": ALL, "save_every": None}
    seldom = train(tmp_path / "seldom", module=Own(), val_every="2 epochs", **options)
    often = train(tmp_path / "often", module=Own(), val_every="3 steps", **options)
    assert seldom.column("train/loss") == often.column("train/loss")
    assert (seldom.module.calls, often.module.calls) == (14, 14)  # training steps only
    assert (seldom.module.validations, often.module.validations) == (
        len(seldom.column("val/loss")),
        len(often.column("val/loss")),
    )
    assert len(often.module.losses) == 2 * len(often.column("val/loss"))
    assert float(often.module.best) == min(often.module.losses[1::2])
    assert float(often.module.highest.compute()) == max(often.module.losses)


class Sum(nn.Module):
    """A sum that a user keeps in a submodule; torchmetrics has one, too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))
        self.parts: list[float] = []

    def add(self, value: Tensor) -> None:
        self.total += value
        self.parts.append(float(value))


class Summing(pl.LightningModule):
    """Trains with a draw of its own at each step, and reads the sum of its validation in a hook, which draws too.

    Args:
        hook: in which.
    """

    def __init__(self, hook: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body, self.sum = nn.Linear(6, 3), Sum()
        self.expected: list[float] = []
        self.seen: list[tuple[float, float, int]] = []
        setattr(self, hook, self.read)

    def read(self) -> None:
        torch.rand(())
        self.seen.append((float(self.sum.total), sum(self.expected), len(self.sum.parts)))
        self.expected.clear()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.body(batch[0]), batch[1])
        return loss * (1 + torch.rand(()) + self.sum.total)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = nn.functional.cross_entropy(self.body(batch[0]), batch[1])
        self.sum.add(loss)
        self.expected.append(float(loss))
        self.log("val/loss", loss)


@pytest.mark.parametrize("hook", ["on_validation_epoch_end", "on_validation_end"])
def test_hooks_read_submodule_state_of_the_validation(hook: str, train: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_epochs": 2, "rules": ALL, "monitor": None}
    seldom = train(tmp_path / "seldom", module=Summing(hook), val_every="2 epochs", save_every=None, **options)
    often = train(
        tmp_path / "often", module=Summing(hook), val_every="3 steps", save_every="3 steps", keep=None, **options
    )
    for total, expected, parts in often.module.seen:
        assert total == pytest.approx(expected)
        assert parts == 2  # batches of one validation
    assert len(often.module.seen) == len(often.column("val/loss")) > 2
    assert seldom.column("train/loss") == often.column("train/loss")
    early = often.saved[0]  # saved right after a validation
    resumed = train(tmp_path / "resumed", module=Summing(hook), resume=early, val_every="3 steps", **options)
    whole = often.column("train/loss")
    assert resumed.column("train/loss") == whole[-len(resumed.column("train/loss")) :]
    assert 0 < len(resumed.column("train/loss")) < len(whole)


def test_every_object_keeps_its_identity() -> None:
    module = keeping("a counter")
    layer: Any = module.model.body[2]
    module(torch.randn(4, 6)).sum().backward()
    held = [layer.mean, layer.plain, layer.listed, layer.kept, layer.kept["nested"], layer.meter, layer.array]
    grads = {name: (p.grad, p.grad.clone()) for name, p in module.named_parameters() if p.grad is not None}
    keys = [*vars(layer)]
    with isolated(module):
        for change in CHANGES.values():
            change(layer, torch.tensor(2.0))
        layer.meter, layer.listed, layer.kept, layer.inner = None, [], {}, nn.Linear(1, 1)
        del layer.plain
        module.zero_grad()
        module.requires_grad_(False).eval()
        module.log("what", 1.0)
        module.model.body[0] = nn.Identity()
    assert all(one is other for one, other in zip(held, _held(layer), strict=True))
    assert [*vars(layer)] == keys
    assert (layer.listed, layer.kept, layer.calls) == ([0.0], {"nested": {"calls": 0}}, 1)
    assert (float(layer.mean), float(layer.array[0]), layer.meter.total, layer.meter.seen) == (0.0, 0.0, 0.0, [0])
    assert isinstance(module.model.body[0], nn.Linear)
    assert all(one.training for one in module.modules())
    assert all(p.requires_grad for name, p in module.named_parameters() if not name.endswith("2.weight"))
    for name, parameter in module.named_parameters():
        if name in grads:
            assert parameter.grad is grads[name][0]
            assert torch.equal(parameter.grad, grads[name][1])


def _held(layer: Any) -> list[Any]:
    return [layer.mean, layer.plain, layer.listed, layer.kept, layer.kept["nested"], layer.meter, layer.array]


VALUES = st.recursive(
    st.integers() | st.text(max_size=3) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=12,
)


@given(value=VALUES, seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_nested_containers_are_restored(value: Any, seed: int) -> None:
    root, draw = {"value": value}, random.Random(seed)
    before = repr(root)
    snapshot = Snapshot([root])
    places: list[Any] = [root]
    for place in places:  # the list grows
        inner = list(place.values()) if isinstance(place, dict) else list(place)
        places += [one for one in inner if isinstance(one, dict | list)]
    for place in places:
        if draw.random() < 0.5:
            place.clear()
        if isinstance(place, dict):
            place["new"] = [1]
        else:
            place.insert(0, {"new": place})
    snapshot.restore()
    assert repr(root) == before


def test_referenced_objects_are_not_restored() -> None:
    """The data is not part of the module: it is neither copied nor restored."""

    class Data(torch.utils.data.Dataset[int]):
        reads = 0

        def __getitem__(self, index: int) -> int:
            self.reads += 1
            return index

    module: Any = keeping("a counter")
    module.data = Data()
    with isolated(module):
        assert module.data[3] == 3
    assert module.data.reads == 1


def test_a_config_with_missing_values_can_be_restored() -> None:
    module: Any = keeping("a counter")
    module.options = OmegaConf.create({"needed": MISSING, "given": {"a": 1}})
    with isolated(module):
        module.options.given.a = 2
    assert module.options == OmegaConf.create({"needed": MISSING, "given": {"a": 1}})


def test_a_graph_can_still_use_a_restored_tensor() -> None:
    module: Any = keeping("a buffer changed in place")
    layer, weight = module.model.body[2], torch.ones((), requires_grad=True)
    layer.mean.fill_(3.0)
    product = weight * layer.mean
    with isolated(module):
        layer.mean.data.zero_()
    product.backward()
    assert float(weight.grad) == 3.0


def test_namespaces_are_restored_on_request() -> None:
    source = (
        "import numpy\nCALLS, DRAWN, NOTES = 0, numpy.random.RandomState(1), {'n': [0]}\n"
        "class Base:\n    seen = 0\n    @staticmethod\n"
        "    def keeps(found=[]):\n        found.append(1)\n        return len(found)\n"
        "class Made(Base):\n    pass\n"
    )
    own = ModuleType("users_own")
    sys.modules["users_own"] = own
    try:
        exec(source, vars(own))
        places = namespaces([own.Made])
        assert {place.name for place in places} == {"users_own", "users_own.Made", "users_own.Base"}
        before = Snapshot(places)
        for _ in range(2):  # it can be restored more than once
            drawn = own.DRAWN.rand()
            own.CALLS, own.ADDED, own.Base.seen, own.Made.seen = 5, 1, 2, 3
            own.NOTES["n"].append(1)
            assert own.Base.keeps() == 1
            before.restore()
            assert (own.CALLS, own.NOTES, own.Made.seen) == (0, {"n": [0]}, 0)
            assert not hasattr(own, "ADDED")
            assert own.DRAWN.rand() == drawn
            before.restore()
    finally:
        del sys.modules["users_own"]
