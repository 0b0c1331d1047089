"""lrflow's detectors without torch: the ranges of their arguments, their actions, and what they need measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from lrflow.config.schemas.health import OnOverfitting, OnPlateau, OnTooLow
from lrflow.limits import Limit, number, one_of, whole

_POSITIVE = number(0, above=True)
_SHARE = number(0, 1)


def _actions(*words: str) -> Limit:
    return one_of("watch", *words, "ignore").or_null()


def _as_short(form: Any) -> Limit:
    """Return the limit to the actions of a short form, such as `health.on_plateau`."""
    return _actions(*(word for word in get_args(form) if word != "none"))


_ENDS = _actions("stop")
_RETURNS = _actions("stop", "recover")  # no LR that is too high is raised

LIMITS: Mapping[str, Mapping[str, Limit]] = {
    "Diverging": {"growth": _POSITIVE, "action": _RETURNS},
    "TooHigh": {"lost": _POSITIVE, "growth": _POSITIVE, "action": _RETURNS},
    "Spiking": {"deviations": _POSITIVE, "lost": _POSITIVE, "action": _RETURNS},
    "WarmupTooShort": {"rise": _POSITIVE, "action": _ENDS},
    "Oscillating": {"scatter": _POSITIVE, "action": _actions("stop", "recover", "cooldown")},
    "TooLow": {
        "correlation": number(-1, 1),
        "straightness": _SHARE,
        "factor": number(1),
        "action": _as_short(OnTooLow),
    },
    "Overfitting": {"rise": number(0), "patience": whole(1), "action": _as_short(OnOverfitting)},
    "Plateau": {
        "patience": _SHARE,
        "improvement": number(0),
        "left": _SHARE,
        "action": _as_short(OnPlateau),
    },
    "DeadGroup": {"factor": number(1), "excess": number(1), "largest": number(0), "action": _ENDS},
    "DataStall": {
        "share": number(0, 1, above=True),
        "seconds": number(0),
        "action": _actions(),
    },
}
"""The arguments of each class in `lrflow.health`, as far as they have limits."""

READ_NORMS = frozenset({"TooLow", "DeadGroup"})
"""The detectors of `lrflow.health` that find nothing unless the norms of each group are measured."""
