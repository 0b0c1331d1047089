"""The best LR against the length of a run on digits: its exponent, and what it costs to keep the LR of a short run.

All LRs and seeds of a length train at once, as a batch of MLPs under AdamW with a cosine and a warmup of 5%. The
best LR of a seed is the vertex of a parabola through the losses around the lowest one, on a logarithmic axis. The
exponent is the slope of log LR over log steps by least squares; its interval holds 95% of the slopes of resampled
seeds.

    python benchmarks/transfer.py
    python benchmarks/transfer.py --steps 50,200 --seeds 2     # a quick look
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lrflow.data import Digits
from lrflow.schedules import Cosine, Horizon, Schedule

RATES = 2.0 ** np.arange(-13, -2.5, 0.75)
WIDTH, BATCH, DECAY, BETAS, EPS = 64, 64, 0.05, (0.9, 0.999), 1e-8


def losses(steps: int, seeds: int, data: tuple[Tensor, ...]) -> np.ndarray:
    """Return the training and validation loss at the end of runs of some length, [2, seeds, rates]."""
    inputs, targets, held_inputs, held_targets = data
    members, rates = seeds * len(RATES), torch.tensor(np.tile(RATES, seeds), dtype=torch.float32)
    weights = _weights(seeds, inputs.shape[1], int(targets.max()) + 1)
    moments = [[torch.zeros_like(each) for each in weights] for _ in range(2)]
    generators = [np.random.default_rng(seed) for seed in range(seeds)]
    multipliers = Schedule(Cosine(), warmup="5%")(np.arange(steps), Horizon(steps))
    order: list[np.ndarray] = []
    for step in range(steps):
        if not order:
            shuffled = np.stack([one.permutation(len(inputs)) for one in generators])
            order = np.split(shuffled[:, : len(inputs) // BATCH * BATCH], len(inputs) // BATCH, axis=1)
        rows = torch.from_numpy(order.pop()).repeat_interleave(len(RATES), 0)
        gradients = torch.autograd.grad(_loss(weights, inputs[rows], targets[rows]).sum(), weights)
        with torch.no_grad():
            for weight, gradient, first, second in zip(weights, gradients, *moments, strict=True):
                lr = (rates * float(multipliers[step])).reshape(members, 1, 1)
                first.lerp_(gradient, 1 - BETAS[0])
                second.lerp_(gradient * gradient, 1 - BETAS[1])
                root = (second / (1 - BETAS[1] ** (step + 1))).sqrt_().add_(EPS)
                weight.mul_(1 - lr * DECAY).sub_(lr * first / (1 - BETAS[0] ** (step + 1)) / root)
    with torch.no_grad():
        ends = [_loss(weights, *_all(x, y, members)) for x, y in ((inputs, targets), (held_inputs, held_targets))]
    return torch.stack(ends).reshape(2, seeds, len(RATES)).nan_to_num(1e9).numpy()


def _weights(seeds: int, into: int, classes: int) -> list[Tensor]:
    made = []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        sizes = [(into, WIDTH), (WIDTH, WIDTH), (WIDTH, classes)]
        made.append([torch.randn(a, b, generator=generator) * (2 / a) ** 0.5 for a, b in sizes])
    return [torch.stack(same).repeat_interleave(len(RATES), 0).requires_grad_() for same in zip(*made, strict=True)]


def _loss(weights: list[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
    x = inputs
    for weight in weights[:-1]:
        x = functional.relu(torch.bmm(x, weight))
    logits = torch.bmm(x, weights[-1])
    return functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(1)


def _all(inputs: Tensor, targets: Tensor, members: int) -> tuple[Tensor, Tensor]:
    return inputs.expand(members, *inputs.shape), targets.expand(members, *targets.shape)


def best(curve: np.ndarray) -> float:
    """Return log2 of the LR at the vertex of the parabola through the logarithms of the losses around the lowest."""
    at = int(np.clip(np.argmin(curve), 2, len(RATES) - 3))
    around = slice(at - 2, at + 3)
    a, b, _ = np.polyfit(x := np.log2(RATES[around]), np.log(curve[around]), 2)
    return float(np.clip(-b / (2 * a), x[0], x[-1])) if a > 0 else float(np.log2(RATES[np.argmin(curve)]))


def report(name: str, lengths: list[int], curves: np.ndarray) -> None:
    """Print a row per length, the exponent with its interval, and the cost of keeping the LR of the shortest run.

    Args:
        name: of the loss.
        lengths: in steps.
        curves: losses, [lengths, seeds, rates].
    """
    vertices = np.array([[best(curve) for curve in of_length] for of_length in curves])
    x = np.log2(lengths)
    slope = np.polyfit(x, vertices.mean(1), 1)[0]
    rng = np.random.default_rng(0)
    seeds = vertices.shape[1]
    slopes = [np.polyfit(x, vertices[:, rng.integers(seeds, size=seeds)].mean(1), 1)[0] for _ in range(2000)]
    low, high = np.quantile(slopes, (0.025, 0.975))
    print(f"\n{name}: exponent {slope:.2f}, 95% interval {low:.2f} to {high:.2f}")
    print("| steps | best LR | loss there | at the LR of the shortest | by D^-0.32 | by D^-0.5 |")
    print("| --- " * 6 + "|")
    for row, steps in enumerate(lengths):
        mean = np.log(curves[row]).mean(0)
        rates = [vertices[row].mean(), *(vertices[0].mean() - power * (x[row] - x[0]) for power in (0, 0.32, 0.5))]
        found = [np.exp(np.interp(rate, np.log2(RATES), mean)) for rate in rates]
        print(f"| {steps:,} | {2 ** rates[0]:.2g} | " + " | ".join(f"{loss:.3g}" for loss in found) + " |")


def main() -> None:
    """Train all lengths, and print the results as tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", default="50,100,200,400,800,1600")
    parser.add_argument("--seeds", type=int, default=8)
    arguments = parser.parse_args()
    started, lengths = time.process_time(), [int(each) for each in arguments.steps.split(",")]
    digits = Digits()
    digits.prepare_data()
    digits.setup("fit")
    data = tuple(part for held in (digits.train_set, digits.val_set) for part in _tensors(held))
    ends = np.stack([losses(steps, arguments.seeds, data) for steps in lengths])
    for row, name in enumerate(("training loss", "validation loss")):
        report(name, lengths, ends[:, row])
    print(f"\n{time.process_time() - started:.0f} s of CPU")


def _tensors(held: Any) -> tuple[Tensor, Tensor]:
    pairs = [held[index] for index in range(len(held))]
    return torch.stack([pair[0].flatten() for pair in pairs]), torch.tensor([int(pair[1]) for pair in pairs])


if __name__ == "__main__":
    main()
