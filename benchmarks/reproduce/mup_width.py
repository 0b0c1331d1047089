"""muP keeps the best LR when a network becomes wider; from what `benchmarks/mup_transfer.py` measured."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from benchmarks.reproduce.claims import Claim, Line, Picture, Result, verdict
from benchmarks.reproduce.measure import vertex

RESULTS = Path(__file__).parent.parent.parent / "docs" / "images" / "mup_transfer.csv"
CLAIM = Claim(
    title="The best LR at another width, with muP",
    paper="Yang et al., 2022, [2203.03466](https://arxiv.org/abs/2203.03466)",
    claim=(
        "Under Adam the best LR falls as a network becomes wider in the standard parametrisation, and stays where it "
        "is in muP."
    ),
    rule=(
        "From width 64 to 512, by training and by validation loss, the best LR changes by less than a factor of 1.5 in "
        "muP, and falls by more than 2 in the standard parametrisation. Partly: two of the four."
    ),
    number="best LR at width 512 over that at width 64, in muP",
    method=(
        "A perceptron of three hidden layers on digits, AdamW, 200 steps, eleven LRs in factors of 2. The best LR is "
        "the vertex of a parabola through the losses around the lowest; the number is by training loss, and its "
        "spread is that of the two losses. `python benchmarks/mup_transfer.py` measured it; this reads "
        "[mup_transfer.csv](images/mup_transfer.csv), medians over the seeds."
    ),
    seconds=2,
    limits="[Scaling](scaling.md#the-model-grows-mup) has FashionMNIST and SGD too.",
)
SEEDS = 5
"""Of the medians in the table."""
LOSSES = ("training_loss", "validation_loss")


def reproduce(fast: bool = False) -> Result:
    """Read the measurements; there is no smaller miniature."""
    with RESULTS.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    widths = sorted({int(row["width"]) for row in table})
    rows, lines, ratios = list[dict[str, str | float | None]](), list[Line](), {}
    for how in ("standard", "muP"):
        best: dict[str, list[float]] = {}
        for loss in LOSSES:
            for width in widths:
                of_width = [row for row in table if (row["parametrisation"], int(row["width"])) == (how, width)]
                rates, losses = (np.array([float(row[key]) for row in of_width]) for key in ("lr", loss))
                best.setdefault(loss, []).append(vertex(rates, losses))
            ratios[how, loss] = best[loss][-1] / best[loss][0]
        lines.append(Line(how, widths, best[LOSSES[0]]))
        rows += [
            {"parametrisation": how, "width": width, "best LR by training loss": train, "by validation loss": val}
            for width, train, val in zip(widths, *best.values(), strict=True)
        ]
    mup, standard = ([ratios[how, loss] for loss in LOSSES] for how in ("muP", "standard"))
    parts = [*(1 / 1.5 < ratio < 1.5 for ratio in mup), *(ratio < 0.5 for ratio in standard)]
    told = (
        f"By validation loss it is {mup[1]:.2f}. In the standard parametrisation the best LR changes by "
        f"{standard[0]:.2f} by training loss, and by {standard[1]:.2f} by validation loss."
    )
    picture = Picture("The best LR by training loss against the width", "width", "best LR", lines)
    return Result(mup[0], min(mup), max(mup), verdict(parts, partly=2), SEEDS, told, rows, picture)
