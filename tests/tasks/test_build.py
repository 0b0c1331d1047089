"""What tasks build of a configuration: the length of a run from whatever loaders a data module has."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.tasks.build import build_module, count_horizon


class Data(pl.LightningDataModule):
    def __init__(self, loaders: Any) -> None:
        super().__init__()
        self.loaders = loaders

    def train_dataloader(self) -> Any:
        return self.loaders


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        yield torch.zeros(1)


def loader(batches: int) -> DataLoader:
    return DataLoader(TensorDataset(torch.zeros(batches, 1)), 1)


@pytest.mark.parametrize(
    ("loaders", "steps_per_epoch"),
    [
        (lambda: loader(7), 7),
        (lambda: [loader(7), loader(19)], 19),
        (lambda: {"a": loader(19), "b": loader(7)}, 19),
        (lambda: CombinedLoader([loader(7), loader(19)], "min_size"), 7),
    ],
    ids=["one", "list", "dict", "the shortest"],
)
def test_an_epoch_is_as_long_as_lightning_makes_it(loaders: Any, steps_per_epoch: int) -> None:
    config = compose(["trainer.max_epochs=2"])
    data = Data(loaders())
    horizon = count_horizon(config, data, 1)
    assert (horizon.steps, horizon.steps_per_epoch) == (2 * steps_per_epoch, steps_per_epoch)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.weight.sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(Module(), datamodule=data)
    assert trainer.global_step == horizon.steps


def test_a_stream_needs_a_number_of_steps() -> None:
    stream = Data(DataLoader(Stream()))
    with pytest.raises(ConfigError, match=r"trainer\.max_steps"):
        count_horizon(compose(), stream, 1)
    assert count_horizon(compose(["trainer.max_steps=5"]), stream, 1).steps == 5


class ByHand(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


def test_a_module_that_optimizes_by_hand_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose()
    monkeypatch.setattr("lrflow.tasks.build.instantiate", lambda node: ByHand())
    with pytest.raises(ConfigError, match=r"model\._target_.*optimizes by hand"):
        build_module(config)
