"""`DataModule`, the base of lrflow's data modules: tensors in memory, split, checked and normalised."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CUDAAccelerator
from rich.console import RenderableType
from torch.utils.data import DataLoader, TensorDataset

from lrflow.data.splits import PARTS, HeldOut, are_classes
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.limits import MOST_PROCESSES

if TYPE_CHECKING:
    from lrflow.data.text.tokenization import Tokenizer


class Examples(NamedTuple):
    """Inputs and their targets.

    Args:
        inputs: [examples, ...], of any dtype that `DataModule.normalise` accepts.
        targets: class numbers [examples] (int64), or numbers to predict [examples, ...] (float32).
    """

    inputs: torch.Tensor
    targets: torch.Tensor

    def at(self, rows: torch.Tensor) -> Examples:
        """The examples at these indices, in their order."""
        return Examples(self.inputs[rows], self.targets[rows])


class DataModule(pl.LightningDataModule):
    """Tensors in memory, split into train, validation and test parts.

    A data set of your own needs one method: `load`, which returns its examples. After `setup`, the parts are the
    `TensorDataset`s `train_set`, `val_set` and `test_set`. A class whose batches are not stacked tensors (for example
    padded to the longest) sets `collate_fn`, a static method that makes a batch from a list of (input, target).

    Args:
        batch_size: training examples per batch and device.
        eval_batch_size: examples per batch in validation and test; None: `batch_size`.
        val_size: examples held out of the training part for validation, stratified for classes, or a share of them
            such as `10%`.
        test_size: examples held out for the test, or a share of them; 0 if the data has its own test part.
        drop_last: whether to leave out an epoch's last batch if it is smaller.
        num_workers: worker processes per loader; 0 loads in this process, which is fastest for data in memory.
        split_seed: seed that selects the examples held out. The test part does not depend on `val_size`.
        facts: properties of the data that the config states before it is read: examples (without the data's own test
            part), shape (of one input), outputs, loss. They are checked when the data is read.
        folds: number of parts of a cross-validation, stratified, of the examples that are not for the test; None: none.
        fold: the part that validates, from 0; the others train, and `val_size` does not count.

    Attributes:
        train_weights: by which `data.sampler=weighted` draws the examples of `train_set`, a number for each; None:
            they have no weights. A class of your own sets it in `setup`.

    Raises:
        ConfigError: invalid options, all in one error; in `setup`, also options that do not fit the data.
    """

    collate_fn: Callable[[list[Any]], Any] | None = None

    pixel_moments: tuple[Sequence[float], Sequence[float]] | None = None
    """Mean and standard deviation of each channel, by which `normalise` scales pixels from 0 to 1; None: unknown."""

    def __init__(
        self,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        val_size: int | float | str = 0,
        test_size: int | float | str = 0,
        drop_last: bool = False,
        num_workers: int = 0,
        split_seed: int = 0,
        facts: Mapping[str, Any] | None = None,
        folds: int | None = None,
        fold: int = 0,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.test_size = test_size
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.split_seed = split_seed
        self.folds = folds
        self.fold = fold
        self.facts = dict(facts or {})
        self.train_set: TensorDataset | None = None
        self.val_set: TensorDataset | None = None
        self.test_set: TensorDataset | None = None
        self.train_weights: torch.Tensor | None = None
        self._fitted: dict[str, Any] = {}
        self._refits = True
        if problems := self._option_problems():
            raise ConfigError(problems)

    def load(self) -> tuple[Examples, Examples | None]:
        """Return the examples for training and held-out parts, and the data's own test part if it has one."""
        raise NotImplementedError(f"{type(self).__name__} has no load()")

    def fit_normalisation(self, inputs: torch.Tensor) -> None:
        """Compute what `normalise` needs, such as a mean, and set it as attributes; the default does nothing.

        The attributes are saved in checkpoints, so that an evaluation applies what the training applied.

        Args:
            inputs: the inputs of the training part only, without the held-out examples.
        """

    def normalise(self, inputs: torch.Tensor) -> torch.Tensor:
        """Convert inputs to those of the model; the default converts to float32."""
        return inputs.float()

    file_types: tuple[str, ...] = ()
    """Endings of the files that `read` reads, for data with files of their own kind."""

    def read(self, path: Path, key: str) -> torch.Tensor:
        """Return the inputs in a file, as `load` returns them, for predictions.

        Args:
            path: ends in one of `file_types`.
            key: config key that names the file.
        """
        raise NotImplementedError(f"{type(self).__name__} reads no files")

    def read_all(self, paths: Sequence[Path], key: str) -> list[torch.Tensor]:
        """Return the inputs in each of several files, as `read` returns them.

        Raises:
            ConfigError: the problems of all files.
        """
        found, problems = [], []
        for path in paths:
            try:
                found.append(self.read(path, key))
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        return found

    def example_inputs(self) -> torch.Tensor | None:
        """Return a few inputs as `load` returns them, made of what was fitted; None: only the data have such inputs."""
        return None

    def describe(self) -> RenderableType | None:
        """Return what is printed about the data before the run; None: nothing."""
        return None

    def describe_inputs(self) -> list[dict[str, Any]]:
        """Return what each column of an input means, as plain data, in the order of `load`; empty: unknown."""
        return []

    def export_files(self) -> dict[str, str]:
        """Return files that a reader of an export needs for its inputs, by name; empty: none."""
        return {}

    @property
    def tokens_per_example(self) -> int | None:
        """Tokens of an example, padding included; None: examples have no tokens."""
        return None

    @property
    def next_token(self) -> Tokenizer | None:
        """The tokenizer of texts of which the next token is learned; None: the data are others."""
        return None

    @property
    def class_names(self) -> Sequence[str]:
        """The names of the classes, in the order of their numbers; empty: they have none."""
        return ()

    @property
    def target_name(self) -> str | None:
        """The name of the number to predict; None: it has none, or the targets are classes."""
        return None

    @property
    def fitted(self) -> dict[str, Any]:
        """What `fit_normalisation` computed, by the names of the attributes; empty before `setup`."""
        return dict(self._fitted)

    def use_fitted(self, values: Mapping[str, Any]) -> None:
        """Use what an earlier run's `fit_normalisation` computed, instead of computing it in `setup`.

        Args:
            values: as `fitted` returned it; they come from a checkpoint, which may be someone else's.

        Raises:
            LrflowError: a text would replace an argument of the class, such as the folder of its data.
        """
        for name in inspect.signature(type(self)).parameters:
            if isinstance(values.get(name), str):
                raise LrflowError(
                    f"the checkpoint would replace data.{name} by {values[name]!r}, which only a config may set"
                )
        self._fitted, self._refits = dict(values), False
        vars(self).update(values)

    def setup(self, stage: str | None = None) -> None:
        """Read the data, check it against `facts` and split it; later calls do nothing.

        Args:
            stage: Lightning's stage; all parts are made in any stage.

        Raises:
            ConfigError: the data does not have the `facts`, or is too small for the options.
            LrflowError: `load` or `normalise` returns something else than examples.
        """
        if self.train_set is not None:
            return
        pool, test = self._loaded()
        problems = [*self._fact_problems(pool), *self._size_problems(len(pool.inputs))]
        if test is not None and self.test_size:
            problems.append(
                Problem("data.test_size", "the data has a test part of its own; expected 0", self.test_size)
            )
        if problems:
            raise ConfigError(problems)
        train_rows, val_rows, test_rows = self.split(pool)
        train = pool.at(train_rows)
        if self._refits:
            before = dict(vars(self))
            self.fit_normalisation(train.inputs)
            missing = object()
            self._fitted = {name: new for name, new in vars(self).items() if new is not before.get(name, missing)}
        self.test_set = self._part(pool.at(test_rows) if test is None else test)
        self.val_set = self._part(pool.at(val_rows))
        self.train_set = self._part(train)

    @property
    def input_type(self) -> type:
        """The type of the inputs that `load` returns."""
        return torch.Tensor

    def _loaded(self) -> tuple[Examples, Examples | None]:
        """What `load` returns.

        Raises:
            LrflowError: it returns something else than examples, and examples or None for the test.
        """
        found, method = self.load(), f"{type(self).__name__}.load"
        if not isinstance(found, tuple) or len(found) != 2 or isinstance(found, Examples):
            returned = f"{len(found)} values" if type(found) is tuple else type(found).__name__
            hint = "return Examples(inputs, targets), None"
            raise LrflowError(f"{method} returned {returned}, expected examples and test examples or None\n    {hint}")
        for examples, part in zip(found, ("examples", "test examples"), strict=True):
            if examples is None and part == "test examples":
                continue
            if not isinstance(examples, Examples):
                message = f"{method} returned {type(examples).__name__} as {part}, expected lrflow.data.Examples"
                raise LrflowError(message)
            for name, values in examples._asdict().items():
                if not isinstance(values, self.input_type if name == "inputs" else torch.Tensor):
                    hint = "torch.as_tensor makes a tensor of an array or a list of numbers"
                    returned = f"{name} of {part} as {type(values).__name__}"
                    raise LrflowError(f"{method} returned {returned}, expected a tensor\n    {hint}")
            counts = len(examples.inputs), len(examples.targets)
            if counts[0] != counts[1]:
                raise LrflowError(f"{method} returned {counts[0]:,} inputs and {counts[1]:,} targets as {part}")
        return found

    def split(self, pool: Examples) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the indices of the examples for training, validation and test; the default holds out at random.

        Args:
            pool: what `load` returned first.
        """
        rows = self._held_out.rows(np.arange(len(pool.inputs)), pool.targets.numpy(), "examples")
        train, val, test = (torch.from_numpy(rows[part]) for part in PARTS)
        return train, val, test

    @property
    def _held_out(self) -> HeldOut:
        return HeldOut.of(vars(self))

    def _part(self, examples: Examples) -> TensorDataset:
        inputs = self.normalise(examples.inputs)
        if not isinstance(inputs, torch.Tensor) or len(inputs) != len(examples.targets):
            expected = f"expected a tensor of {len(examples.targets):,} examples"
            returned = f"{len(inputs):,} examples" if isinstance(inputs, torch.Tensor) else type(inputs).__name__
            raise LrflowError(f"{type(self).__name__}.normalise returned {returned}, {expected}")
        return TensorDataset(inputs, examples.targets)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the training part: [inputs [batch, *shape], targets [batch]]."""
        return self._loader(self.train_set, self.batch_size, shuffle=True, drop_last=self.drop_last)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """The validation part in order; an empty list where nothing is held out."""
        if (self.val_size == 0 and self.folds is None) or (self.val_set is not None and not len(self.val_set)):
            return []
        return self._loader(self.val_set, self.eval_batch_size or self.batch_size)

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """The test part in order; an empty list where there is none."""
        return self._loader(self.test_set, self.eval_batch_size or self.batch_size) if self.test_set else []

    def _loader(
        self, dataset: TensorDataset | None, batch_size: int, shuffle: bool = False, drop_last: bool = False
    ) -> DataLoader[Any]:
        if dataset is None:
            raise RuntimeError("the loaders need setup() first")
        return DataLoader(
            dataset,
            batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            collate_fn=self.collate_fn,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer is not None and isinstance(self.trainer.accelerator, CUDAAccelerator),
        )

    def _option_problems(self) -> list[Problem]:
        """The problems of the options, and of their sizes if `facts` states the number of examples."""
        least = {"batch_size": 1, "num_workers": 0}
        if self.eval_batch_size is not None:
            least["eval_batch_size"] = 1
        problems = []
        for name, minimum in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
                problems.append(Problem(f"data.{name}", f"expected a whole number, at least {minimum}", value))
        if not problems and self.num_workers > MOST_PROCESSES:
            problems.append(Problem("data.num_workers", f"expected at most {MOST_PROCESSES}", self.num_workers))
        problems += self._held_out.problems()
        if not problems and isinstance(examples := self.facts.get("examples"), int):
            problems += self._size_problems(examples)
        return problems

    def _size_problems(self, examples: int) -> list[Problem]:
        """The options that do not fit the number of examples."""
        if not examples:
            return [Problem("data", "has no examples")]
        val, test = self._held_out.sizes(examples).values()
        left = examples - val - test
        if left < 1:
            key = "data.val_size" if val >= test else "data.test_size"
            held_out = f"val_size {val:,} and test_size {test:,} of {examples:,} examples"
            return [Problem(key, f"nothing is left to train on: {held_out} are held out", getattr(self, key[5:]))]
        if self.batch_size > left:
            message = f"larger than the {left:,} training examples"
            return [Problem("data.batch_size", message, self.batch_size)]
        return []

    def _fact_problems(self, pool: Examples) -> list[Problem]:
        """The `facts` that the data does not have."""
        found: dict[str, Any] = {"examples": len(pool.inputs), "shape": list(pool.inputs.shape[1:])}
        if len(pool.targets) and are_classes(pool.targets):
            found["outputs"] = int(pool.targets.max()) + 1
        return self._differences(found)

    def _differences(self, found: Mapping[str, Any]) -> list[Problem]:
        """The `facts` that differ from those that were found."""
        problems = []
        for name, value in found.items():
            stated = self.facts.get(name)
            stated = list(stated) if isinstance(value, list) and stated is not None else stated
            if stated is not None and stated != value:
                problems.append(Problem(f"data.facts.{name}", f"the data has {value}", stated))
        return problems
