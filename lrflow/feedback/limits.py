"""The allowed values of each feedback's settings, for its class and for config checks that do not import torch."""

from __future__ import annotations

from collections.abc import Mapping

from lrflow.limits import Limit, number, one_of, whole

_SHARE = number(0, 1, above=True, below=True)
_IMPROVEMENT = {
    "mode": one_of("min", "max").or_null(),
    "threshold": number(0),
    "threshold_mode": one_of("rel", "abs"),
}

BOUNDS = {"min_factor": number(0, 1, above=True), "max_factor": number(1)}
"""The bounds, which every feedback has."""

LIMITS: Mapping[str, Mapping[str, Limit]] = {
    "Plateau": {
        **_IMPROVEMENT,
        "factor": _SHARE,
        "patience": whole(0),
        "cooldown": whole(0),
    },
    "Greedy": {
        **_IMPROVEMENT,
        "factor": _SHARE,
        "patience": whole(0),
        "window": whole(1),
        "cooldown": whole(0),
        "warmup": whole(0),
        "reset": whole(1).or_null(),
    },
    "KLAdaptive": {
        "desired_kl": number(0, above=True),
        "band": number(1, above=True),
        "factor": number(1, above=True),
    },
    "Hypergradient": {"beta": _SHARE},
    "SASA": {
        "factor": _SHARE,
        "significance": _SHARE,
        "keep": number(0, 1, above=True),
        "min_samples": whole(4).or_null(),
    },
}
"""The settings of each class in `lrflow.feedback`."""
