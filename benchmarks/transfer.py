"""The best LR against the length of a run: its exponent, and what it costs to keep the LR of a short run.

`digits`: all LRs and seeds of a length train at once, as a batch of MLPs under AdamW with a cosine and a warmup of 5%;
the data are seen again and again. `charlm`: a small character transformer, each run as the command line makes it; no
text is seen twice. The best LR of a seed is the vertex of a parabola through the losses around the lowest one, on a
logarithmic axis. The exponent is the slope of log LR over log steps by least squares; its interval holds 95% of the
slopes of resampled seeds. Losses are kept in transfer.json.

    python -m benchmarks.transfer digits
    python -m benchmarks.transfer charlm
    python -m benchmarks.transfer digits --steps 50,200 --seeds 2     # a quick look, which is not kept
    python -m benchmarks.transfer --tables                             # of what was measured
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import lrflow
from lrflow.data import Digits
from lrflow.schedules import Cosine, Horizon, Schedule

KEPT = Path(__file__).with_name("transfer.json")

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


CHARLM = (
    "recipe=charlm", "model.width=32", "model.depth=2", "model.heads=2", "data.length=32", "schedule.warmup=5%",
    "trainer=cpu", "trainer.limit_val_batches=8", "signals=none",
    "trainer.progress=false", "trainer.val_every=100%", "trainer.checkpoint.every=100%", "task.test=false",
    "report=false", "logger=none", "health=none",
)  # fmt: skip
CHARLM_RATES = 2.0 ** np.arange(-9, -4.5)


def digits(lengths: list[int], seeds: int) -> dict[str, np.ndarray]:
    """Return the losses of MLPs on digits, by name: [lengths, seeds, rates]."""
    module = Digits()
    module.prepare_data()
    module.setup("fit")
    data = tuple(part for held in (module.train_set, module.val_set) for part in _tensors(held))
    ends = np.stack([losses(steps, seeds, data) for steps in lengths])
    return {"training loss": ends[:, 0], "validation loss": ends[:, 1]}


def _tensors(held: Any) -> tuple[Tensor, Tensor]:
    pairs = [held[index] for index in range(len(held))]
    return torch.stack([pair[0].flatten() for pair in pairs]), torch.tensor([int(pair[1]) for pair in pairs])


def charlm(lengths: list[int], seeds: int) -> dict[str, np.ndarray]:
    """Return the validation losses of small character transformers: [lengths, seeds, rates]."""
    ends = np.full((len(lengths), seeds, len(CHARLM_RATES)), 1e9)
    for row, steps in enumerate(lengths):
        rates = ",".join(map(str, CHARLM_RATES))
        words = (*CHARLM, f"trainer.max_steps={steps}", f"optimizer.lr={rates}", f"seed=range({seeds})")
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            for trial in lrflow.sweep(*words, f"hydra.sweep.dir={folder}").trials:
                at = int(np.argmin(np.abs(CHARLM_RATES - float(str(trial.given["optimizer.lr"])))))
                for run in trial.runs or (trial,):
                    if not run.diverged:
                        ends[row, int(str(run.given.get("seed", 0))), at] = run.metrics["val/loss"]
    return {"validation loss": ends}


PROBLEMS: dict[str, tuple[Callable[[list[int], int], dict[str, np.ndarray]], np.ndarray, str, int]] = {
    "digits": (digits, RATES, "50,100,200,400,800,1600", 8),
    "charlm": (charlm, CHARLM_RATES, "50,100,200,400", 3),
}
"""By name: what measures it, the LRs, the lengths in steps, and the number of seeds."""


def best(rates: np.ndarray, curve: np.ndarray) -> float:
    """Return log2 of the LR at the vertex of the parabola through the logarithms of the losses around the lowest."""
    at = int(np.clip(np.argmin(curve), 2, len(rates) - 3))
    around = slice(at - 2, at + 3)
    a, b, _ = np.polyfit(x := np.log2(rates[around]), np.log(curve[around]), 2)
    return float(np.clip(-b / (2 * a), x[0], x[-1])) if a > 0 else float(np.log2(rates[np.argmin(curve)]))


@dataclass(frozen=True)
class Measured:
    """The losses at the ends of runs of several lengths.

    Args:
        problem: a key of `PROBLEMS`.
        name: of the loss.
        lengths: in steps.
        rates: peak LRs [rates].
        losses: [lengths, seeds, rates].
    """

    problem: str
    name: str
    lengths: list[int]
    rates: np.ndarray
    losses: np.ndarray

    @property
    def vertices(self) -> np.ndarray:
        """log2 of the best LR [lengths, seeds]."""
        return np.array([[best(self.rates, curve) for curve in of_length] for of_length in self.losses])

    def exponent(self) -> tuple[float, float, float]:
        """Return the power of the length to which the best LR goes, and its interval of 95%."""
        x, vertices = np.log2(self.lengths), self.vertices
        rng = np.random.default_rng(0)
        seeds = vertices.shape[1]
        slopes = [np.polyfit(x, vertices[:, rng.integers(seeds, size=seeds)].mean(1), 1)[0] for _ in range(2000)]
        low, high = np.quantile(slopes, (0.025, 0.975))
        return float(np.polyfit(x, vertices.mean(1), 1)[0]), float(low), float(high)

    def rows(self, powers: tuple[float, ...] = (0, 0.32, 0.5)) -> list[dict[str, float]]:
        """Return per length the best LR, the loss there, and the losses at the shortest run's LR scaled by powers."""
        vertices, x = self.vertices, np.log2(self.lengths)
        found = []
        for row, steps in enumerate(self.lengths):
            mean = np.log(self.losses[row]).mean(0)
            rates = [vertices[row].mean(), *(vertices[0].mean() - power * (x[row] - x[0]) for power in powers)]
            ends = [float(np.exp(np.interp(rate, np.log2(self.rates), mean))) for rate in rates]
            found.append(
                {"steps": steps, "lr": float(2 ** rates[0]), "loss": ends[0]}
                | dict(zip(map(str, powers), ends[1:], strict=True))
            )
        return found


