"""AdamW's weights are an average of updates over 1 / (LR x weight decay) steps, which is best as a number of epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.reproduce.claims import Claim, Line, Picture, Result, verdict
from benchmarks.reproduce.grids import ends as ends_of
from benchmarks.reproduce.measure import exponent
from lrflow.config.packages import trust_packages
from lrflow.data import FashionMNIST
from lrflow.data.module import Examples

CLAIM = Claim(
    title="AdamW's timescale in epochs",
    paper="Wang and Aitchison, 2024, [2405.13698](https://arxiv.org/abs/2405.13698)",
    claim=(
        "The best timescale 1 / (LR x weight decay) of AdamW stays the same in epochs as the data set grows, so the "
        "best weight decay falls as 1 / examples."
    ),
    rule=(
        "The exponent of the best weight decay over examples is between -1.3 and -0.7. Partly: its interval lies "
        "below 0."
    ),
    number="exponent of the best weight decay over the examples",
    method=(
        "A perceptron with one hidden layer on 500, 1,500 and 4,500 pictures of FashionMNIST of 14 x 14 pixels, 100 "
        "epochs of batches of 100, AdamW at an LR of 0.003 with a cosine, eight weight decays in factors of 2. The "
        "best one is the vertex of a parabola through the validation losses around the lowest; the interval holds 95% "
        "of resampled seeds."
    ),
    seconds=90,
    limits=(
        "Two earlier setups, 15 epochs of 1,000 to 16,000 pictures and 60 epochs of 500 to 8,000, had the best weight "
        "decay at the lowest of the grid for a size at least, since so short a training hardly overfits; their "
        "exponents, 0.19 and 0.38, say nothing. Here it lies inside the grid at every size; the rule is the same. The "
        "minimum at 500 pictures is flat, and three seeds give too narrow an interval."
    ),
)
SIZES = (500, 1500, 4500)
DECAYS = 2.0 ** np.arange(-2, 6)
LR, EPOCHS, BATCH = 3e-3, 100, 100
HELD = 5000
WORDS = (
    "data=custom",
    "data._target_=benchmarks.reproduce.adamw_timescale.Pictures",
    "data.facts={shape:[1,14,14],outputs:10,loss:cross_entropy}",
    "model=mlp",
    "model.widths=[64]",
    "model.dropout=0",
    "optimizer=adamw",
    f"optimizer.lr={LR}",
    "schedule=cosine",
    "schedule.warmup=5%",
)


class Pictures(FashionMNIST):
    """The first pictures of FashionMNIST at half their resolution.

    Args:
        examples: that train; 5,000 others validate.
        facts: shape, outputs and loss.
    """

    def __init__(self, examples: int = SIZES[0], facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(batch_size=BATCH, val_size=HELD, facts=facts)
        self.examples = examples

    def load(self) -> tuple[Examples, None]:  # type: ignore[override]
        """The pictures, each pixel the mean of four."""
        inputs, targets = super().load()[0].at(torch.arange(self.examples + HELD))
        return Examples(inputs.float().reshape(-1, 1, 14, 2, 14, 2).mean((3, 5)), targets), None


def losses(examples: int, seeds: int, epochs: int) -> np.ndarray:
    """Return the validation losses at the end, [seeds, weight decays]."""
    over = {"seed": range(seeds), "optimizer.weight_decay": DECAYS.tolist()}
    return ends_of(*WORDS, f"+data.examples={examples}", f"trainer.max_epochs={epochs}", over=over)


def reproduce(fast: bool = False) -> Result:
    """Train on all sizes; the miniature has two small ones and two epochs."""
    trust_packages(["benchmarks"])
    seeds, sizes, epochs = (2, (300, 600), 2) if fast else (3, SIZES, EPOCHS)
    ends = np.stack([losses(size, seeds, epochs) for size in sizes])  # [sizes, seeds, weight decays]
    found, number, (low, high) = exponent(sizes, DECAYS, ends)
    epochs_of = [1 / (LR * decay * size / BATCH) for decay, size in zip(found, sizes, strict=True)]
    rows: list[dict[str, Any]] = [
        {
            "examples": f"{size:,}",
            "best weight decay": float(decay),
            "timescale in epochs": epochs_of[row],
            "loss there": _at(ends[row], decay),
            "at the first's weight decay": _at(ends[row], found[0]),
            "at the first's timescale": _at(ends[row], found[0] * sizes[0] / size),
        }
        for row, (size, decay) in enumerate(zip(sizes, found, strict=True))
    ]
    told = f"The best timescale goes from {epochs_of[0]:.2g} to {epochs_of[-1]:.2g} epochs."
    lines = [
        Line(
            f"{size:,} examples", DECAYS.tolist(), (np.nanmean(ends[row], 0) / np.nanmean(ends[row], 0).min()).tolist()
        )
        for row, size in enumerate(sizes)
    ]
    picture = Picture("The loss over its least against the weight decay", "weight decay", "loss over the least", lines)
    held = verdict((-1.3 <= number <= -0.7,)) or verdict((high < 0, False))
    return Result(number, min(low, number), max(high, number), held, seeds, told, rows, picture)


def _at(ends: np.ndarray, decay: float) -> float:
    return float(np.exp(np.interp(np.log2(decay), np.log2(DECAYS), np.log(np.nanmean(ends, 0)))))
