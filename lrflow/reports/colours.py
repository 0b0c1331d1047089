"""How figures look: the colours of curves side by side and of learning rates, the scales of axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from lrflow.sweeps.recorded import Value, number

# Okabe and Ito (2008), each as light as is read on white and on black.
CURVES = ("#1683c4", "#d9641e", "#12a07a", "#c46fa3", "#b58900", "#7a7fd1")
COLD_TO_HOT = ("#3b6fd4", "#2a9d9d", "#8aa53a", "#d99a2b", "#d1493f")  # the lowest LR to the highest

INK, FAINT = "#222222", "#e6e6e6"  # of a picture on white
MUTED = "#8d949c"  # what is beside the point, on white and on black
NAMED = 12  # trials of a Pareto front that are named by their numbers; of more, none is
SPAN = 20  # ratio of the largest to the smallest value from which on an axis is logarithmic


def scale_of(values: Iterable[float]) -> str:
    """Whether an axis of these values is `log` or `linear`."""
    known = [value for value in values if math.isfinite(value)]
    return "log" if known and min(known) > 0 and max(known) / min(known) > SPAN else "linear"


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
    known = [value for rate in rates if (value := number(rate)) is not None and value > 0]
    low, high = np.log10([min(known), max(known)]) if known else (0.0, 0.0)
    return [
        _between((np.log10(value) - low) / (high - low) if high > low else 0.5)
        if (value := number(rate)) is not None and value > 0
        else MUTED
        for rate in rates
    ]


def _between(share: float) -> str:
    """The colour at a share of the way from cold to hot."""
    stops = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in COLD_TO_HOT], float)
    where = np.linspace(0, 1, len(stops))
    return "#" + "".join(f"{round(float(np.interp(share, where, column))):02x}" for column in stops.T)
