"""The pictures of the documentation that show plans, drawn by the code that draws `task=plan`.

Each picture records the fingerprints of its plans and some of their LRs, so that an outdated one is found without
comparing pixels. `python docs/catalogue.py` redraws outdated ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from lrflow.config import compose
from lrflow.display import CURVES, GREY, INK, plain_axes
from lrflow.errors import ConfigError
from lrflow.plan import Plan, PlanGroup
from lrflow.plan.figure import arrange, draw
from lrflow.plan.table import lines
from lrflow.schedules import Continued, Cosine, Curve, Horizon, Schedule
from lrflow.schedules.ramps import COOLDOWNS, WARMUPS
from lrflow.schedules.serialization import from_spec, to_spec
from lrflow.tasks.plan import compile_plan

IMAGES = Path(__file__).parent / "images"

RUN = ("task=plan", "data=digits", "horizon.steps=1000", "horizon.steps_per_epoch=50")
"""The run of every picture but the one of resumption: 20 epochs."""
ONE_GROUP = (
    *RUN,
    "model=logistic",
    "layers=uniform",
    "optimizer=momentum",
    "optimizer.lr=1.0",
    "optimizer.weight_decay=0.0",
)
"""One group with a peak of 1, so that its LRs are the multipliers."""

SAMPLES, CLOSE = 41, 2e-3
"""LRs of each line that a picture carries, and how far apart, as a fraction of the highest, they count as equal."""

ContinueMode = Literal["keep", "rescale", "extend", "decay_now", "rewarm"]


@dataclass(frozen=True)
class Picture:
    """A picture and what it is of.

    Args:
        name: its path below the folder of images.
        plans: what it shows.
        figure: draws it.
    """

    name: str
    plans: tuple[Plan, ...]
    figure: Callable[[], Figure]
    command: tuple[str, ...] = ()
    """What is typed to see it."""

    @property
    def content(self) -> dict[str, Any]:
        """What tells whether it is current: the palette, fingerprints, and LRs, which change with a formula."""
        steps = [np.linspace(0, plan.horizon.steps - 1, SAMPLES).round() for plan in self.plans]
        rates = [plan.lr(at).T.tolist() for plan, at in zip(self.plans, steps, strict=True)]
        return {"palette": list(CURVES), "plans": [plan.fingerprint for plan in self.plans], "rates": rates}

    @property
    def lines(self) -> int:
        """How many different curves its first plan has."""
        return len(lines(self.plans[0]))

    def is_current(self, images: Path = IMAGES) -> bool:
        """Whether the file shows these plans."""
        try:
            with Image.open(images / self.name) as image:
                drawn = json.loads(image.info["lrflow"])
        except (OSError, KeyError, ValueError):
            return False
        now = self.content
        same = all(drawn.get(key) == now[key] for key in ("palette", "plans"))
        return same and all(
            len(old) == len(new) and np.allclose(old, new, rtol=0.0, atol=CLOSE * np.max(new))
            for old, new in zip(drawn["rates"], now["rates"], strict=True)
        )

    def write(self, images: Path = IMAGES) -> None:
        """Draw it."""
        (images / self.name).parent.mkdir(parents=True, exist_ok=True)
        content = {**self.content, "rates": [[_rounded(line) for line in plan] for plan in self.content["rates"]]}
        metadata = {"Software": None, "lrflow": json.dumps(content, separators=(",", ":"))}
        self.figure().savefig(images / self.name, dpi=100, metadata=metadata)


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def plan_of(*overrides: str) -> Plan:
    """The plan of a command line: `task=plan` without its printing."""
    return compile_plan(compose(overrides))


def small(plan: Plan) -> Figure:
    """What `task=plan` draws, at a third of its size and without words."""
    figure = draw(plan)
    figure.set_size_inches(4.2, 2.1 + 0.9 * len(plan.also))
    for axes in figure.axes:
        for child in [*axes.child_axes, *axes.texts, axes.get_legend()]:
            if child is not None:
                child.remove()
        axes.set_title("", loc="left")
        axes.set_xlabel("")
        axes.set_ylabel(axes.get_ylabel() if plan.also else "", fontsize=8)
        axes.tick_params(labelsize=8)
    arrange(figure, figure.axes)
    return figure


def wide(plan: Plan) -> Figure:
    """What `task=plan` draws, a little smaller."""
    figure = draw(plan)
    figure.set_size_inches(7.6, 3.4)
    figure.axes[0].set_title("", loc="left")
    arrange(figure, figure.axes)
    return figure


def schedule_picture(name: str) -> Picture:
    """An option of the group `schedule`, as it is by default."""
    plan = plan_of(*ONE_GROUP, f"schedule={name}")
    return Picture(f"catalogue/schedule-{name}.png", (plan,), lambda: small(plan))


LAYERS: dict[str, tuple[str, ...]] = {
    "airbench": ("optimizer=airbench", "model=resnet"),
    "lora": ("recipe=finetune_text/lora",),
    "muon": ("optimizer=muon", "model=resnet"),
    "mup": ("layers.base={widths: [64, 64]}", "model=mlp", "model.widths=[256, 256]"),
    "nanogpt": ("optimizer=nanogpt", "model=resnet", "layers.head=head.*"),
}
"""What shows an option of the group `layers`, where a small ResNet does not."""


def layers_picture(name: str) -> Picture:
    """An option of the group `layers`, on a model that it is for."""
    command = ("task=plan", f"layers={name}", *LAYERS.get(name, ("model=resnet",)))
    try:
        plan = plan_of(*RUN, *command)
    except ConfigError as error:
        raise SystemExit(f"{error}\nwhich model shows layers={name}? Say it in LAYERS in {__file__}") from error
    return Picture(f"catalogue/layers-{name}.png", (plan,), lambda: wide(plan), command)


def groups_table(plan: Plan) -> str:
    """The table of groups that `task=plan` prints."""
    console = Console(width=110, file=StringIO(), color_system=None)
    console.print(plan.table())
    printed: str = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO
    block = printed.split("\n\n")[1]
    return "\n".join(line.rstrip() for line in block.splitlines())


def overview(schedules: Sequence[Picture]) -> Picture:
    """Every schedule in one picture."""
    plans = tuple(picture.plans[0] for picture in schedules)

    def figure() -> Figure:
        rows = -(-len(plans) // 4)
        figure = Figure(figsize=(9.6, 1.75 * rows), layout="constrained", facecolor="white")
        panels = figure.subplots(rows, 4, sharex=True, sharey=True)
        for axes, picture in zip(panels.flat, schedules, strict=False):
            _lines(axes, picture.plans[0])
            _titled(axes, picture.name.removeprefix("catalogue/schedule-").removesuffix(".png"))
            _frame(axes)
        for axes in panels.flat[len(plans) :]:
            axes.set_axis_off()
        for axes in panels[:, 0]:
            axes.set_ylabel("LR / peak", color=INK, fontsize=9)
        for axes in panels[-1]:
            axes.set_xlabel("share of the run", color=INK, fontsize=9)
        return figure

    return Picture("schedules.png", plans, figure)


def parts() -> Picture:
    """The curves of warmups and of cooldowns, and what a floor does."""
    warmups = {name: {"warmup": "60%", "warmup_start": 0.1, "warmup_shape": name} for name in WARMUPS}
    cooldowns = {name: {"cooldown": "60%", "floor": 0.02, "cooldown_shape": name} for name in COOLDOWNS}
    floors = {f"floor {floor}": {"warmup": 0, "floor": floor} for floor in (0.0, 0.2, 0.5)}
    plans = (_joined("constant", warmups), _joined("constant", cooldowns), _joined("linear", floors))

    def figure() -> Figure:
        figure = Figure(figsize=(9.6, 2.9), layout="constrained", facecolor="white")
        panels = figure.subplots(1, 3, sharey=True)
        titles = (
            "warmup_shape (60%, warmup_start 0.1)",
            "cooldown_shape (60%, floor 0.02)",
            "floor (linear)",
        )
        places = ("lower right", "lower left", "lower left")
        for axes, plan, title, place in zip(panels, plans, titles, places, strict=True):
            _lines(axes, plan)
            _titled(axes, title)
            axes.legend(loc=place, frameon=False, fontsize=8.5, labelcolor=INK)
            axes.set_xlabel("share of the run", color=INK, fontsize=9)
            _frame(axes)
        panels[0].set_ylabel("LR / peak", color=INK, fontsize=9)
        return figure

    return Picture("parts.png", plans, figure)


def _joined(schedule: str, variants: Mapping[str, Mapping[str, Any]]) -> Plan:
    """One plan with a group for each variant of a schedule."""
    plan = plan_of(*ONE_GROUP, f"schedule={schedule}")
    spec = to_spec(plan.groups[0].schedule)
    return _plan({name: from_spec({**spec, **changes}) for name, changes in variants.items()}, plan.horizon)


def _plan(curves: dict[str, Curve], horizon: Horizon) -> Plan:
    groups = [
        PlanGroup(name, lr=1.0, scale=1.0, weight_decay=None, schedule=curve, tensors=1, parameters=1)
        for name, curve in curves.items()
    ]
    return Plan(tuple(groups), horizon)


def resumed() -> Picture:
    """A run of 400 steps that is resumed at step 200 with 600: what each choice makes of its schedule."""
    before, now, at = Horizon(400, 20), Horizon(600, 20), 200
    schedule = Schedule(Cosine(), warmup="5%", floor=0.1)
    plan = _plan({how: Continued(schedule, at, before, how) for how in get_args(ContinueMode)}, now)

    def figure() -> Figure:
        figure = Figure(figsize=(9.6, 3.9), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        behind, ahead = np.arange(at + 1), np.arange(at, now.steps)
        for how, rates, colour in zip(plan.names, plan.lr(ahead).T, CURVES, strict=False):
            axes.plot(ahead, rates, color=colour, linewidth=1.8, label=f"resume.horizon={how}")
        axes.plot(behind, schedule(behind, before), color=INK, linewidth=1.8, label="before it was resumed")
        for step, name, style in ((at, "resumed", "-"), (before.steps, "the old end", ":")):
            axes.axvline(step, color=GREY, linewidth=0.8, linestyle=style)
            axes.annotate(name, (step, 0.03), (4, 0), textcoords="offset points", color=GREY, fontsize=9)
        axes.set_xlim(0, now.steps)
        axes.set_xlabel("optimizer step", color=INK)
        axes.set_ylabel("LR / peak", color=INK)
        title = "cosine, warmup 5%, floor 0.1: 400 steps, resumed at 200 with 600"
        axes.set_title(title, loc="left", fontsize=10.5, color=INK)
        _frame(axes)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, labelcolor=INK)
        return figure

    return Picture("resume.png", (plan,), figure)


def _lines(axes: Axes, plan: Plan) -> None:
    steps = np.arange(plan.horizon.steps)
    for name, rates, colour in zip(plan.names, plan.lr(steps).T, CURVES, strict=False):
        axes.plot(steps / plan.horizon.steps, rates, color=colour, linewidth=1.6, label=name)


def _titled(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9.5, color=INK, loc="left")


def _frame(axes: Axes) -> None:
    axes.set_ylim(0, 1.06)
    plain_axes(axes)
    axes.tick_params(labelsize=8.5)
