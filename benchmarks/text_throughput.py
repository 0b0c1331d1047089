"""Measure how fast `data=text` feeds a training, against loaders written by hand with torch.

    python benchmarks/text_throughput.py             # about a minute on one core
    python benchmarks/text_throughput.py --megabytes 4 --rounds 3

A script writes a text of random words. All loaders read the same tokens, in shuffled sequences of the same length, and
give the same batches of inputs and targets, int64:

- sequences: a `Dataset` that returns a sequence and its shifted one, in a `DataLoader`, as most projects write it;
- slices: rows of a tensor of all sequences by `torch.randperm`, the least that torch needs;
- lrflow: the loader of `data=text` in lrflow's order, from which a run resumes at any batch.

Rounds alternate between the loaders; medians of the rates and of the ratios within a round. `trained` is the same with
a step of `lrflow.models.Transformer` and AdamW for each batch, of the first batches of an epoch.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from lrflow.data import Text, ordered
from lrflow.display import Grid
from lrflow.models import Transformer

Batches = Callable[[], Iterator[Any]]

STEPS = 40
"""Batches that are trained in a round."""


def write_text(path: Path, size: int) -> None:
    """Write a text of random words.

    Args:
        path: the file.
        size: its length in bytes.
    """
    draw = np.random.RandomState(0)
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz   ", np.uint8)
    path.write_bytes(letters[draw.randint(len(letters), size=size)].tobytes())


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Sequences of a text, one by one, with the same shifted by one token."""

    def __init__(self, tokens: Tensor, length: int) -> None:
        self.tokens, self.length = tokens, length

    def __len__(self) -> int:
        """Return the number of sequences."""
        return (len(self.tokens) - 1) // self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a sequence and its targets."""
        piece = self.tokens[index * self.length : (index + 1) * self.length + 1].long()
        return piece[:-1], piece[1:]


def loaders(data: Text, batch: int) -> dict[str, Batches]:
    """Return the loaders by name; each call of one is a new epoch."""
    assert data._prepared is not None
    length = data.tokens_per_example
    found = data._prepared
    count = len(found.rows["train"])
    tokens = torch.from_numpy(found.tokens[: count * length + 1].astype(np.int32))

    def slices() -> Iterator[Any]:
        order = torch.randperm(count)
        inputs, targets = (tokens[shift : shift + count * length].view(count, length) for shift in (0, 1))
        for start in range(0, count, batch):
            rows = order[start : start + batch]
            yield inputs[rows].long(), targets[rows].long()

    by_sequence = DataLoader(Windows(tokens, length), batch, shuffle=True)
    own = ordered(data.train_dataloader(), seed=0)
    return {"sequences": lambda: iter(by_sequence), "slices": slices, "lrflow": lambda: iter(own)}


def rate(batches: Batches, step: Callable[[Any], None] | None) -> float:
    """Return the tokens per second of an epoch, or of `STEPS` batches that are trained."""
    tokens, start = 0, time.perf_counter()
    for batch in islice(batches(), STEPS if step else None):
        tokens += batch[0].numel()
        if step:
            step(batch)
    return tokens / (time.perf_counter() - start)


def trainer_of(data: Text) -> Callable[[Any], None]:
    """Return a training step of a new network."""
    assert data._prepared is not None
    facts = data._prepared.facts
    torch.manual_seed(0)
    network = Transformer(facts["shape"], facts["outputs"], facts["vocabulary"], width=32, depth=1, heads=2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        functional.cross_entropy(network(batch[0]).flatten(0, 1), batch[1].flatten()).backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    console, grid = (
        Console(width=100),
        Grid("<loader", "loaded, tokens/s", "lrflow / it", "trained, tokens/s", "lrflow / it"),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        write_text(path, given.megabytes * 1_000_000)
        start = time.perf_counter()
        data = Text(file=str(path), length=given.length, batch_size=given.batch, cache=f"{folder}/cache")
        data.setup()
        seconds = time.perf_counter() - start
        size = f"{given.megabytes} MB in bytes as tokens"
        console.print(f"read, split and cut in {seconds:.2f} s: {size}, {given.megabytes / seconds:,.1f} MB per second")
        found: dict[tuple[str, bool], list[float]] = {}
        step = trainer_of(data)
        for number in range(given.rounds + 1):
            for name, batches in loaders(data, given.batch).items():
                for trained in (False, True):
                    value = rate(batches, step if trained else None)
                    if number:  # the first round warms up
                        found.setdefault((name, trained), []).append(value)
    for name in ("sequences", "slices", "lrflow"):
        cells = []
        for trained in (False, True):
            pairs = zip(found["lrflow", trained], found[name, trained], strict=True)
            cells += [
                f"{statistics.median(found[name, trained]):,.0f}",
                f"{statistics.median(a / b for a, b in pairs):.2f}",
            ]
        grid.row(name, *cells)
    console.print(grid)


if __name__ == "__main__":
    main()
