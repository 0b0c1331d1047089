"""A translated config: options, values, notes on what was decided, and the keys that have no counterpart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lrflow.config.origins import as_yaml
from lrflow.schedules.tabulated import MOST_POINTS

TARGETS = "lrflow.schedules."
"""Where the classes of shapes are."""


@dataclass
class Translation:
    """A recipe in the making.

    Args:
        source: what was translated, for the first comment.
        base: the recipe of lrflow that it begins with; None: it begins with lrflow's own defaults.
    """

    source: str
    base: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def choose(self, group: str, option: str, **values: Any) -> None:
        """Choose an option of a group, with values of its keys; those that are None are left out."""
        self.options[group] = option
        self.set(group, **values)

    def set(self, group: str, **values: Any) -> None:
        """Set keys of a group; those that are None are left out."""
        given = {key: value for key, value in values.items() if value is not None}
        if given:
            self.values.setdefault(group, {}).update(given)

    def length(self, epochs: int | None = None, steps: int | None = None) -> None:
        """Set the length of the run in epochs or in optimizer steps."""
        self.values.setdefault("trainer", {})["max_epochs"] = epochs
        self.set("trainer", max_steps=steps)

    def schedule(self, option: str, shape: Mapping[str, Any] | None = None, **keys: Any) -> None:
        """Choose a schedule, without a warmup unless `keys` has one.

        Args:
            option: of the group `schedule`.
            shape: arguments of its shape.
            keys: the other keys of the schedule; those that are None are left out.
        """
        self.choose("schedule", option, shape=dict(shape) if shape else None, **{"warmup": 0, **keys})

    def table(self, values: Sequence[float], unit: str = "", **keys: Any) -> None:
        """Choose a schedule that is a table of one LR per step or epoch.

        Args:
            values: fractions of the peak, of step or epoch 0, 1, ...
            unit: of a point: `epochs`, or nothing for steps.
            keys: of the schedule.
        """
        changed = [i for i, value in enumerate(values) if i == 0 or value != values[i - 1]]
        points = [[f"{i} {unit}" if unit else i, float(values[i])] for i in changed]
        self.schedule("tabulated", {"points": points, "between": "hold"}, **keys)
        self.notes.append(f"no form of lrflow's schedules is this curve: it is a table of {len(points):,} points")

    def note(self, text: str) -> None:
        """Add a remark on how the file was read."""
        if text not in self.notes:
            self.notes.append(text)

    def leave(self, key: str, value: object, why: str = "no counterpart") -> None:
        """Name a key that is not translated.

        Args:
            key: as the file spells it.
            value: as the file has it.
            why: what to do about it, or why there is nothing.
        """
        self.left[key] = f"{_short(value)}: {why}"

    def text(self) -> str:
        """Return the recipe as YAML, with comments for what it does not hold."""
        chosen: list[Any] = [{f"override /{group}": name} for group, name in self.options.items()]
        content: dict[str, Any] = {"defaults": ([f"/recipe/{self.base}"] if self.base else []) + chosen}
        content |= self.values
        lines = ["# @package _global_", f"# {self.source}", *(f"# - {note}" for note in self.notes)]
        text = "\n".join(lines) + "\n" + as_yaml(content)
        if self.left:
            text += "\n# Not translated:\n" + "".join(f"#   {line}\n" for line in self.left_lines())
        return text

    def left_lines(self) -> list[str]:
        """Return a line per key that is not translated."""
        return [f"{key} = {reason}" for key, reason in self.left.items()]


def shape(name: str, **arguments: Any) -> dict[str, Any]:
    """Return the node of a shape, `{_target_: lrflow.schedules.NAME, ...}`; arguments that are None are left out."""
    return {"_target_": f"{TARGETS}{name}"} | {key: value for key, value in arguments.items() if value is not None}


def epochs(count: float) -> str:
    """Return a duration in epochs."""
    whole = int(count) if float(count).is_integer() else count
    return f"{whole} epoch{'s' * (whole != 1)}"


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


__all__ = ["MOST_POINTS", "Translation", "epochs", "shape"]
