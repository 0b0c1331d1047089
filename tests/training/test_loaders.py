"""The loaders of any data module get a reproducible order."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lrflow.config import compose
from lrflow.data import is_ordered
from lrflow.tasks import prepare
from lrflow.tasks import train as train_task
from lrflow.training.loaders import Position, order_loaders
from lrflow.training.look_ahead import combine

DATA = TensorDataset(torch.arange(20.0))


class Users(pl.LightningDataModule):
    """A user's data module."""

    def __init__(self, train: Any) -> None:
        super().__init__()
        self.train = train
        self.stages: list[str] = []

    def setup(self, stage: str) -> None:
        self.stages.append(stage)

    def train_dataloader(self) -> Any:
        return self.train


class WithValidation(Users):
    def val_dataloader(self) -> Any:
        return [DataLoader(DATA, 4), DataLoader(DATA, 6)]


def ordered(data: pl.LightningDataModule, position: Position | None = None, rank: int = 0, world: int = 1) -> Any:
    order_loaders(data, 0, position or Position(), rank, world)
    return data


def passes(loader: DataLoader[Any], epoch: int = 0) -> list[list[float]]:
    loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return [batch[0].tolist() for batch in loader]


def test_the_order_does_not_depend_on_global_generators() -> None:
    first = passes(ordered(Users(DataLoader(DATA, 4, shuffle=True))).train_dataloader())
    torch.rand(5)
    again = ordered(Users(DataLoader(DATA, 4, shuffle=True))).train_dataloader()
    assert passes(again) == first
    assert passes(again, 1) != first
    assert sorted(chain(*first)) == list(range(20))


def test_it_starts_at_the_position() -> None:
    whole = ordered(Users(DataLoader(DATA, 4, shuffle=True))).train_dataloader()
    resumed = ordered(Users(DataLoader(DATA, 4, shuffle=True)), Position(2, 3, 13)).train_dataloader()
    assert passes(resumed, 2) == passes(whole, 2)[3:]
    assert passes(resumed, 3) == passes(whole, 3)
    assert len(resumed) == 5


def test_validation_uses_the_datasets_order_from_its_start() -> None:
    first, second = ordered(WithValidation(DataLoader(DATA, 4)), Position(0, 2, 2)).val_dataloader()
    assert passes(first) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18, 19]]
    assert [len(batch) for batch in passes(second)] == [6, 6, 6, 2]


def test_it_is_sharded_over_devices() -> None:
    shares = [ordered(Users(DataLoader(DATA, 4)), rank=rank, world=2).train_dataloader() for rank in (0, 1)]
    seen = [list(chain(*passes(share))) for share in shares]
    assert sorted(seen[0] + seen[1]) == list(range(20))
    assert [len(share) for share in shares] == [3, 3]


@pytest.mark.parametrize(
    "wrap",
    [lambda one: [one, one], lambda one: {"a": one, "b": one}, lambda one: CombinedLoader([one, [one]], "max_size")],
)
def test_loaders_in_lists_dicts_and_combined(wrap: Any) -> None:
    given = wrap(DataLoader(DATA, 4, shuffle=True))
    found = ordered(Users(given)).train_dataloader()
    assert type(found) is type(given)
    assert [is_ordered(one) for one in combine(found).flattened] == [True, True]
    assert combine(found)._mode == combine(given)._mode
    assert not any(is_ordered(one) for one in combine(given).flattened)


class Stream(IterableDataset[Any]):
    """Data without a length, the same in each epoch."""

    def __iter__(self) -> Any:
        draw = torch.Generator().manual_seed(1)
        for index in range(40):
            yield torch.randn(6, generator=draw), index % 3


class OwnBatches(BatchSampler):
    """A custom batch sampler."""


