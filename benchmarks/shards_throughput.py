"""Measure how fast `data=stream` reads shards, against loaders written by hand and WebDataset.

    python benchmarks/shards_throughput.py            # about two minutes on two cores
    python benchmarks/shards_throughput.py --samples 500 --rounds 2

A script writes tar shards of JPEG files and of small PNG files, and Parquet shards of vectors. All loaders shuffle the
samples and give normalised batches of the same size, by the same number of processes:

- by hand: an `IterableDataset` whose workers each read their share of the shards in sequence, with `tarfile` or with
  pyarrow's row groups, through a shuffle buffer, and batches that the `DataLoader` collates;
- webdataset: `WebDataset` with its shuffle buffer and its `WebLoader`, if the package webdataset is installed; images
  are decoded as by hand;
- lrflow: the loader of `data=stream` in lrflow's order.

A pass of each includes the start of its workers. Rounds alternate between the loaders; medians of the rates and of the
ratios within a round. The time in which lrflow indexes the shards before a run is printed beside them.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from PIL import Image
from pyarrow import parquet
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lrflow.data import Stream, ordered
from lrflow.display import Grid

Batches = Callable[[], Iterator[Any]]
SHARDS = 8
SHUFFLE = 500


def write_tars(folder: Path, count: int, height: int, width: int, kind: str) -> None:
    """Write images of smooth coloured noise into tar shards, each with its class."""
    draw = np.random.RandomState(0)
    folder.mkdir()
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as tar:
            for number in range(count * shard // SHARDS, count * (shard + 1) // SHARDS):
                coarse = Image.fromarray(draw.randint(0, 256, (-(-height // 16), -(-width // 16), 3)).astype(np.uint8))
                file = io.BytesIO()
                coarse.resize((width, height), Image.Resampling.BICUBIC).save(
                    file, "jpeg" if kind == "jpg" else kind, quality=90
                )
                for ending, content in ((kind, file.getvalue()), ("cls", str(number % 10).encode())):
                    info = tarfile.TarInfo(f"{number:06d}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def write_tables(folder: Path, count: int, width: int) -> None:
    """Write vectors and their classes into Parquet shards with row groups of 1,000."""
    draw = np.random.RandomState(0)
    folder.mkdir()
    for shard in range(SHARDS):
        values = draw.rand(count // SHARDS, width).astype(np.float32)
        table = pyarrow.table({"x": list(values), "label": draw.randint(0, 10, len(values))})
        parquet.write_table(table, folder / f"{shard:03d}.parquet", row_group_size=1000)


def decoded(content: bytes, size: int) -> Tensor:
    """Return an image, scaled so that it covers the size and cut at its centre."""
    with Image.open(io.BytesIO(content)) as file:
        file.draft("RGB", (2 * size, 2 * size))
        image = file.convert("RGB")
    if image.size != (size, size):
        scale = size / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return (torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255 - 0.5) / 0.25


class ByHand(IterableDataset[tuple[Tensor, int]]):
    """Samples of the shards of a worker, through a shuffle buffer."""

    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths, self.size = paths, size

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        worker = get_worker_info()
        paths = self.paths[worker.id :: worker.num_workers] if worker else list(self.paths)
        random.shuffle(paths)
        held: list[Any] = []
        for sample in (sample for path in paths for sample in self.samples(path)):
            held.append(sample)
            if len(held) >= SHUFFLE:
                place = random.randrange(len(held))
                held[place], held[-1] = held[-1], held[place]
                yield self.made(held.pop())
        random.shuffle(held)
        yield from map(self.made, held)

    def samples(self, path: Path) -> Iterator[Any]:
        """Yield the samples of a shard in their order."""
        if path.suffix == ".parquet":
            file = parquet.ParquetFile(path)
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, use_threads=False)
                width = len(table["x"][0])
                values = table["x"].combine_chunks().flatten().to_numpy().reshape(-1, width).copy()
                yield from zip(values, table["label"].to_numpy(), strict=True)
            return
        with tarfile.open(path) as tar:
            image = b""
            for member in tar:
                content = tar.extractfile(member).read()  # type: ignore[union-attr]
                if member.name.endswith(".cls"):
                    yield image, int(content)
                else:
                    image = content

    def made(self, sample: Any) -> tuple[Tensor, int]:
        """Return a sample as the network gets it."""
        value, target = sample
        if isinstance(value, bytes):
            return decoded(value, self.size), int(target)
        return (torch.from_numpy(value) - 0.5) / 0.29, int(target)


def webdataset_of(paths: list[Path], size: int, batch: int, workers: int) -> Any:
    """Return WebDataset's own loader of the same samples."""
    webdataset = importlib.import_module("webdataset")
    shards = webdataset.WebDataset([str(path) for path in paths], shardshuffle=len(paths), empty_check=False)
    images = shards.shuffle(SHUFFLE).to_tuple("jpg;png", "cls").map_tuple(partial(decoded, size=size), int)
    return webdataset.WebLoader(images.batched(batch), batch_size=None, num_workers=workers)


