"""Measure the best peak LR at each width, in the standard parametrisation and in muP (layers=mup).

    python benchmarks/mup_transfer.py
    python benchmarks/mup_transfer.py --data fashion_mnist --root FOLDER --examples 6000

Trains an MLP of each width with each LR and seed, and writes docs/images/mup_transfer.csv (medians over seeds) and
.png (final training loss against the LR).
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

import matplotlib
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy

from lrflow.data import Digits, FashionMNIST
from lrflow.layers import Group, MuP, Rule, resolve
from lrflow.models import MLP
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
PARAMETRISATIONS = ("standard", "muP")
TITLES = {"standard": "standard parametrisation", "muP": "muP, base of width {base}"}
Medians = dict[tuple[str, int, float], tuple[float, float]]
Ends = dict[tuple[str, int, float], list[tuple[float, float]]]
"""By parametrisation, width and LR: final training and validation loss of each seed."""


def load(arguments: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training inputs and targets, validation inputs and targets."""
    data: Any = Digits() if arguments.data == "digits" else FashionMNIST(root=arguments.root, download=False)
    data.prepare_data()
    data.setup("fit")
    found: list[Tensor] = []
    for part in (data.train_set, data.val_set):
        rows = [part[index] for index in range(min(len(part), arguments.examples or len(part)))]
        batch = [torch.stack([row[0] for row in rows]), torch.stack([torch.as_tensor(row[1]) for row in rows])]
        found += data.on_after_batch_transfer(batch, 0)
    return found[0], found[1], found[2], found[3]


def build(width: int, shape: Sequence[int], arguments: argparse.Namespace) -> MLP:
    """Return an MLP of this width; by default without norms, which would hide much of the effect."""
    return MLP(shape, 10, widths=[width] * arguments.depth, norm=arguments.norm, dropout=0.0)


def groups_of(model: MLP, how: str, lr: float, shape: Sequence[int], arguments: argparse.Namespace) -> list[Group]:
    """Return the groups of `layers=uniform` or of `layers=mup`."""
    if how == "standard":
        return resolve(model, [Rule("all", match="*")], lr)
    mup = MuP(base={"widths": [arguments.base] * arguments.depth}, no_decay=False)
    narrow, wider = (build(width, shape, arguments) for width in (arguments.base, 2 * arguments.base))
    widths = mup.widths(model, narrow, wider)
    mup.start(widths)
    return resolve(model, mup.rules(widths, "sgd" if arguments.optimizer == "sgd" else "adam", None), lr)


