"""Levels of a schedule given as an LR, `1e-6 lr`, in place of a fraction of the peak."""

from __future__ import annotations

import math
import re

_NUMBER = r"(\d+(?:_\d+)*\.?\d*(?:e[+-]?\d{1,3})?|\.\d+(?:e[+-]?\d{1,3})?)"
TEXT = rf"\s*{_NUMBER}\s*lr\s*(?:of\s*{_NUMBER}\s*)?"
"""Regular expression of a level that is an LR, in any case: `1e-6 lr`; in plans `1e-06 lr of 0.001`."""

_TEXT = re.compile(TEXT, re.IGNORECASE)


class AbsoluteLR(float):
    """An LR in place of a fraction of the peak; as a float it is the fraction that it is of the peak, at most 1.

    A schedule is the same for groups with different peaks, so the fraction is known only once the schedule belongs to
    a group (`Curve.of_peak`). Before, the peak counts as 1.

    Args:
        lr: at least 0.
        peak: peak LR of the group, above 0; None: not known yet.
    """

    lr: float
    peak: float | None

    def __new__(cls, lr: float, peak: float | None = None) -> AbsoluteLR:
        """Make the float, which is the fraction of the peak."""
        level = super().__new__(cls, min(lr if peak is None else lr / peak, 1.0))
        level.lr, level.peak = float(lr), peak
        return level

    def __getnewargs__(self) -> tuple[float, float | None]:  # type: ignore[override]  # for copies
        return self.lr, self.peak

    @classmethod
    def parse(cls, text: str) -> AbsoluteLR | None:
        """Return the level that a text such as `1e-6 lr` gives; None if it is no such text."""
        match = _TEXT.fullmatch(text)
        if match is None:
            return None
        lr, peak = (None if number is None else float(number) for number in match.groups())
        if lr is None or not math.isfinite(lr) or peak == 0.0:
            return None
        return cls(lr, peak)

    @property
    def declared(self) -> str:
        """The level as a config gives it."""
        return f"{self.lr!r} lr"

    def __str__(self) -> str:
        return self.declared if self.peak is None else f"{self.declared} of {self.peak!r}"
