"""Measure how fast `data=table` feeds a training, against loaders written by hand with torch.

    python benchmarks/table_throughput.py            # about a minute on one core
    python benchmarks/table_throughput.py --rows 20000 --rounds 3

A script makes a CSV file of eight numbers, four categories and a target. All loaders shuffle the same rows into batches
of the same size and give the same inputs:

- rows: a `Dataset` that returns a row, in a `DataLoader`, as most projects write it;
- slices: `x[order[start:stop]]` with `order = torch.randperm(rows)`, the least that torch needs;
- lrflow: the loader of `data=table` in lrflow's order, from which a run resumes at any batch.

Rounds alternate between the loaders; medians of the rates and of the ratios within a round. `trained` is the same with
a step of `lrflow.models.TableNet` and AdamW for each batch.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from lrflow.data import Table, ordered
from lrflow.display import Grid
from lrflow.models import TableNet

Batches = Callable[[], Iterator[Any]]


def write_table(path: Path, rows: int) -> None:
    """Write a table of eight numbers, four categories of 4 to 500 levels, and a target that depends on both."""
    draw = np.random.RandomState(0)
    numbers = draw.randn(rows, 8)
    levels = [draw.randint(count, size=rows) for count in (4, 20, 100, 500)]
    target = numbers.sum(1) + sum(level % 3 for level in levels)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"n{index}" for index in range(8)), *(f"c{index}" for index in range(4)), "y"])
        for row in range(rows):
            cells = [f"{value:.5f}" for value in numbers[row]]
            writer.writerow([*cells, *(f"k{level[row]}" for level in levels), f"{target[row]:.4f}"])


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """Rows of a table, one by one."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.inputs)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        """Return the inputs and the target of a row."""
        return self.inputs[row], self.targets[row]


def loaders(data: Table, batch: int) -> dict[str, Batches]:
    """Return the loaders by name; each call of one is a new epoch."""
    assert data.train_set is not None
    inputs, targets = data.train_set.tensors

    def slices() -> Iterator[Any]:
        order = torch.randperm(len(inputs))
        for start in range(0, len(inputs), batch):
            rows = order[start : start + batch]
            yield inputs[rows], targets[rows]

    by_rows = DataLoader(Rows(inputs, targets), batch, shuffle=True)
    own = ordered(data.train_dataloader(), seed=0)
    return {"rows": lambda: iter(by_rows), "slices": slices, "lrflow": lambda: iter(own)}


def rate(batches: Batches, step: Callable[[Any], None] | None) -> float:
    """Return the rows per second of an epoch."""
    rows, start = 0, time.perf_counter()
    for batch in batches():
        rows += len(batch[0])
        if step:
            step(batch)
    return rows / (time.perf_counter() - start)


def trainer_of(data: Table) -> Callable[[Any], None]:
    """Return a training step of a new network."""
    assert data.layout is not None
    assert data._prepared is not None
    facts = data._prepared.facts
    torch.manual_seed(0)
    network = TableNet(facts["shape"], 1, facts["cardinalities"], widths=[64])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        functional.mse_loss(network(batch[0])[:, 0], batch[1]).backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        write_table(path, given.rows)
        start = time.perf_counter()
        data = Table(str(path), "y", batch_size=given.batch)
        data.setup()
        seconds = time.perf_counter() - start
    console = Console(width=100)
    size = f"{given.rows:,} rows of 13 columns"
    console.print(f"read, split and fitted in {seconds:.2f} s: {size}, {given.rows / seconds:,.0f} rows per second")
    grid = Grid("<loader", "loaded, rows/s", "lrflow / it", "trained, rows/s", "lrflow / it")
    found: dict[tuple[str, bool], list[float]] = {}
    step = trainer_of(data)
    for number in range(given.rounds + 1):
        for name, batches in loaders(data, given.batch).items():
            for trained in (False, True):
                value = rate(batches, step if trained else None)
                if number:  # the first round warms up
                    found.setdefault((name, trained), []).append(value)
    for name in ("rows", "slices", "lrflow"):
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