@pytest.mark.parametrize(
    ("loader", "name"),
    [
        (DataLoader(DATA, 4, sampler=WeightedRandomSampler([1.0] * 20, 20)), "WeightedRandomSampler"),
        (DataLoader(DATA, None, sampler=WeightedRandomSampler([1.0] * 20, 20)), "WeightedRandomSampler"),
        (DataLoader(DATA, batch_sampler=OwnBatches(SequentialSampler(DATA), 4, False)), "OwnBatches"),
        (DataLoader(Stream(), 4), "Stream"),
    ],
)
def test_a_loaders_own_order_is_kept_and_reported(loader: Any, name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert ordered(Users(loader)).train_dataloader() is loader
    assert f"the training loader has its own order ({name})" in caplog.text


def test_data_without_a_length_is_trained_by_steps(train: Any, tmp_path: Path) -> None:
    def go(folder: Path, **more: Any) -> Any:
        data = Users(DataLoader(Stream(), 8))
        return train(folder, data=data, max_epochs=-1, max_steps=12, save_every="4 steps", **more)

    whole = go(tmp_path / "whole")
    assert [int(path.stem[5:]) for path in whole.saved] == [4, 8, 12]
    broken = go(tmp_path / "run", interrupt=10)
    resumed = go(tmp_path / "run", resume=broken.newest)
    assert resumed.trainer.global_step == 12
    assert resumed.record.rates == whole.record.rates[8:]


class Walk:
    """An endless random walk with epochs of ten steps: each value depends on the previous one."""

    def __init__(self) -> None:
        self.at = torch.zeros(8, 6)
        self.left = 0

    def __len__(self) -> int:
        return 10

    def __iter__(self) -> Any:
        self.left = self.left or len(self)
        while self.left:
            self.left -= 1
            self.at = self.at * 0.9 + torch.randn(8, 6)
            yield self.at.clone(), self.at.argmax(1) % 3


class WithItsState(Users):
    """Data whose loader resumes from its checkpointed state."""

    def __init__(self, loader: Walk) -> None:
        super().__init__(loader)
        self.loader = loader

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.loader.at, "left": self.loader.left}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loader.at, self.loader.left = state_dict["at"], state_dict["left"]


@pytest.mark.parametrize("cut", [3, 10, 16])
def test_stateful_data_resumes_exactly(train: Any, tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    def go(folder: Path, **more: Any) -> Any:
        return train(folder, data=WithItsState(Walk()), max_epochs=2, save_every="1 step", **more)

    whole = go(tmp_path / "whole")
    broken = go(tmp_path / "run", interrupt=cut)
    resumed = go(tmp_path / "run", resume=broken.newest)
    assert resumed.record.losses == whole.record.losses[-len(resumed.record.losses) :]
    assert 20 - cut - 1 <= len(resumed.record.losses) <= 20 - cut + 1
    assert "has its own order" not in caplog.text


def test_undefined_loaders_stay_undefined() -> None:
    data = ordered(Users(DataLoader(DATA, 4)))
    defined = {
        name: is_overridden(name, data, pl.LightningDataModule)
        for name in ("train_dataloader", "val_dataloader", "test_dataloader")
    }
    assert defined == {"train_dataloader": True, "val_dataloader": False, "test_dataloader": False}


def test_each_stage_is_set_up_once() -> None:
    data = ordered(Users(DataLoader(DATA, 4)))
    for stage in ("fit", "fit", "test", "fit", "test"):
        data.setup(stage)
    assert data.stages == ["fit", "test"]


def test_a_loader_with_its_own_order_is_trained(train: Any, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(40, 6, generator=draw), torch.randint(0, 3, (40,), generator=draw))
    loader = DataLoader(data, 8, sampler=WeightedRandomSampler([1.0] * 40, 40))
    run = train(tmp_path, data=Users(loader), max_epochs=2)
    assert run.trainer.global_step == 10


def test_a_run_on_a_few_batches_trains_and_validates_on_the_same_in_each_epoch(tmp_path: Path, same: Any) -> None:
    class Records(pl.Callback):
        def __init__(self) -> None:
            self.trained: dict[int, list[Any]] = {}
            self.validated: dict[int, list[Any]] = {}

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, *_: Any) -> None:
            self.trained.setdefault(trainer.current_epoch, []).append(batch)

        def on_validation_batch_start(self, trainer: Any, module: Any, batch: Any, *_: Any) -> None:
            self.validated.setdefault(trainer.current_epoch, []).append(batch)

    def seen(*words: str, stop: int = 99) -> Records:
        record, make = Records(), prepare._callbacks
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prepare, "_callbacks", lambda *given: [record, *make(*given)])
            small = ["trainer=cpu", "trainer.progress=false", "model.widths=[8]", "data.batch_size=100"]
            given = ["trainer.overfit_batches=3", "trainer.max_epochs=3", f"output={tmp_path}", *words]
            train_task.outcome(compose([*small, *given]))
        return record

    whole = seen("trainer.checkpoint.every=2 steps", "trainer.checkpoint.keep=null")
    first = whole.trained[0]
    assert len(first) == 3
    assert whole.trained.keys() == whole.validated.keys() == {0, 1, 2}
    for found in (*whole.trained.values(), *whole.validated.values()):
        assert same(found, first)
    (folder,) = tmp_path.iterdir()
    within = folder / "checkpoints" / "step-0000004.ckpt"  # of the second epoch, after its first batch
    again = seen(f"resume.from={within}")
    assert same(again.trained[1], first[1:])
    assert same(again.validated[1], first)
    assert same(again.trained[2], first)
