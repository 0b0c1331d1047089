"""The mean prediction of the snapshots at the ends of cosine cycles against single networks."""

from __future__ import annotations

import numpy as np
import torch

import lrflow
from benchmarks.reproduce.claims import Claim, Line, Picture, Result, verdict
from benchmarks.reproduce.grids import best, difference, last_checkpoints, over_seeds, population, values
from lrflow.data import FashionMNIST
from lrflow.sweeps.results import TrialResult

CLAIM = Claim(
    title="Snapshot ensembles",
    paper=(
        "Huang et al., 2017, [1704.00109](https://arxiv.org/abs/1704.00109), on the restarts of Loshchilov and Hutter, "
        "2017, [1608.03983](https://arxiv.org/abs/1608.03983)"
    ),
    claim=(
        "The mean of the predictions of the networks at the ends of an LR's cosine cycles has a lower error than the "
        "last of them, and than one network trained for as many steps under a single cosine."
    ),
    rule=(
        "The 95% interval of the difference in error lies below 0 against the last snapshot, and against the single "
        "cosine. Partly: one of the two."
    ),
    number="test error of five snapshots minus that of a single cosine, in points",
    method=(
        "An MLP with one hidden layer of 64 units on 4,000 images of FashionMNIST, by SGD with momentum for 10 epochs: "
        "five cycles, or one cosine. Both have the same three peak LRs, and are measured on the 10,000 test images at "
        "the LR whose mean validation loss at the end is lowest. The interval is that of resampled seeds."
    ),
    seconds=70,
    limits="Cycles of two epochs; the paper trains deep CNNs with cycles of 40. The best LR is the highest tried.",
)
SEEDS, CYCLES = 3, 5
RATES = (0.003, 0.01, 0.03)
SCHEDULES = ("schedule=warm_restarts", "schedule=cosine")
WORDS = (
    "data=fashion_mnist", "data.val_size=56000", "data.batch_size=64", "data.drop_last=true",
    "data.eval_batch_size=2000", "trainer.limit_val_batches=1", "model=mlp", "model.widths=[64]", "model.dropout=0",
    "optimizer=momentum", "schedule.warmup=0%", f"trainer.checkpoint.every={100 // CYCLES}%",
    "trainer.checkpoint.keep=null", "trainer.checkpoint.monitor=null",
)  # fmt: skip


def probabilities(run: TrialResult, inputs: torch.Tensor) -> np.ndarray:
    """Return the predictions of each checkpoint of a run, [checkpoints, images, classes]."""
    result = lrflow.load(run.folder)
    with torch.no_grad():
        models = [result.load_model(str(path)) for path in last_checkpoints(run.folder)]
        assert len(models) == CYCLES
        return np.stack([model(inputs).softmax(1).numpy() for model in models])


def error(predicted: np.ndarray, targets: np.ndarray) -> float:
    """Return the error in percent of predictions [images, classes]."""
    return float(100 * np.mean(predicted.argmax(1) != targets))


def reproduce(fast: bool = False) -> Result:
    """Train both schedules, in the miniature for half as long at one LR."""
    epochs, rates, seeds = (5, RATES[:1], 2) if fast else (10, RATES, SEEDS)
    data = FashionMNIST()
    data.prepare_data()
    data.setup("test")
    assert data.test_set is not None
    inputs, targets = data.test_set.tensors[0], data.test_set.tensors[1].numpy()
    found, rows = {}, []
    for schedule in SCHEDULES:
        period = (f"schedule.shape.period={100 // CYCLES}%",) if "restarts" in schedule else ()
        words = (*WORDS, schedule, *period, f"trainer.max_epochs={epochs}")
        with population(*words, over={"optimizer.lr": rates, "seed": range(seeds)}) as runs:
            at = best(values(runs))
            found[schedule] = [probabilities(run, inputs) for run in runs[at]]
        rows.append((schedule, rates[at]))
    snapshots, single = (found[schedule] for schedule in SCHEDULES)
    counts = range(1, snapshots[0].shape[0] + 1)
    first = np.array([[error(of[:count].mean(0), targets) for of in snapshots] for count in counts])
    final = np.array([[error(of[-count:].mean(0), targets) for of in snapshots] for count in counts])
    alone = np.array([[error(of[count - 1], targets) for of in snapshots] for count in counts])
    cosine = np.array([error(of[-1], targets) for of in single])
    number, low, high = difference(final[-1], cosine)
    against_last = difference(final[-1], alone[-1])
    parts = (high < 0, against_last[2] < 0)
    told = (
        f"All {len(counts)} snapshots together have an error of {final[-1].mean():.2f}%, the last one alone "
        f"{alone[-1].mean():.2f}% (difference {against_last[1]:.2f} to {against_last[2]:.2f}), the single cosine "
        f"{cosine.mean():.2f}%. The best LRs are {rows[0][1]:g} with restarts and {rows[1][1]:g} with one cosine."
    )
    table: list[dict[str, str | float | None]] = [
        {
            "snapshots": count,
            "the first of them together": f"{first[count - 1].mean():.2f}",
            "the last of them together": f"{final[count - 1].mean():.2f}",
            "this one alone": f"{alone[count - 1].mean():.2f}",
            "single cosine": f"{cosine.mean():.2f}",
        }
        for count in counts
    ]
    lines = [
        over_seeds(name, list(counts), of)
        for name, of in (("the last snapshots together", final), ("each snapshot alone", alone))
    ]
    lines.append(Line("single cosine", list(counts), [float(cosine.mean())] * len(counts), style="reference"))
    picture = Picture("Test error against the number of snapshots", "snapshots", "test error in %", lines)
    return Result(number, low, high, verdict(parts), seeds, told, table, picture)
