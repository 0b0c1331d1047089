"""The schedules of Hugging Face's transformers (5.23), by lr_scheduler_type and lr_scheduler_kwargs."""

from __future__ import annotations

import math
from typing import Any

from lrflow.errors import ConfigError, Problem
from lrflow.translate.facts import Facts
from lrflow.translate.keys import Keys
from lrflow.translate.plateau import choose_torch_plateau
from lrflow.translate.translation import MOST_POINTS, Translation


class Schedules:
    """The schedule of training arguments.

    Args:
        keys: the training arguments.
        into: the translation, which gets the schedule.
        peak: learning_rate.
        steps: optimizer steps of the run; None: not known.
        facts: what the user says of the run.
    """

    def __init__(self, keys: Keys, into: Translation, peak: float, steps: int | None, facts: Facts) -> None:
        self.into, self.peak, self.steps, self.facts = into, peak, steps, facts
        self.name = keys.word("lr_scheduler_type", "linear", [*NAMES])
        self.more = keys.inside("lr_scheduler_kwargs")
        self.warmup = self._warmup(keys)

    def choose(self) -> None:
        """Choose the schedule, and name arguments of it that are not translated."""
        getattr(self, NAMES[self.name])()
        self.more.rest(self.into, (), {}, f"the schedule {self.name}")

    def _warmup(self, keys: Keys) -> Any:
        """Return the warmup, as a number of steps where the run's are known, otherwise as steps or as a share."""
        given, share = keys.number("warmup_steps", 0), keys.number("warmup_ratio", 0.0)
        if given >= 1:
            return int(given)
        share = given or share
        if not share:
            return 0
        if self.steps is not None:
            return math.ceil(self.steps * share)  # as transformers computes it, in binary floats
        self.into.note("transformers rounds a warmup ratio up; --samples and --devices make it a number of steps")
        return f"{share * 100:.12g}%"

    def _number(self) -> tuple[int, int]:
        """Return the steps of the run and of its warmup, which a table needs.

        Raises:
            ConfigError: they are not known, or too many.
        """
        if self.steps is None:
            self.facts.need(
                "--samples", "--devices", reason=f"{self.name} with these arguments becomes a table of steps"
            )
            raise ConfigError([Problem("max_steps", "the steps of the run are not known")])
        if self.steps > MOST_POINTS:
            message = f"this schedule would be a table of more than {MOST_POINTS:,} points"
            raise ConfigError([Problem("lr_scheduler_type", message, self.name)])
        return self.steps, self.warmup

    def _set(self, option: str, shape: dict[str, Any] | None = None, **keys: Any) -> None:
        rising: dict[str, Any] = {"warmup": self.warmup}
        if self.warmup:
            rising["warmup_start"] = 0.0  # step t of a warmup of w has t / w of the peak
        if isinstance(self.warmup, str):
            rising["rounding"] = "up"
        self.into.schedule(option, shape, **{**rising, **keys})

    def _linear(self) -> None:
        self._set("linear")

    def _constant(self) -> None:
        if self.warmup:
            self.into.note("lr_scheduler_type=constant has no warmup in transformers, whatever warmup_steps says")
        self.into.schedule("constant")

    def _constant_with_warmup(self) -> None:
        self._set("constant")

    def _cosine(self) -> None:
        self._waves(0.0)

    def _cosine_with_min_lr(self) -> None:
        self._waves(self._least())

    def _least(self) -> Any:
        """Return the floor, an LR or a fraction of the peak."""
        least, rate = self.more.number("min_lr"), self.more.number("min_lr_rate")
        if (least is None) == (rate is None):
            self.more.wrong("min_lr", "needs one of min_lr and min_lr_rate")
        return rate if least is None else f"{least!r} lr"

    def _waves(self, floor: Any) -> None:
        waves = self.more.number("num_cycles", 0.5)
        if waves == 0.5:
            self._set("cosine", floor=floor)
            return
        steps, warmup = self._number()
        low = self._fraction(floor)

        def value(step: int) -> float:
            if step < warmup:
                return step / max(1, warmup)
            wave = 0.5 * (1.0 + math.cos(math.pi * waves * 2.0 * (step - warmup) / max(1, steps - warmup)))
            return max(0.0, wave * (1 - low) + low)

        self.into.table([value(step) for step in range(steps)])

    def _fraction(self, floor: Any) -> float:
        return float(floor.removesuffix(" lr")) / self.peak if isinstance(floor, str) else float(floor)

    def _cosine_with_restarts(self) -> None:
        cycles = self.more.whole("num_cycles", 1, 1)
        if cycles == 1:
            self._set("cosine")
            return
        steps, warmup = self._number()
        if (steps - warmup) % cycles == 0:
            self._set("warm_restarts", {"period": (steps - warmup) // cycles})
            return

        def value(step: int) -> float:
            if step < warmup:
                return step / max(1, warmup)
            progress = (step - warmup) / max(1, steps - warmup)
            return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((cycles * progress) % 1.0))))

        self.into.table([value(step) for step in range(steps)])

    def _polynomial(self) -> None:
        end, power = self.more.number("lr_end", 1e-7), self.more.number("power", 1.0)
        self._set("polynomial", {"power": power}, floor=f"{end!r} lr")
        self.into.note(f"transformers' polynomial ends at lr_end={end:g}, also where the file does not say so")

    def _inverse_sqrt(self) -> None:
        timescale = self.more.whole("timescale", None, 1)
        self._set("inverse_sqrt", {"timescale": timescale or self.warmup or 10_000})

    def _cosine_warmup_with_min_lr(self) -> None:
        """The warmup has (t + 1) / w, or rises from warmup_lr_rate; the cosine is one step ahead."""
        floor, rate = self._least(), self.more.number("warmup_lr_rate")
        waves = self.more.number("num_cycles", 0.5)
        if rate is None and waves == 0.5:
            self._set("cosine", floor=floor, count_from=1)
            return
        steps, warmup = self._number()
        low = self._fraction(floor)

        def value(step: int) -> float:
            if step < warmup:
                if rate is None:
                    return (step + 1.0) / max(1.0, warmup)
                return rate + (1.0 - rate) * step / max(1, warmup - 1)
            wave = 0.5 * (1.0 + math.cos(math.pi * waves * 2.0 * (step - warmup + 1.0) / max(1.0, steps - warmup)))
            return max(0.0, wave * (1 - low) + low)

        self.into.table([value(step) for step in range(steps)])

    def _warmup_stable_decay(self) -> None:
        decay = self.more.whole("num_decay_steps")
        if decay is None:
            self.more.wrong("num_decay_steps", "expected a number of steps")
        stable, low = self.more.whole("num_stable_steps"), self.more.number("min_lr_ratio", 0.0)
        rise = self.more.word("warmup_type", "linear", ("linear", "cosine", "1-sqrt"))
        fall = self.more.word("decay_type", "cosine", ("linear", "cosine", "1-sqrt"))
        waves = self.more.number("num_cycles", 0.5)
        whole = stable is None or (self.steps, self.warmup + stable + decay) == (self.steps, self.steps)
        if whole and rise != "1-sqrt" and (fall != "cosine" or waves == 0.5):
            more = {"warmup_start": low, "warmup_shape": rise} if self.warmup else {}
            self._set("constant", cooldown=decay, cooldown_shape=fall, floor=low, **more)
            return
        steps, warmup = self._number()
        kept = steps - warmup - decay if stable is None else stable
        self.into.table([_stable(step, warmup, kept, decay, low, rise, fall, waves) for step in range(steps)])

    def _reduce_lr_on_plateau(self) -> None:
        choose_torch_plateau(self.more, self.into, self.peak)
        self.into.note("the LR follows val/loss: with another metric set feedback.monitor and feedback.mode")


def _stable(step: int, warmup: int, kept: int, decay: int, low: float, rise: str, fall: str, waves: float) -> float:
    """Return the LR of transformers' WSD schedule as a fraction of its peak."""
    if step < warmup:
        done = step / max(1, warmup)
        rising = {"linear": done, "cosine": 0.5 * (1.0 - math.cos(math.pi * done)), "1-sqrt": 1 - math.sqrt(1 - done)}
        return max(0.0, rising[rise] * (1.0 - low) + low)
    if step < warmup + kept:
        return 1.0
    if step < warmup + kept + decay:
        done = (step - warmup - kept) / max(1, decay)
        wave = 0.5 * (1.0 + math.cos(math.pi * waves * 2.0 * done))
        falling = {"linear": 1.0 - done, "cosine": wave, "1-sqrt": 1.0 - math.sqrt(done)}
        return max(0.0, falling[fall] * (1.0 - low) + low)
    return low


NAMES = {
    name: f"_{name}"
    for name in [
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
        "reduce_lr_on_plateau",
        "cosine_with_min_lr",
        "cosine_warmup_with_min_lr",
        "warmup_stable_decay",
    ]
}
"""Methods of `Schedules` by lr_scheduler_type."""
