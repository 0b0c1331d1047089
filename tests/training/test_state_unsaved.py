"""State that a resumed run would lose is reported once, and no other state is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lrflow.layers import Rule
from lrflow.training import Supervised

FEATURES, CLASSES = 6, 3
CALLS = {"n": 0}


class Net(nn.Module):
    """One layer, and the state of a subclass."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, CLASSES)
        self.kept: Any = None
        self.start()

    def start(self) -> None: ...

    def keep(self, output: Tensor) -> None: ...

    def forward(self, inputs: Tensor) -> Tensor:
        output = self.linear(inputs)
        if self.training:
            self.keep(output)
        return output


class Counter(Net):
    def start(self) -> None:
        self.kept = 0

    def keep(self, output: Tensor) -> None:
        self.kept += 1


class Average(Net):
    def start(self) -> None:
        self.kept = torch.zeros(CLASSES)

    def keep(self, output: Tensor) -> None:
        self.kept = 0.9 * self.kept + 0.1 * output.detach().mean(0)


class Generator(Net):
    def start(self) -> None:
        self.kept = np.random.default_rng(0)

    def keep(self, output: Tensor) -> None:
        self.kept.random()


class ClassCounter(Net):
    seen = 0

    def keep(self, output: Tensor) -> None:
        type(self).seen += 1


class GlobalCounter(Net):
    def keep(self, output: Tensor) -> None:
        CALLS["n"] += 1


class Buffer(Net):
    def start(self) -> None:
        del self.kept
        self.register_buffer("kept", torch.zeros(()))

    def keep(self, output: Tensor) -> None:
        self.kept = self.kept + 1


class ExtraState(Counter):
    def get_extra_state(self) -> int:
        return self.kept

    def set_extra_state(self, state: int) -> None:
        self.kept = state


class Activation(Net):
    def keep(self, output: Tensor) -> None:
        self.kept = output


class Table(Net):
    def keep(self, output: Tensor) -> None:
        if self.kept is None:
            self.kept = torch.arange(len(output))


class Pairs(Net):
    def start(self) -> None:
        self.kept = [list(self.linear.parameters())]  # these are in the checkpoint


class Reordered(Net):
    """The same set, whose order depends on how it was made."""

    def start(self) -> None:
        self.kept = {0, 8, 16}

    def keep(self, output: Tensor) -> None:
        first, *others = self.kept
        self.kept = {*others, first}


class Losses(Supervised):
    """Collects the outputs of an epoch's steps until it ends."""

    def __init__(self) -> None:
        super().__init__(Net(), "cross_entropy")
        self.losses: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss

    def on_train_epoch_end(self) -> None:
        self.losses.clear()


class Counting(Supervised):
    def __init__(self) -> None:
        super().__init__(Net(), "cross_entropy")
        self.steps = 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.steps += 1
        return super().training_step(batch, batch_idx)


class Saving(Counting):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["steps"] = self.steps


def named(module: Supervised, train: Any, folder: Path, caplog: pytest.LogCaptureFixture, **options: Any) -> list[str]:
    train(folder, module=module, **{"rules": (Rule("all", match="*"),), **options})
    found = [record.message for record in caplog.records if "checkpoint" in record.message]
    assert all("in no checkpoint, so a resumed run starts without it" in line for line in found)
    return [line.partition(" change")[0] for line in found]


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (Counter, "model.kept"),
        (Average, "model.kept"),
        (Generator, "model.kept"),
        (ClassCounter, f"{__name__}.ClassCounter.seen"),
        (GlobalCounter, f"{__name__}.CALLS"),
        (Buffer, None),
        (ExtraState, None),
        (Activation, None),
        (Table, None),
        (Pairs, None),
        (Reordered, None),
        (Net, None),
    ],
)
@pytest.mark.parametrize("save_every", ["1 step", "1 epoch"])
def test_unsaved_state_is_reported_once(
    network: type[Net], name: str | None, save_every: str, train: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = Supervised(network(), "cross_entropy")
    assert named(module, train, tmp_path, caplog, save_every=save_every) == ([name] if name else [])


@pytest.mark.parametrize(("module", "names"), [(Counting, ["steps"]), (Saving, []), (Losses, [])])
def test_so_is_that_of_a_lightning_module(
    module: type[Supervised], names: list[str], train: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert named(module(), train, tmp_path, caplog) == names
