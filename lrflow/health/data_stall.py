"""The detector of a device that waits for data."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from lrflow.config.schemas.health import OwnResponse, Response
from lrflow.finding import Finding
from lrflow.health.detector import Detector
from lrflow.health.history import History

_LEAST = 50  # steps from which anything is concluded


class DataStall(Detector):
    """Finds a run whose steps wait for data.

    Whatever its action, it only reports: seconds differ from process to process, and from one run to the next.

    Args:
        share: of the time of the last steps.
        seconds: the least time that they took together, so that a short run is not judged by its start.
        action: as in `Detector`.
    """

    reads_validations: ClassVar[bool] = False

    def __init__(self, share: float = 0.4, seconds: float = 20.0, action: OwnResponse | None = None) -> None:
        super().__init__(action)
        self._share, self._seconds = share, seconds

    def response(self, default: Response) -> Response:
        """Return `watch`."""
        return "watch"

    def judge(self, history: History) -> Finding | None:
        """Return the finding if most steps waited, so that a few long waits do not count."""
        seconds, waited = history.recent["seconds"], history.recent["data_seconds"]
        if len(seconds) < _LEAST or seconds.sum() < self._seconds:
            return None
        share = float(waited.sum() / seconds.sum())
        if share < self._share or float(np.median(waited / np.maximum(seconds, 1e-9))) < self._share:
            return None
        message = f"steps wait for data for {share:.0%} of their time, {waited.mean():.3g} s each"
        evidence = {"share": share, "data_seconds": float(waited.mean()), "seconds": float(seconds.mean())}
        return Finding(
            self.kind, history.step, int(history.recent_steps[0]), message, evidence, None, "data.num_workers=4"
        )
