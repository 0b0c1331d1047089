"""Schedule-free against cosine, WSD and merged checkpoints; from what `benchmarks.averaging` measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.averaging import RECIPES
from benchmarks.reproduce.claims import Claim, Held, Picture, Result
from benchmarks.reproduce.grids import best, difference, over_seeds

CLAIM = Claim(
    title="Schedule-free against schedules",
    paper=(
        "Defazio et al., 2024, [2405.15682](https://arxiv.org/abs/2405.15682); WSD's rival, the merge of "
        "checkpoints: Tian et al., 2025, [2507.17634](https://arxiv.org/abs/2507.17634)"
    ),
    claim=(
        "Schedule-free optimizers, whose LR stays constant, end at losses as low as those of cosine and of the newer "
        "schedules, without knowing the length of the run."
    ),
    rule=(
        "On both recipes the upper end of the 95% interval of the difference in loss is at most 1% of the loss, "
        "against cosine, WSD and the merge of checkpoints of a constant LR. Partly: against cosine on at least one "
        "recipe."
    ),
    number="loss of schedule-free minus loss of cosine, on charlm, a character transformer",
    method=(
        "Half of charlm for 300 steps of AdamW and half of cnn for 400 steps of SGD, each way at three peak LRs, each "
        "twice the one before; the losses are those at the LR whose mean validation loss is lowest. `python -m "
        "benchmarks.averaging` measured them; this reads [averaging.json](../benchmarks/averaging.json). The interval "
        "is that of resampled seeds."
    ),
    seconds=1,
    limits=(
        "On charlm the highest LR that was tried is the best of schedule-free, so its own best may be lower yet. One "
        "length of the run for each recipe. [Averaging](averaging.md#what-it-is-worth) has all ways."
    ),
)
MEASURED = Path(__file__).parent.parent / "averaging.json"
OURS, COSINE = "schedule-free", "cosine"
OTHERS = (COSINE, "WSD, 1-sqrt over 20%", "constant + merge, 1-sqrt over 20%")


def reproduce(fast: bool = False) -> Result:
    """Read the measurements; there is no smaller miniature."""
    content = json.loads(MEASURED.read_text(encoding="utf-8"))
    rows: list[dict[str, str | float | None]] = []
    gaps, level = {}, {}
    for recipe in RECIPES:
        ways = {way: np.array(list(of.values())) for way, of in content[recipe]["losses"].items()}  # [LRs, seeds]
        own = ways[OURS][best(ways[OURS])]
        for way in (OURS, *OTHERS):
            losses = ways[way][best(ways[way])]
            gap = gaps[recipe, way] = difference(own, losses)
            level[recipe, way] = gap[2] <= 0.01 * losses.mean()
            factor = float(list(content[recipe]["losses"][way])[best(ways[way])])
            rows.append({
                "recipe": recipe, "way": way, "best LR": factor * RECIPES[recipe].get(way, RECIPES[recipe])["lr"],
                "validation loss": f"{losses.mean():.3f}",
                "schedule-free minus it": "" if way == OURS else f"{gap[0]:.3f} ({gap[1]:.3f} to {gap[2]:.3f})",
            })  # fmt: skip
    against_cosine = [level[recipe, COSINE] for recipe in RECIPES]
    level_with_all = all(level[recipe, way] for recipe in RECIPES for way in OTHERS)
    held: Held = level_with_all or (any(against_cosine) and "partly")
    worse = [f"{way} on {recipe}" for recipe in RECIPES for way in OTHERS if not level[recipe, way]]
    number, low, high = gaps["charlm", COSINE]
    told = f"The differences to cosine are {number:.3f} on charlm and {gaps['cnn', COSINE][0]:.3f} on cnn. " + (
        f"It is not level with {', nor with '.join(worse)}." if worse else "It is level with all ways on both."
    )
    lines = [
        over_seeds(
            way,
            [RECIPES["charlm"].get(way, RECIPES["charlm"])["lr"] * float(factor) for factor in of],
            np.array(list(of.values())),
        )
        for way, of in content["charlm"]["losses"].items()
        if way in (OURS, *OTHERS)
    ]
    picture = Picture("Validation loss on charlm against the peak LR, by way", "peak LR", "validation loss", lines)
    return Result(number, low, high, held, 3, told, rows, picture)
