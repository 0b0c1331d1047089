"""The ranges of the arguments of each guard, for its class and for config checks that do not import torch."""

from __future__ import annotations

from collections.abc import Mapping

from lrflow.limits import Limit, number, whole

_POSITIVE = number(0, above=True)

LIMITS: Mapping[str, Mapping[str, Limit]] = {
    "Norm": {"max_norm": _POSITIVE},
    "Value": {"clip_value": _POSITIVE},
    "AGC": {"clip_factor": _POSITIVE, "eps": _POSITIVE},
    "AdaGC": {"max_norm": _POSITIVE, "ratio": number(1), "beta": number(0, 1, below=True), "warmup": whole(0)},
    "ZClip": {
        "threshold": _POSITIVE,
        "alpha": number(0, 1, below=True),
        "warmup": whole(2),
        "max_norm": _POSITIVE.or_null(),
    },
    "Skip": {"sigma": _POSITIVE, "window": whole(2), "max_norm": _POSITIVE.or_null()},
}
"""The arguments of each class in `lrflow.clip`."""
