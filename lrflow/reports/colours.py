"""Colours of learning rates, and lines over a logarithmic axis of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lrflow.display import COLD_TO_HOT, MUTED
from lrflow.sweeps.recorded import Value, number_or_none

NAMED = 12  # trials of a Pareto front that are named by their numbers; of more, none is


def along(rates: Sequence[float], line: Sequence[tuple[float, float]], scale: str) -> list[float]:
    """Where a line of straight pieces, as it is drawn over a logarithmic axis of LRs, is at these rates.

    Args:
        rates: within the line.
        line: its corners.
        scale: of the other axis.
    """
    if not rates:
        return []
    corners = np.array(line, float)
    heights = np.log10(corners[:, 1]) if scale == "log" else corners[:, 1]
    found = np.interp(np.log10(rates), np.log10(corners[:, 0]), heights)
    return (10.0**found if scale == "log" else found).tolist()


def by_rate(rates: Sequence[Value]) -> list[str]:
    """A colour for each learning rate, by its logarithm; grey for what is none."""
    known = [value for rate in rates if (value := number_or_none(rate)) is not None and value > 0]
    low, high = np.log10([min(known), max(known)]) if known else (0.0, 0.0)
    return [
        _between((np.log10(value) - low) / (high - low) if high > low else 0.5)
        if (value := number_or_none(rate)) is not None and value > 0
        else MUTED
        for rate in rates
    ]


def _between(share: float) -> str:
    """The colour at a share of the way from cold to hot."""
    stops = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in COLD_TO_HOT], float)
    where = np.linspace(0, 1, len(stops))
    return "#" + "".join(f"{round(float(np.interp(share, where, column))):02x}" for column in stops.T)
