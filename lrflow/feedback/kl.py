"""KL-adaptive: keep the measured KL divergence of a policy near a target."""

from __future__ import annotations

from typing import Any, ClassVar

from lrflow.feedback.feedback import MetricFeedback, refuse
from lrflow.feedback.limits import LIMITS
from lrflow.limits import outside
from lrflow.schedules.durations import DurationLike


class KLAdaptive(MetricFeedback):
    """Divides the LR by `factor` where the KL is more than `band` times its target, multiplies it below a `band`-th.

    The LR in the place of PPO's KL penalty (Schulman et al., 2017, arXiv 1707.06347, section 4, there with a band of
    1.5 and a factor of 2), with the numbers of RSL-RL and rl_games. A KL of exactly 0 says that nothing was compared
    yet and moves nothing, as in RSL-RL; nor does one that is not a number, while an infinite one lowers.

    Args:
        monitor: the metric that the module logs.
        desired_kl: the target; above 0.
        band: how many times it may be off in either direction; above 1.
        factor: of one move; above 1.
        min_factor: lower bound.
        max_factor: upper bound.
        every: a duration; None: an epoch.

    Raises:
        ConfigError: values out of range.
    """

    nonfinite: ClassVar[str] = "the factor stays where it is nan, and falls where it is inf"

    def __init__(
        self,
        monitor: str = "train/kl",
        desired_kl: float = 0.01,
        band: float = 2.0,
        factor: float = 1.5,
        min_factor: float = 0.01,
        max_factor: float = 10.0,
        every: DurationLike | None = None,
    ) -> None:
        refuse(outside(LIMITS["KLAdaptive"], locals(), "feedback"))
        super().__init__(monitor, min_factor, max_factor, every)
        self._desired, self._band, self._step = desired_kl, band, factor

    def describe(self) -> str:
        """What it does, in one line."""
        low, high = self._desired / self._band, self._desired * self._band
        return f"KL-adaptive on {self.monitor}: x{self._step:g} below {low:g}, /{self._step:g} above {high:g}"

    def update(self, value: float) -> None:
        """Take the next reading, and move the factor where it is out of the band."""
        if value > self._desired * self._band:
            self.set(self.factor / self._step)
        elif 0 < value < self._desired / self._band:
            self.multiply(self._step)

    def state_dict(self) -> dict[str, Any]:
        """The factor."""
        return {"factor": self.factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.set(state["factor"])
