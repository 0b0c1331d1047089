"""An LR that is cut when a metric no longer improves, as the feedback `plateau`."""

from __future__ import annotations

from typing import Any

from lrflow.translate.keys import Keys
from lrflow.translate.translation import Translation

LEAST_FACTOR = 1e-12
"""Product of all cuts in place of a lowest LR of 0."""


def choose_plateau(into: Translation, peak: float, least: float, **arguments: Any) -> None:
    """Choose the feedback that cuts the LR.

    Args:
        into: the translation.
        peak: LR of the optimizer.
        least: LR below which it is not cut.
        arguments: of lrflow's `Plateau`; those that are None are left out.
    """
    into.choose("feedback", "plateau", min_factor=max(least / peak, LEAST_FACTOR) if peak else None, **arguments)


def choose_torch_plateau(keys: Keys, into: Translation, peak: float, monitor: str | None = None) -> None:
    """Choose a ReduceLROnPlateau of torch, on a constant schedule, with torch's defaults where `keys` is silent."""
    into.schedule("constant")
    choose_plateau(
        into,
        peak,
        keys.number("min_lr", 0.0),
        monitor=monitor,
        mode=keys.word("mode", "min", ("min", "max")),
        factor=keys.number("factor", 0.1),
        patience=keys.whole("patience", 10),
        threshold=keys.number("threshold", 1e-4),
        threshold_mode=keys.word("threshold_mode", "rel", ("rel", "abs")),
        cooldown=keys.whole("cooldown", 0),
    )


def metric_of(name: str) -> str:
    """Return lrflow's name of a metric: `val/loss` for `val_loss`."""
    return {"val_loss": "val/loss", "loss/val": "val/loss"}.get(name, name.replace("_", "/", 1))
