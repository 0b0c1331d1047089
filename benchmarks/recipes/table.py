"""The table of a study in the README of its recipe."""

from __future__ import annotations

import math
import re
import statistics

from benchmarks.recipes.study import Study, spread


def table(study: Study) -> str:
    """Return means and standard deviations over seeds as a Markdown table."""
    tuned = study.tune["key"] if study.tune else None
    within = study.tune.get("within") if study.tune else None
    extra = [f"steps to {study.reach:g}"] if study.reach is not None else []
    extra += [f"decades within {within:g}"] if within is not None else []
    heads = ["", *([f"`{tuned}`"] if tuned else []), *study.metrics, *extra, "seeds", "seconds per run"]
    rows = [heads, ["---"] * len(heads)]
    for variant in study.variants:
        if runs := study.reported(variant):
            choice = (
                [study.chosen(variant) or ""] if tuned and variant in study.tuned_variants else [""] if tuned else []
            )
            cells = [cell(study.values(variant, metric)) for metric in study.metrics.values()]
            cells += [cell(study.steps(variant), "did not")] if study.reach is not None else []
            if within is not None:
                cells.append(f"{study.decades(variant):.1f}" if variant in study.tuned_variants else "")
            seconds = statistics.fmean(run["seconds"] for run in runs if "seconds" in run) if runs else math.nan
            rows.append([variant, *choice, *cells, str(len(runs)), f"{seconds:.0f}"])
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows)


def cell(values: list[float], failed: str = "diverged") -> str:
    """Format mean and standard deviation of the finite values, and the number of the others.

    Args:
        values: one value per run.
        failed: word for runs without a finite value.
    """
    held = [value for value in values if math.isfinite(value)]
    lost = f" ({len(values) - len(held)} of {len(values)} {failed})" if len(held) < len(values) else ""
    if not held:
        return f"-{lost}"
    mean = statistics.fmean(held)
    digits = 1 if abs(mean) >= 10 else 4
    told = f"{mean:.{digits}f}" + (f" ± {spread(held):.{digits}f}" if len(held) > 1 else "")
    return told + lost


def marks(study: Study) -> tuple[str, str]:
    """Return the comments that enclose the table of a study in a README."""
    return f"<!-- measured by {study.command} -->", f"<!-- end of {study.name} -->"


def write_table(study: Study) -> str:
    """Write the table into the README of the recipe, if it has the comments for it, and return the table."""
    text, readme = table(study), study.recipe / "README.md"
    first, last = marks(study)
    if readme.is_file() and first in (content := readme.read_text()):
        block = f"{first}\n{text}\n{last}"
        readme.write_text(re.sub(f"{re.escape(first)}.*?{re.escape(last)}", lambda _: block, content, flags=re.DOTALL))
    return text