def kept() -> list[Measured]:
    """Return what transfer.json holds."""
    content = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}
    return [
        Measured(problem, name, entry["steps"], np.array(entry["rates"]), np.array(losses))
        for problem, entry in content.items()
        for name, losses in entry["losses"].items()
    ]


def report(measured: Measured) -> None:
    """Print a row per length, the exponent with its interval, and the cost of keeping the LR of the shortest run."""
    slope, low, high = measured.exponent()
    print(f"\n{measured.problem}, {measured.name}: exponent {slope:.2f}, 95% interval {low:.2f} to {high:.2f}")
    print("| steps | best LR | loss there | at the LR of the shortest | by D^-0.32 | by D^-0.5 |")
    print("| --- " * 6 + "|")
    for row in measured.rows():
        steps, lr, *ends = row.values()
        print(f"| {steps:,} | {lr:.2g} | " + " | ".join(f"{loss:.3g}" for loss in ends) + " |")


def main() -> None:
    """Train all lengths of a problem, keep the losses, and print the results as tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("problems", nargs="*", choices=[[], *PROBLEMS])
    parser.add_argument("--steps", help="lengths, with commas between them")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--tables", action="store_true", help="of what was measured")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for problem in arguments.problems:
        measure, rates, steps, seeds = PROBLEMS[problem]
        started, lengths = time.process_time(), [int(each) for each in (arguments.steps or steps).split(",")]
        ends = measure(lengths, arguments.seeds or seeds)
        seconds = round(time.process_time() - started)
        for name, found in ends.items():
            report(Measured(problem, name, lengths, rates, found))
        print(f"\n{seconds} s of CPU")
        if not (arguments.steps or arguments.seeds):
            rounded = {
                name: np.vectorize(lambda loss: float(f"{loss:.5g}"))(found).tolist() for name, found in ends.items()
            }
            content = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}
            content[problem] = {"cpu_seconds": seconds, "steps": lengths, "rates": rates.tolist(), "losses": rounded}
            KEPT.write_text(json.dumps(content) + "\n", encoding="utf-8")
    if arguments.tables:
        for measured in kept():
            report(measured)


if __name__ == "__main__":
    main()
