"""Schemas of the group `callbacks`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, PlainValidator, Tag
from pydantic_core import PydanticCustomError

from lrflow.config.schemas import types as f
from lrflow.config.schemas.named import NamedNodes
from lrflow.config.schemas.objects import Node
from lrflow.limits import is_whole
from lrflow.metric import LOSS
from lrflow.schedules import Duration

EARLY_STOPPING = "lrflow.callbacks.EarlyStopping"

End = Literal["stop", "cooldown"]
"""How a run ends before its plan does: at once, or after its LR has decayed to the floor."""

_COUNTED = r"\s*(\d+)\s*(?:validations?)?\s*"
_VALIDATIONS = re.compile(_COUNTED)


def patience_of(given: Any) -> int | Duration:
    """Return a patience as a number of validations, `5` or `5 validations`, or as a duration, `3 epochs` or `10%`.

    Raises:
        ValueError: it is neither, or none at all.
    """
    text = _VALIDATIONS.fullmatch(given) if isinstance(given, str) else None
    patience = int(text.group(1)) if text else given if is_whole(given) else Duration.parse(given)
    if (patience if isinstance(patience, int) else patience.value) <= 0:
        raise ValueError("a patience is at least 1 validation")
    return patience


def _patience(value: Any) -> int | Duration:
    try:
        return patience_of(value)
    except ValueError:
        sentence = "a number of validations (5), or a duration (500 steps, 3 epochs, 10%)"
        raise PydanticCustomError("expected", "expected {sentence}", {"sentence": sentence}) from None


class CallbackNode(Node):
    """A callback: `_target_`, a `pytorch_lightning.Callback`, and its arguments."""


class EarlyStopping(CallbackNode):
    """The end of a run whose metric no longer improves; see `lrflow.callbacks.EarlyStopping`."""

    monitor: f.Text = LOSS
    """Metric that is read after each validation."""
    mode: f.Mode | None = None
    """Whether a lower or a higher value is better; None: the mode set elsewhere for the metric, or guessed by name."""
    patience: Annotated[Any, PlainValidator(_patience), f.Json(f.any_of(f.INTERVAL, f.pattern(_COUNTED)))] = 5
    """Validations, or a duration, without an improvement after which the run ends."""
    min_delta: f.NotNegative = 0.0
    """Smallest change of the metric that is an improvement."""
    then: Annotated[End, f.one_of(*get_args(End))] = "stop"
    """How the run ends."""
    then_for: f.Interval = Duration.parse("10%")
    """Length of the cooldown."""


def _kind(value: Any) -> str:
    target = value.get("_target_") if isinstance(value, Mapping) else getattr(value, "target", None)
    return "<own>" if target == EARLY_STOPPING else "<any>"


AnyCallback = Annotated[
    Annotated[EarlyStopping, Tag("<own>")] | Annotated[CallbackNode, Tag("<any>")], Discriminator(_kind)
]


class Callbacks(NamedNodes):
    """Callbacks of a run by name, besides lrflow's own; null switches a callback off."""

    __pydantic_extra__: dict[str, AnyCallback | None]
