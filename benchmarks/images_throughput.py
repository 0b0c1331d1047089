"""Measure how fast `data=images` reads images and feeds a training, against loaders written by hand with torch.

    python benchmarks/images_throughput.py            # about two minutes on two cores
    python benchmarks/images_throughput.py --images 500 --rounds 2

A script writes JPEG files in ten folders. All loaders shuffle the same images into batches of the same size, and give
the same normalised tensors up to rounding.

From files, by the same number of processes, one epoch:

- by hand: a `Dataset` that opens, converts, resizes and cuts an image with Pillow, in a `DataLoader` with workers;
- by hand, with draft: the same that decodes a JPEG at a smaller scale, as lrflow does;
- lrflow, each epoch: `data.cache=none`;
- lrflow, first epoch: everything is decoded into a new cache, and then read from it.

From the cache, a later epoch:

- items: a `Dataset` of the decoded bytes in memory that normalises an image, in a `DataLoader` of this process;
- slices: `x[order[start:stop]]` with `order = torch.randperm(images)`, normalised, the least that torch needs;
- lrflow: the loader of `data=images` in lrflow's order, from the file that is mapped into memory.

Rounds alternate between the loaders; medians of the rates and of the ratios within a round.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lrflow.data import Images, ordered
from lrflow.data.images.files import list_images
from lrflow.display import Grid

Batches = Callable[[], Iterator[Any]]


def write_images(folder: Path, count: int, height: int, width: int) -> None:
    """Write JPEG files of smooth coloured noise, a tenth of them into each of ten folders."""
    draw = np.random.RandomState(0)
    for number in range(count):
        path = folder / f"class {number % 10}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(draw.randint(0, 256, (height // 16, width // 16, 3)).astype(np.uint8))
        image = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        noisy = np.clip(image + draw.randint(-20, 21, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path, quality=90)


class Files(Dataset[tuple[Tensor, int]]):
    """Images that are read from their files, one by one."""

    def __init__(self, data: Images, draft: bool) -> None:
        assert data.layout is not None
        assert data._prepared is not None
        rows = data._prepared.rows["train"]
        paths = list_images(data.options).paths
        self.paths = [paths[row] for row in rows]
        self.targets = data._prepared.targets[rows].tolist()
        self.size = data.options.form.height
        self.draft = draft
        self.mean, self.std = (torch.tensor(data.layout[name]).view(3, 1, 1) for name in ("mean", "std"))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        """Return an image and its class."""
        with Image.open(self.paths[row]) as file:
            if self.draft:
                file.draft("RGB", (2 * self.size, 2 * self.size))
            image = file.convert("RGB")
        width, height = image.size
        scale = self.size / min(width, height)
        image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
        image = image.crop((left, top, left + self.size, top + self.size))
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
        return (pixels.float() / 255 - self.mean) / self.std, self.targets[row]


class Items(Dataset[tuple[Tensor, Tensor]]):
    """Decoded images in memory, normalised one by one."""

    def __init__(self, pixels: Tensor, targets: Tensor, mean: Tensor, std: Tensor) -> None:
        self.pixels, self.targets, self.mean, self.std = pixels, targets, mean, std

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        """Return an image and its class."""
        return (self.pixels[row].float() / 255 - self.mean) / self.std, self.targets[row]


def make(root: Path, cache: str, given: argparse.Namespace, workers: int = 0) -> Images:
    """Return lrflow's data module, set up, by a cache that is new or not."""
    data = Images(
        str(root), size=given.size, batch_size=given.batch, val_size=0, test_size=0, cache=cache,
        num_workers=workers, decoders=given.workers,
    )  # fmt: skip
    data.setup()
    return data


def from_files(root: Path, folder: Path, given: argparse.Namespace) -> dict[str, Batches]:
    """Return the loaders of an epoch from the files, by name."""
    found: dict[str, Batches] = {}
    module = make(root, "none", given, given.workers)
    for draft in (False, True):
        loader = DataLoader(Files(module, draft), given.batch, shuffle=True, num_workers=given.workers)
        found["by hand, with draft" if draft else "by hand"] = partial(iter, loader)
    each = ordered(module.train_dataloader(), seed=0)
    vars(each).update(persistent_workers=False)  # as those by hand
    found["lrflow, each epoch"] = partial(iter, each)

    def first() -> Iterator[Any]:
        shutil.rmtree(folder, ignore_errors=True)
        from lrflow.data.images import parts as image_parts

        image_parts._decoded.cache_clear()
        return iter(ordered(make(root, str(folder), given).train_dataloader(), seed=0))

    return {**found, "lrflow, first epoch": first}


def from_cache(data: Images, batch: int) -> dict[str, Batches]:
    """Return the loaders of a later epoch, by name."""
    assert data.layout is not None
    assert data._prepared is not None
    pixels = torch.from_numpy(np.array(data._prepared.images.pixels))
    targets = torch.from_numpy(data._prepared.targets)
    mean, std = (torch.tensor(data.layout[name]).view(3, 1, 1) for name in ("mean", "std"))

    def slices() -> Iterator[Any]:
        order = torch.randperm(len(pixels))
        for start in range(0, len(pixels), batch):
            rows = order[start : start + batch]
            yield pixels[rows].float().div_(255).sub_(mean).div_(std), targets[rows]

    items = DataLoader(Items(pixels, targets, mean, std), batch, shuffle=True)
    own = ordered(data.train_dataloader(), seed=0)
    return {"items": partial(iter, items), "slices": slices, "lrflow": partial(iter, own)}


def rate(batches: Batches) -> float:
    """Return the images per second of an epoch."""
    images, start = 0, time.perf_counter()
    for batch in batches():
        images += len(batch[0])
    return images / (time.perf_counter() - start)


def compare(loaders: dict[str, Batches], rounds: int, console: Console, title: str) -> None:
    """Measure the loaders in turn, and print their rates and those of lrflow's as ratios."""
    found: dict[str, list[float]] = {name: [] for name in loaders}
    for number in range(rounds + 1):
        for name, batches in loaders.items():
            value = rate(batches)
            if number:  # the first round warms up
                found[name].append(value)
    own = [name for name in loaders if name.startswith("lrflow")]
    grid = Grid(f"<{title}", "images/s", *(f"{name} / it" for name in own))
    for name, rates in found.items():
        ratios = [statistics.median(a / b for a, b in zip(found[one], rates, strict=True)) for one in own]
        grid.row(name, f"{statistics.median(rates):,.0f}", *(f"{ratio:.2f}" for ratio in ratios))
    console.print(grid)


def main() -> None:
    """Measure and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--height", type=int, default=288)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "images", Path(folder) / "cache"
        write_images(root, given.images, given.height, given.width)
        size = sum(path.stat().st_size for path in root.rglob("*.jpg")) / given.images
        console.print(f"{given.images:,} JPEG files of {given.width}x{given.height}, {size / 1e3:.0f} kB each")
        title = f"from files, {given.workers} processes"
        compare(from_files(root, cache, given), given.rounds, console, title)
        compare(from_cache(make(root, str(cache), given), given.batch), 4 * given.rounds, console, "from the cache")


if __name__ == "__main__":
    main()
