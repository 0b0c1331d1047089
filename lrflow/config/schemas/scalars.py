"""Schema of the section `scalars`: numbers besides the LR that the plan moves, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, PrivateAttr
from pydantic_core import PydanticCustomError

from lrflow.config.schemas import types as f
from lrflow.config.schemas.objects import NO_TIME, MovingValue
from lrflow.limits import is_number
from lrflow.plan.scalars import PlanScalar
from lrflow.schedules import Curve
from lrflow.schedules.part import PartOfRun
from lrflow.schedules.serialization import from_spec

Number = Annotated[float, f.expects("a finite number", is_number, {"type": "number"})]

OF_AVERAGE = "average.decay"
"""What `sets` names to move the decay of `average=ema`."""


class Scalar(MovingValue):
    """A number that the plan moves from one value to another; the module reads it with `self.planned(NAME)`.

    Without a warmup it is `from` where its shape is 1 and `to` where it is 0; with one, it rises from `from` to `to`.
    """

    start_value: Number = Field(alias="from")
    """Value at step 0."""
    end_value: Number | None = Field(None, alias="to")
    """Value to which it moves; None: it stays."""
    start: f.Within = NO_TIME
    """Duration before it begins to move."""
    over: f.Interval | None = None
    """Duration of its way; None: to the end of the run."""
    hold: f.Time | None = None
    """Interval between changes, such as 1 epoch; None: it changes at each step."""
    sets: f.Texts | None = None
    """Attributes that it sets at each step: globs such as *.dropout.p, loss.label_smoothing; or average.decay."""

    _planned: PlanScalar | None = PrivateAttr(None)

    @property
    def targets(self) -> tuple[str, ...]:
        """What it sets: patterns of attributes, and `average.decay`."""
        return (self.sets,) if isinstance(self.sets, str) else tuple(self.sets or ())

    @property
    def ends(self) -> dict[str, float]:
        """The values between which it moves, by key: `from`, and `to` if it is given."""
        last = {} if self.end_value is None else {"to": self.end_value}
        return {"from": self.start_value, **last}

    def planned(self, name: str) -> PlanScalar:
        """Return the scalar of a plan; the first call, by the checks of the config, builds it.

        Args:
            name: its name in `scalars`.

        Raises:
            ConfigError: every problem of its curve.
        """
        if self._planned is None:
            first, last = self.start_value, self.start_value if self.end_value is None else self.end_value
            rises = bool(self.warmup.value)
            low, high = min(first, last), max(first, last)
            self._planned = PlanScalar(name, self._curve(f"scalars.{name}"), low, high, rises != (first <= last))
        return self._planned

    def _curve(self, key: str) -> Curve:
        from lrflow.config.targets import locate

        given = self.parsed()
        spec = {name: given[name] for name in (*MovingValue.model_fields, "hold") if given.get(name) is not None}
        usual = "Constant" if self.warmup.value or self.cooldown.value else "Linear"
        usual = "Constant" if self.end_value in (None, self.start_value) else usual
        spec.setdefault("shape", {"_target_": f"lrflow.schedules.{usual}"})
        if self.warmup.value:
            spec["warmup_start"] = 0.0
        curve = from_spec({"_target_": "lrflow.schedules.Schedule", **spec}, key, locate)
        return PartOfRun(curve, self.start, self.over) if self.start.value or self.over else curve


def _constant(value: Any) -> Any:
    """Return the section of a scalar, which may be written as a number."""
    if is_number(value):
        return {"from": value}
    if value is None or isinstance(value, Mapping | Scalar):
        return value
    sentence = "a number, or a mapping such as {from: 0.2, to: 0}"
    raise PydanticCustomError("expected", "expected {sentence}", {"sentence": sentence})


Scalars = dict[str, Annotated[Scalar | None, f.BeforeValidator(_constant), f.Json({"type": "number"}, beside=True)]]
