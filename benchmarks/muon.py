"""Measure CPU time per step and final loss of Muon: lrflow's in float32 and bfloat16, and torch's.

python benchmarks/muon.py --width 256 --layers 4

On a CPU with AVX-512 BF16, ONEDNN_MAX_CPU_ISA=AVX512_CORE measures a CPU without it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional
from torch.optim import Optimizer

from lrflow.data import Digits
from lrflow.models import MLP
from lrflow.optimizers import Muon, Routed

Make = Callable[[list[nn.Parameter]], Optimizer]


CASES: dict[str, Make] = {
    "lrflow, float32": lambda params: Muon(params, lr=0.02, ns_dtype="float32"),
    "lrflow, bfloat16": lambda params: Muon(params, lr=0.02, ns_dtype="bfloat16"),
    "torch, bfloat16": lambda params: torch.optim.Muon(params, lr=0.02, weight_decay=0.0),
}


def matrices(width: int, layers: int) -> list[nn.Parameter]:
    """Return the matrices of a GPT's blocks, with gradients."""
    shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)] * layers
    found = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    for parameter in found:
        parameter.grad = torch.randn_like(parameter)
    return found


def time_steps(steps: int, make: Make, width: int, layers: int) -> float:
    """Return the CPU seconds per step, the median of `steps` steps."""
    optimizer = make(matrices(width, layers))
    seconds = []
    for _ in range(steps + 1):  # the first step allocates the momentum
        start = time.process_time()
        optimizer.step()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds[1:])


def train(steps: int, make: Make) -> float:
    """Return the mean loss of the last tenth of a short run on digits: Muon for hidden matrices, else AdamW."""
    torch.manual_seed(0)
    data = Digits(batch_size=64)
    data.prepare_data()
    data.setup("fit")
    model = MLP([1, 8, 8], 10, widths=[128, 128, 128], dropout=0.0)
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and not name.startswith("head")]
    rest = [p for p in model.parameters() if all(p is not other for other in hidden)]
    optimizer = Routed({None: torch.optim.AdamW(rest, lr=3e-3), "muon": make(hidden)})
    losses: list[float] = []
    while len(losses) < steps:
        for inputs, target in data.train_dataloader():
            loss = functional.cross_entropy(model(inputs), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return statistics.mean(losses[steps - steps // 10 : steps])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256, help="width of the blocks (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=4, help="number of blocks (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=7, help="number of timed steps (default: %(default)s)")
    parser.add_argument("--train", type=int, default=60, help="steps of the short run (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    title = f"Muon on {arguments.layers} blocks of width {arguments.width}, one thread, torch {torch.__version__}"
    table = Table(title=title)
    for column in ("", "s per step", "ratio", "loss"):
        table.add_column(column, justify="right" if column else "left")
    first = None
    for name, make in CASES.items():
        seconds = time_steps(arguments.steps, make, arguments.width, arguments.layers)
        first = first or seconds
        table.add_row(name, f"{seconds:.3f}", f"{seconds / first:.1f}x", f"{train(arguments.train, make):.4f}")
    Console().print(table)


if __name__ == "__main__":
    main()
