"""The ranges of the arguments of lrflow's detectors, and the actions that make sense for what each of them finds."""

from __future__ import annotations

from collections.abc import Mapping

from lrflow.limits import Limit, number, one_of, whole

_POSITIVE = number(0, above=True)
_SHARE = number(0, 1)
_WORDS = ("watch", "stop", "ignore")  # a return to an earlier state helps against none of these
_ENDS = one_of(*_WORDS).or_null()

LIMITS: Mapping[str, Mapping[str, Limit]] = {
    "Diverging": {"growth": _POSITIVE},
    "TooHigh": {"lost": _POSITIVE, "growth": _POSITIVE},
    "Spiking": {"deviations": _POSITIVE, "lost": _POSITIVE},
    "WarmupTooShort": {"rise": _POSITIVE, "action": _ENDS},
    "Oscillating": {"scatter": _POSITIVE},
    "TooLow": {
        "correlation": number(-1, 1),
        "straightness": _SHARE,
        "factor": number(1),
        "action": one_of(*_WORDS, "raise").or_null(),
    },
    "Overfitting": {"rise": number(0), "patience": whole(1), "action": one_of(*_WORDS, "cooldown").or_null()},
    "Plateau": {
        "patience": _SHARE,
        "improvement": number(0),
        "left": _SHARE,
        "action": one_of(*_WORDS, "cooldown", "restart", "kick").or_null(),
    },
    "DeadGroup": {"factor": number(1), "excess": number(1), "largest": number(0), "action": _ENDS},
    "DataStall": {
        "share": number(0, 1, above=True),
        "seconds": number(0),
        "action": one_of("watch", "ignore").or_null(),
    },
}
"""The arguments of each class in `lrflow.health`, as far as they have limits."""
