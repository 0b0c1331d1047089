"""The best LR falls as the run becomes longer; from what `benchmarks.transfer` measured."""

from __future__ import annotations

from benchmarks.reproduce.claims import Claim, Line, Picture, Result, verdict
from benchmarks.transfer import kept

CLAIM = Claim(
    title="The best LR of a longer run",
    paper="Bjorck et al., 2024, [2409.19913](https://arxiv.org/abs/2409.19913)",
    claim="The best LR of a language model falls with the tokens of the run, to the power -0.32.",
    rule=(
        "The exponent on charlm, where no text is seen twice, is below 0 and its interval of 95% contains -0.32; and "
        "so does that of the training loss on digits, whose data are seen again. Partly: one of the two, or both "
        "intervals lie below 0."
    ),
    number="exponent of the best LR on charlm",
    method=(
        "`python -m benchmarks.transfer charlm` trains a character transformer of two blocks for 50 to 400 steps, at "
        "five LRs, and `digits` a perceptron for 50 to 1,600 steps, at 14 LRs, both with AdamW and a cosine; this "
        "reads [transfer.json](../benchmarks/transfer.json). The best LR is the vertex of a parabola through the "
        "losses around the lowest; the exponent is fitted by least squares, and its interval holds 95% of resampled "
        "seeds."
    ),
    seconds=2,
    limits="[Scaling](scaling.md#what-was-measured) says what it costs not to scale.",
)


def reproduce(fast: bool = False) -> Result:
    """Read the measurements; there is no smaller miniature."""
    rows, lines, exponents = list[dict[str, str | float | None]](), list[Line](), {}
    for measured in kept():
        slope, low, high = exponents[measured.problem, measured.name] = measured.exponent()
        best = [float(row["lr"]) for row in measured.rows()]
        rows.append({
            "problem": measured.problem, "loss": measured.name,
            "steps": f"{measured.lengths[0]} to {measured.lengths[-1]}",
            "seeds": measured.losses.shape[1], "exponent": slope, "lowest": low, "highest": high,
        })  # fmt: skip
        lines.append(Line(f"{measured.problem}, {measured.name}", measured.lengths, best))
        if measured.problem == "charlm":
            seeds, start, lengths = measured.losses.shape[1], best[0], measured.lengths
    lines.append(
        Line("steps ^ -0.32", lengths, [start * (x / lengths[0]) ** -0.32 for x in lengths], style="reference")
    )
    here, digits = exponents["charlm", "validation loss"], exponents["digits", "training loss"]
    fits = [low <= -0.32 <= high and high < 0 for _, low, high in (here, digits)]
    held = verdict(fits) or (max(here[2], digits[2]) < 0 and "partly")
    told = f"On digits it is {digits[0]:.2f} ({digits[1]:.2f} to {digits[2]:.2f}) by training loss."
    picture = Picture("The best LR against the steps of the run", "steps", "best LR", lines)
    return Result(*here, held, seeds, told, rows, picture)