def train(
    how: str, width: int, lr: float, seed: int, data: Sequence[Tensor], arguments: argparse.Namespace
) -> tuple[float, float]:
    """Return final training and validation loss of one run; infinite if it diverged."""
    inputs, targets, val_inputs, val_targets = data
    torch.manual_seed(seed)
    model = build(width, inputs.shape[1:], arguments)
    groups = groups_of(model, how, lr, inputs.shape[1:], arguments)
    factory, settings = OPTIMIZERS[arguments.optimizer]
    optimizer = build_optimizer(groups, {**settings, "fused": True}, factory)
    scheduler = PlanScheduler(optimizer, Plan.compile(groups, Schedule(Cosine(), "5%"), Horizon(arguments.steps)))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(arguments.steps):
        rows = torch.randint(len(inputs), (arguments.batch,), generator=generator)
        loss = cross_entropy(model(inputs[rows]), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()

    def end(x: Tensor, y: Tensor) -> float:
        loss = cross_entropy(model(x), y).item()
        return loss if math.isfinite(loss) else math.inf

    with torch.no_grad():
        return end(inputs, targets), end(val_inputs, val_targets)


def best(medians: Medians, how: str, width: int, which: int = 0) -> float:
    """Return the LR with the lowest training loss or, with `which` 1, the lowest validation loss."""
    rates = [lr for kind, wide, lr in medians if (kind, wide) == (how, width)]
    return min(rates, key=lambda lr: medians[how, width, lr][which])


def print_table(medians: Medians, widths: Sequence[int]) -> None:
    """Print the best LR per width by training and validation loss, and the loss at the narrowest's best LR."""
    pair = ("best LR", "loss", f"at {widths[0]}'s")
    table = Table("", "width", *(f"{name}, {kind}" for kind in ("train", "val") for name in pair), box=None)
    for how in PARAMETRISATIONS:
        for width in widths:
            cells = []
            for which in (0, 1):
                lr, narrow = best(medians, how, width, which), best(medians, how, widths[0], which)
                losses = [medians[how, width, rate][which] for rate in (lr, narrow)]
                cells += [f"{lr:.2g}", *(f"{loss:.2g}" for loss in losses)]
            table.add_row(how, str(width), *cells)
    Console(width=120).print(table)


def draw(ends: Ends, medians: Medians, arguments: argparse.Namespace) -> None:
    """Plot training loss against LR: one panel per parametrisation, one line per width, best LRs marked."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    shades = plt.get_cmap("viridis_r")(np.linspace(0.15, 0.95, len(arguments.widths)))
    for panel, how in zip(panels, PARAMETRISATIONS, strict=True):
        for width, shade in zip(arguments.widths, shades, strict=True):
            rates = [lr for kind, wide, lr in medians if (kind, wide) == (how, width)]
            seeds = [[train_loss for train_loss, _ in ends[how, width, lr]] for lr in rates]
            panel.plot(rates, [medians[how, width, lr][0] for lr in rates], color=shade, label=str(width))
            panel.fill_between(rates, [*map(min, seeds)], [*map(max, seeds)], color=shade, alpha=0.15, linewidth=0)
            lr = best(medians, how, width)
            panel.plot(lr, medians[how, width, lr][0], "o", color=shade, markeredgecolor="black", zorder=3)
            panel.axvline(lr, color=shade, linewidth=0.8, linestyle=":")
        panel.set(xscale="log", yscale="log", xlabel="peak LR", title=TITLES[how].format(**vars(arguments)))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("training loss at the end")
    panels[0].set_ylim(top=3)
    panels[1].legend(title="width", frameon=False)
    figure.savefig(arguments.output.with_suffix(".png"), dpi=130)


def main() -> None:
    """Train, print the best LR of each width, write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "fashion_mnist"), default="digits")
    parser.add_argument("--root", help="folder with the files of FashionMNIST")
    parser.add_argument("--examples", type=int, help="number of examples to use (default: all)")
    parser.add_argument("--optimizer", choices=tuple(OPTIMIZERS), default="adamw")
    parser.add_argument("--rates", type=int, default=11, help="number of LRs in the grid (default: %(default)s)")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--base", type=int, default=64, help="width of the base of muP (default: %(default)s)")
    parser.add_argument("--depth", type=int, default=3, help="number of hidden layers (default: %(default)s)")
    parser.add_argument("--norm", action="store_true", help="LayerNorm before each ReLU")
    parser.add_argument("--steps", type=int, default=200, help="steps per run (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="examples per step (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("docs/images/mup_transfer"), help="outputs, without suffix")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data, started = load(arguments), time.process_time()
    rates = [LOWEST[arguments.optimizer] * 2**step for step in range(arguments.rates)]
    ends: Ends = {
        (how, width, lr): [train(how, width, lr, seed, data, arguments) for seed in range(arguments.seeds)]
        for how in PARAMETRISATIONS
        for width in arguments.widths
        for lr in rates
    }
    print(f"{sum(map(len, ends.values()))} runs, {time.process_time() - started:.0f} s of CPU time")
    medians = {key: (median(loss for loss, _ in runs), median(loss for _, loss in runs)) for key, runs in ends.items()}
    print_table(medians, arguments.widths)
    with arguments.output.with_suffix(".csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["parametrisation", "width", "lr", "training_loss", "validation_loss"])
        table.writerows([*key, *(f"{loss:.5g}" for loss in losses)] for key, losses in medians.items())
    draw(ends, medians, arguments)


if __name__ == "__main__":
    main()