def loaders_of(folder: Path, size: int, given: argparse.Namespace, console: Console) -> dict[str, Batches]:
    """Return the loaders of the shards in a folder, by name."""
    paths = sorted(folder.iterdir())
    found: dict[str, Batches] = {}
    by_hand = DataLoader(ByHand(paths, size), given.batch, num_workers=given.workers)
    found["by hand"] = partial(iter, by_hand)
    if paths[0].suffix == ".tar" and importlib.util.find_spec("webdataset"):
        found["webdataset"] = partial(iter, webdataset_of(paths, size, given.batch, given.workers))
    start = time.perf_counter()
    data = Stream(str(folder), size=size or 64, batch_size=given.batch, val_size=0, shuffle=SHUFFLE,
                  num_workers=given.workers, check=200)  # fmt: skip
    data.setup()
    console.print(f"{folder.name}: indexed, and 200 samples checked, in {time.perf_counter() - start:.2f} s")
    own = ordered(data.train_dataloader(), seed=0)
    vars(own).update(persistent_workers=False)  # as those by hand
    found["lrflow"] = partial(iter, own)
    return found


def rate(batches: Batches) -> float:
    """Return the samples per second of a pass."""
    samples, start = 0, time.perf_counter()
    for batch in batches():
        samples += len(batch[0])
    return samples / (time.perf_counter() - start)


def compare(loaders: dict[str, Batches], rounds: int, console: Console, title: str) -> None:
    """Measure the loaders in turn, and print their rates and those of lrflow's as ratios."""
    found: dict[str, list[float]] = {name: [] for name in loaders}
    for number in range(rounds + 1):
        for name, batches in loaders.items():
            value = rate(batches)
            if number:  # the first round warms up
                found[name].append(value)
    grid = Grid(f"<{title}", "samples/s", "lrflow / it")
    for name, rates in found.items():
        ratio = statistics.median(a / b for a, b in zip(found["lrflow"], rates, strict=True))
        grid.row(name, f"{statistics.median(rates):,.0f}", f"{ratio:.2f}")
    console.print(grid)


def main() -> None:
    """Measure and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--samples", type=int, default=2000, help="JPEG files; ten times as many small ones and vectors"
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        write_tars(home / "photos", given.samples, 288, 384, "jpg")
        for path in (home / "photos").iterdir():
            size = path.stat().st_size * SHARDS / given.samples
        console.print(f"{given.samples:,} JPEG files of 384x288, {size / 1e3:.0f} kB each, with their classes")
        write_tars(home / "small", 10 * given.samples, 28, 28, "png")
        write_tables(home / "vectors", 50 * given.samples, 64)
        title = f"{given.workers} processes"
        compare(loaders_of(home / "photos", 64, given, console), given.rounds, console, f"JPEG at 64x64, {title}")
        compare(loaders_of(home / "small", 28, given, console), given.rounds, console, f"PNG of 28x28, {title}")
        compare(loaders_of(home / "vectors", 0, given, console), given.rounds, console, f"vectors of 64, {title}")


if __name__ == "__main__":
    main()
