"""A trained run for the tasks that use its weights: its module with the weights of a checkpoint, and its data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lrflow import assemble
from lrflow.config import Config, locate
from lrflow.config.objective import loss_of
from lrflow.data import DataModule
from lrflow.errors import ConfigError, Problem
from lrflow.files import user_lock
from lrflow.objectives import ChosenLoss
from lrflow.runs import RunFolder, find_checkpoint
from lrflow.tasks.evaluate import find_weights
from lrflow.training import Supervised, planned_module
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.training.loaders import order_loaders
from lrflow.training.preprocessing import restore_preprocessing
from lrflow.training.resume import Resumed
from lrflow.training.scalars import restore_scalars


@dataclass(frozen=True)
class Trained:
    """A run with the weights of one of its checkpoints.

    Args:
        config: of the run.
        folder: its folder.
        checkpoint: the file of the weights.
        weights: `best`, `last` or the name of the checkpoint.
        step: optimizer step that the weights are of.
        module: with these weights, in evaluation mode on the CPU.
        data: with the preprocessing that the training applied; set up, unless a task can do without the data.
    """

    config: Config
    folder: RunFolder
    checkpoint: Path
    weights: str
    step: int
    module: pl.LightningModule
    data: pl.LightningDataModule

    @classmethod
    def read(cls, config: Config, source: str, weights: str, needs_data: bool = True) -> Trained:
        """Return a run as `task.from` and `task.weights` name it.

        Args:
            config: of the run.
            source: run folder, checkpoint or `last`.
            weights: `best`, `last` or a checkpoint.
            needs_data: whether the data are read even if the checkpoint holds all that is needed of them.

        Raises:
            ConfigError: there is no such run, or it has no such weights.
            LrflowError: the checkpoint is broken or belongs to another model.
        """
        folder = RunFolder.of(find_checkpoint(source, Path(config.output), "task.from"))
        checkpoint = find_weights(source, weights, Path(config.output))
        saved = Resumed.read(checkpoint, locate)
        pl.seed_everything(config.seed, verbose=False)
        data = assemble.build_data(config)
        restore_preprocessing(data, saved.preprocessing)
        order_loaders(data, config.seed)
        if needs_data or not isinstance(data, DataModule) or data.example_inputs() is None:
            with user_lock("data"):
                data.prepare_data()
            data.setup("fit")
            data.setup("test")
        module = load_module(config, checkpoint, data)
        named = weights if weights in ("best", "last") else checkpoint.stem
        return cls(config, folder, checkpoint, named, saved.step, module, data)

    @property
    def network(self) -> nn.Module:
        """The network, without lrflow's wrapper around a plain one."""
        return planned_module(self.module)

    @property
    def loss(self) -> ChosenLoss | None:
        """The training loss of a plain network; None: it is the module's own."""
        return loss_of(self.config) if isinstance(self.module, Supervised) else None

    @property
    def is_language_model(self) -> bool:
        """Whether a plain network predicts the next token at each place."""
        return self.loss is not None and self.loss.per_token

    @property
    def normalise(self) -> Callable[[Tensor], Tensor]:
        """The preprocessing of inputs as they are read; that of a data module not derived from lrflow's is unknown."""
        return self.data.normalise if isinstance(self.data, DataModule) else lambda inputs: inputs

    def loader(self, split: str) -> DataLoader[Any]:
        """Return a loader of a part of the data in its own order, every example once.

        Args:
            split: `train`, `val` or `test`.

        Raises:
            ConfigError: there is no such part, or it has no order.
        """
        make = getattr(self.data, f"{split}_dataloader")
        loaders = make()
        loaders = [loaders] if isinstance(loaders, DataLoader) else list(loaders or ())
        if len(loaders) != 1:
            found = "has no such part" if not loaders else f"has {len(loaders)} loaders for it"
            message = f"{type(self.data).__name__} {found}"
            raise ConfigError([Problem("task.split", message, split)])
        loader = loaders[0]
        dataset = getattr(loader, "dataset", None)
        if not isinstance(loader, DataLoader) or not hasattr(dataset, "__len__"):
            message = f"the {split} data of {type(self.data).__name__} is a stream, without an order"
            raise ConfigError([Problem("task.split", message, split)])
        size = getattr(self.data, "eval_batch_size", None) or loader.batch_size or 1
        return DataLoader(
            loader.dataset,
            size,
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
            prefetch_factor=loader.prefetch_factor,
            worker_init_fn=loader.worker_init_fn,
        )

    @property
    def class_names(self) -> Sequence[str]:
        """The names of the classes of a plain network, in the order of their numbers; empty: they have none."""
        if self.loss is None or self.loss.kind != "classes" or not isinstance(self.data, DataModule):
            return ()
        return self.data.class_names

    def check_forward(self, task: str, *others: str) -> None:
        """Check that the module maps inputs to outputs.

        Args:
            task: the task that needs it.
            others: methods that do as well as `forward`.

        Raises:
            ConfigError: it has no such method.
        """
        if not any(is_overridden(name, self.module) for name in ("forward", *others)):
            message = f"{type(self.module).__name__} has no {' and no '.join(['forward', *others])}"
            raise ConfigError([Problem("task", f"{message}, so nothing maps inputs to outputs", task)])

    def example(self) -> Any:
        """Return the inputs of one batch as the network takes them."""
        if isinstance(self.data, DataModule) and (inputs := self.data.example_inputs()) is not None:
            return self.data.normalise(inputs)
        for split in ("test", "val", "train"):
            try:
                return inputs_of(next(iter(self.loader(split))))
            except (ConfigError, StopIteration):
                continue
        raise ConfigError([Problem("data", f"{type(self.data).__name__} has no loader with an order")])


def load_module(config: Config, checkpoint: Path, data: pl.LightningDataModule | None = None) -> pl.LightningModule:
    """Return the module of a run with the weights of a checkpoint, in evaluation mode.

    Args:
        config: of the run.
        checkpoint: the file; its weights are those to evaluate.
        data: the data that the module's hooks use; None: they are loaded if the hooks need them.

    Raises:
        LrflowError: the checkpoint is broken or belongs to another model.
    """
    saved = Resumed.read(checkpoint, locate)
    module = assemble.build_module(config, start=False, data=data, stage="test")
    saved.check(module)
    restore_scalars(config, module, saved)
    content = read_checkpoint(checkpoint, map_location="cpu")
    module.on_load_checkpoint(content)
    module.load_state_dict(content["state_dict"])
    return module.eval()


def inputs_of(batch: Any) -> Any:
    """Return the inputs of a batch: the first part of a pair of inputs and targets."""
    return batch[0] if isinstance(batch, list | tuple) and len(batch) == 2 else batch
