"""The best LR of low-rank adapters against that of full fine-tuning."""

from __future__ import annotations

import numpy as np

from benchmarks.reproduce.claims import Claim, Held, Picture, Result
from benchmarks.reproduce.grids import best, over_seeds, spread
from benchmarks.reproduce.measure import BARE, interval, trained, vertex

CLAIM = Claim(
    title="The LR of LoRA",
    paper=(
        "Schulman and Thinking Machines Lab, 2025, [LoRA Without Regret](https://thinkingmachines.ai/blog/lora/), on "
        "the adapters of Hu et al., 2021, [2106.09685](https://arxiv.org/abs/2106.09685)"
    ),
    claim=(
        "The best LR of LoRA is about 10 times that of full fine-tuning, whatever the model; in runs of under about a "
        "hundred steps about 15 times."
    ),
    rule="The 95% interval of the ratio lies between 5 and 20. Partly: the ratio does, its interval does not.",
    number="best LR of LoRA over the best LR of full fine-tuning",
    method=(
        "MiniLM, a pretrained sentence encoder, learns to classify definitions of nouns (recipe finetune_text): 40 "
        "steps of 8 definitions, all weights of its six blocks or adapters of rank 8 on queries and values. AdamW, "
        "linear to zero; the new head has an LR of 0.002 in both. Three LRs each, a factor of four apart; each seed "
        "has other definitions. The best LR is the vertex of a parabola through the validation losses, the ratio the "
        "geometric mean over seeds, its interval that of resampled seeds."
    ),
    seconds=140,
    limits=(
        "Three seeds, and three LRs a factor of four apart, so the interval is rough; one rank, one model, and a run "
        "of 40 steps."
    ),
)
SEEDS = 3
FULL = 1e-4 * 4.0 ** np.arange(3)
ADAPTERS = 1.6e-3 * 4.0 ** np.arange(3)
COMMON = (
    "layers.rules=[{name: head, match: 'head.*', lr: 2e-3}, {name: backbone, match: '*'}]",
    "data.examples=440",
    "data.val_size=120",
    "data.test_examples=100",
    "data.batch_size=8",
    "trainer.max_epochs=1",
    "trainer.checkpoint.monitor=null",
    *BARE,
)
SMALL = ("data.sample=true", "data.examples=200", "data.val_size=40", "trainer.max_steps=2")


def losses(recipe: str, rates: np.ndarray, seeds: int, fast: bool) -> np.ndarray:
    """Return the validation losses at the end of the runs of a recipe, [LRs, seeds]."""
    found = np.empty((len(rates), seeds))
    for row, lr in enumerate(rates):
        for seed in range(seeds):
            words = (f"recipe={recipe}", *COMMON, *(SMALL if fast else ()))
            with trained(*words, f"optimizer.lr={lr:g}", f"seed={seed}") as run:
                found[row, seed] = run.metrics["val/loss"]
    return found


def reproduce(fast: bool = False) -> Result:
    """Fine-tune both ways at all LRs, in the miniature at one LR for a few steps."""
    seeds, part = (1, slice(1)) if fast else (SEEDS, slice(None))
    ways = {
        "all weights of the blocks": (FULL[part], losses("finetune_text", FULL[part], seeds, fast)),
        "LoRA, rank 8": (ADAPTERS[part], losses("finetune_text/lora", ADAPTERS[part], seeds, fast)),
    }
    full, adapters = (
        np.log([vertex(rates, of_way[:, seed]) for seed in range(seeds)]) for rates, of_way in ways.values()
    )
    gaps = adapters - full
    number = float(np.exp(gaps.mean()))
    low, high = interval(seeds, lambda drawn: float(np.exp(gaps[drawn].mean())))
    held: Held = True if low >= 5 and high <= 20 else 5 <= number <= 20 and "partly"
    ratios = ", ".join(f"{ratio:.3g}" for ratio in np.exp(gaps))
    told = (
        f"The best LRs are {np.exp(full.mean()):.2g} for all weights and {np.exp(adapters.mean()):.2g} for LoRA; the "
        f"ratios of the seeds are {ratios}. At these LRs LoRA's validation loss is "
        f"{_tuned(ways, 1):.3f}, that of full fine-tuning {_tuned(ways, 0):.3f}."
    )
    rows: list[dict[str, str | float | None]] = [
        {"way": way, "LR": float(rate), "validation loss": float(loss.mean()), "spread over seeds": spread(loss)}
        for way, (rates, of_way) in ways.items()
        for rate, loss in zip(rates, of_way, strict=True)
    ]
    lines = [over_seeds(way, rates.tolist(), of) for way, (rates, of) in ways.items()]
    picture = Picture("Validation loss against the LR, of both ways", "LR", "validation loss", lines)
    return Result(number, low, high, held, seeds, told, rows, picture)


def _tuned(ways: dict[str, tuple[np.ndarray, np.ndarray]], way: int) -> float:
    losses = list(ways.values())[way][1]
    return float(losses[best(losses)].mean())
