"""The phases of learning sums modulo p over LR and weight decay: memorisation, grokking, comprehension, confusion."""

from __future__ import annotations

from collections import Counter

import numpy as np

from benchmarks.reproduce.claims import Claim, Line, Picture, Result, verdict
from benchmarks.reproduce.grids import population
from lrflow.sweeps.results import TrialResult

CLAIM = Claim(
    title="The phases of grokking",
    paper=(
        "Liu et al., 2022, [2205.10343](https://arxiv.org/abs/2205.10343), on the effect of Power et al., 2022, "
        "[2201.02177](https://arxiv.org/abs/2201.02177)"
    ),
    claim=(
        "LR and weight decay decide how a small arithmetic task is learned: without or with little decay the network "
        "memorises the training part; with more it groks, that is, generalises long after; with yet more it "
        "comprehends, that is, generalises at once; with too much, or too high an LR, it learns nothing (confusion)."
    ),
    rule=(
        "Each of the four phases is that of most seeds in some cell, and at LR 0.03 the median delay of the "
        "generalisation is shorter at decay 1 than at 0.1, and at 0.1 than without decay. Partly: one of the two."
    ),
    number="delay at weight decay 0.1 over the delay at 1, at LR 0.03",
    method=(
        "Sums modulo 23, 70% of the pairs for training, in full batches; one hidden layer of 64 units with the "
        "square as its nonlinearity; AdamW at a constant LR for 1,200 steps, on a grid of five LRs and four weight "
        "decays. Learned: a training loss below 0.069, at which at least 90% of the pairs must be right. "
        "Generalised: 90% of the held-out pairs are right. Comprehension: at most 100 steps lie between the two. A "
        "delay that does not end within the run counts as the rest of the run. The number is the ratio of medians, "
        "its range that over seeds."
    ),
    seconds=80,
    limits=(
        "Which phase a cell is in depends on the length of the run: memorising runs may generalise later. The rule was "
        "written after a pilot with one seed."
    ),
)
RATES, DECAYS = (0.0003, 0.003, 0.03, 0.3, 3.0), (0.0, 0.1, 1.0, 10.0)
STEPS, SEEDS, EVERY = 1200, 3, 25
P, TRAINED = 23, 370
"""The modulus, and how many of its pairs are trained on, in full batches."""
LEARNED, RIGHT, AT_ONCE = 0.069, 0.9, 100
PHASES = ("memorisation", "grokking", "comprehension", "confusion")


def times(run: TrialResult, steps: int) -> tuple[float, float]:
    """Return the steps after which a run has learned and generalised; infinite: it has not."""
    history = run.history("train/loss", "val/accuracy")
    if run.diverged:
        return np.inf, np.inf
    loss, accuracy = history["train/loss"], history["val/accuracy"]
    learned, general = loss.values < LEARNED, accuracy.values >= RIGHT
    return (
        float(loss.steps[np.argmax(learned)]) if learned.any() else np.inf,
        float(accuracy.steps[np.argmax(general)]) if general.any() else np.inf,
    )


def phase(learned: float, general: float) -> str:
    """Return the phase of a run that learned and generalised after these steps."""
    if np.isinf(general):
        return "confusion" if np.isinf(learned) else "memorisation"
    return "comprehension" if general - learned <= AT_ONCE else "grokking"


def reproduce(fast: bool = False) -> Result:
    """Train all cells, in the miniature three of them for a few steps."""
    steps, seeds, rates, decays = (30, 1, RATES[2:3], DECAYS[:3]) if fast else (STEPS, SEEDS, RATES, DECAYS)
    words = (
        "trust=benchmarks", "data=custom", "data._target_=benchmarks.reproduce.data.Sums", f"data.p={P}",
        f"data.batch_size={TRAINED}", f"data.val_size={P * P - TRAINED}",
        f"data.facts={{outputs:{P},loss:cross_entropy,examples:{P * P}}}", "model=custom", "model.loss=cross_entropy",
        "model._target_=benchmarks.reproduce.data.SquareMLP", f"model.inputs={2 * P}", "model.width=64",
        f"model.outputs={P}", "optimizer=adamw", "optimizer.betas=[0.9,0.98]", "schedule=constant",
        f"trainer.max_epochs={steps}", f"trainer.val_every={EVERY} epochs", "logger=csv",
    )  # fmt: skip
    over = {"optimizer.lr": rates, "optimizer.weight_decay": decays, "seed": range(seeds)}
    with population(*words, over=over) as runs:
        found = np.array([times(run, steps) for run in runs.flat]).reshape(*runs.shape, 2)
    names = np.array([phase(*pair) for pair in found.reshape(-1, 2)]).reshape(runs.shape)
    common = [[Counter(cell.tolist()).most_common(1)[0] for cell in row] for row in names]
    delays = np.minimum(found[..., 1], steps) - np.minimum(found[..., 0], steps)  # [LRs, decays, seeds]
    none, little, more = delays[rates.index(0.03), :3]
    present = {name for row in common for name, count in row if count * 2 > seeds}
    parts = (present == set(PHASES), bool(np.median(more) < np.median(little) < np.median(none)))
    ratios = little / np.maximum(more, 1)
    number = float(np.median(little) / max(np.median(more), 1))
    missing = [name for name in PHASES if name not in present]
    told = (
        ("All four phases occur" if not missing else f"Of the phases, these do not occur: {', '.join(missing)}")
        + f". At LR 0.03 the median delay is {np.median(none):.0f} steps without decay (the run ends after {steps}), "
        f"{np.median(little):.0f} at decay 0.1 and {np.median(more):.0f} at 1."
    )
    rows: list[dict[str, str | float | None]] = [
        {
            "LR": f"{rate:g}",
            **{
                f"weight decay {decay:g}": name if count == seeds else f"{name} ({count} of {seeds} seeds)"
                for decay, (name, count) in zip(decays, row, strict=True)
            },
        }
        for rate, row in zip(rates, common, strict=True)
    ]
    lines = []
    for at, decay in enumerate(decays[:3]):
        learned = [row for row, cells in enumerate(common) if cells[at][0] != "confusion"]
        until = np.maximum(delays[learned, at], EVERY)
        shown = (np.median(until, 1), until.min(1), until.max(1))
        lines.append(Line(f"weight decay {decay:g}", [rates[row] for row in learned], *(of.tolist() for of in shown)))
    alt = "Steps between learning the training part and generalising, against the LR"
    low, high = min(number, float(ratios.min())), max(number, float(ratios.max()))
    return Result(number, low, high, verdict(parts), seeds, told, rows, Picture(alt, "LR", "delay in steps", lines))
