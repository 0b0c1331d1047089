"""Writes docs/recipes_of_the_field.md and its pictures: published training recipes, compared with their rules.

python docs/recipes_of_the_field.py           # write the page and the pictures
python docs/recipes_of_the_field.py --check   # list what is outdated; exit 1 if anything is
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path

import numpy as np
import yaml
from field_rules import RULES, SCALES, SETTINGS, Floats

from lrflow import assemble
from lrflow.config import Config
from lrflow.config.composition.compose import composer
from lrflow.config.composition.overrides import expand, read_overrides
from lrflow.config.packages import trust_packages
from lrflow.display import CURVES, GREY, INK
from lrflow.plan import Plan
from lrflow.tasks.plan import compile_plan
from lrflow.wording import number

DOCS = Path(__file__).parent
FOLDER, PAGE, IMAGES = DOCS / "field", DOCS / "recipes_of_the_field.md", DOCS / "images" / "field"
EXACT = 1e-9
"""Largest relative error that counts as none: what rounding leaves of float64."""
SMALLEST = 1e-6
"""Share of the peak LR below which an error is relative to this share: near 0 the LR itself is a rounding error."""

PLAIN = ("model=logistic", "data=digits")
MODELS = {
    "vision_transformer": (
        "model=custom",
        "model._target_=field_networks.VisionTransformer",
        "model.loss=cross_entropy",
        "data=digits",
    ),
    "detector": ("model=custom", "model._target_=field_networks.Detector", "model.loss=cross_entropy", "data=digits"),
    "student": ("model=custom", "model._target_=field_networks.Student", "model.loss=cross_entropy", "data=digits"),
    "four_layers": ("model=mlp", "model.widths=[8, 8, 8]", "data=digits"),
    "cnn": ("model=cnn", "data=digits"),
}


@dataclass(frozen=True)
class Recipe:
    """A published recipe as lrflow says it.

    Args:
        name: its file in `docs/field/recipe/`.
        title: what is trained, by whom and when.
        source: where its rule was read, as Markdown.
        steps: optimizer steps of the published run.
        per_epoch: steps of an epoch; None: the recipe counts none.
        samples: examples of a step; None: the recipe counts none.
        model: a key of `MODELS`, if the recipe has groups that a plain model lacks.
        error: largest relative error of the LR, where it is not exact.
        note: what to know of it, such as why it is not exact.
    """

    name: str
    title: str
    source: str
    steps: int
    per_epoch: int | None = None
    samples: int | None = None
    model: str | None = None
    error: float = 0.0
    note: str = ""
    kind: str = field(default="", compare=False)

    @property
    def path(self) -> Path:
        """The file."""
        return FOLDER / "recipe" / f"{self.name}.yaml"

    @property
    def yaml(self) -> str:
        """The recipe without the line that every recipe begins with."""
        return self.path.read_text(encoding="utf-8").removeprefix("# @package _global_\n")

    @property
    def horizon(self) -> list[str]:
        """Overrides that say how long the published run is, where the recipe does not."""
        values = {"steps": self.steps, "steps_per_epoch": self.per_epoch, "samples_per_step": self.samples}
        return [f"horizon.{key}={value}" for key, value in values.items() if value and (self.per_epoch or self.samples)]

    @cached_property
    def overrides(self) -> list[str]:
        """The command line of its plan."""
        model = MODELS[self.model] if self.model else PLAIN
        return ["task=plan", f"recipe={self.name}", *model, *self.horizon]


def recipes() -> list[Recipe]:
    """All recipes, in the order of the page."""
    kinds = yaml.safe_load((DOCS / "field.yaml").read_text(encoding="utf-8"))
    return [Recipe(name, kind=kind, **entry) for kind, entries in kinds.items() for name, entry in entries.items()]


@dataclass(frozen=True)
class Compared:
    """The plan of a recipe, and how far it is from the published rule.

    Args:
        recipe: the recipe.
        plan: what lrflow makes of it.
        error: largest relative error of an LR, over all steps and groups.
        settings_error: the same of other settings and scalars.
    """

    recipe: Recipe
    plan: Plan
    error: float
    settings_error: float

    @property
    def settings(self) -> list[str]:
        """What else is compared: settings and scalars, by their name in the plan."""
        return list(SETTINGS.get(self.recipe.name, ()))


def compare(only: Iterable[str] = ()) -> Iterator[Compared]:
    """Compile the plan of each recipe, or of those named, and compare each of its steps with the rule."""
    chosen = [recipe for recipe in recipes() if not only or recipe.name in only]
    trust_packages(["field_networks"])
    with composer(FOLDER, earlier=False) as composing:
        for recipe in chosen:
            config = composing(read_overrides(expand(recipe.overrides), composing.catalogue).ready).config()
            plan = compile_plan(config)
            t = np.arange(recipe.steps, dtype=np.float64)
            planned = dict(zip(plan.names, plan.lr(t).T, strict=True))
            rates = RULES[recipe.name](t)
            if recipe.name in SCALES and not isinstance(rates, dict):
                errors = list(_of_parameters(config, planned, rates, SCALES[recipe.name]))
            else:
                published = rates if isinstance(rates, dict) else dict.fromkeys(planned, rates)
                errors = [relative(planned[name], published[name]) for name in planned]
            yield Compared(
                recipe, plan, max(errors), max(_of_settings(plan, SETTINGS.get(recipe.name, {}), t), default=0.0)
            )


def _of_parameters(
    config: Config, planned: dict[str, Floats], rates: Floats, scale: Callable[[str], float]
) -> Iterator[float]:
    """The error of each parameter, whose published LR is a multiple of the rule's."""
    for group in assemble.build_groups(config, assemble.build_module(config)):
        for share in {scale(name.removeprefix("network.")) for name, _ in group.parameters}:
            yield relative(planned[group.name], rates * share)


def _of_settings(plan: Plan, rules: dict[str, Callable[[Floats], Floats]], t: Floats) -> Iterator[float]:
    """The errors of other settings that move, and of scalars."""
    columns = [one.column for one in plan.scalars]
    for name, rule in rules.items():
        scalar = name in columns
        values = plan.scalar_values(t)[:, columns.index(name)] if scalar else plan.setting(name, t).max(axis=1)
        yield relative(values, rule(t))


def relative(planned: Floats, published: Floats) -> float:
    """The largest error of the planned values, relative to the published ones."""
    return float(np.max(np.abs(planned - published) / np.maximum(published, SMALLEST * np.max(published) or 1.0)))


INTRO = """\
# Recipes of the field

{count} training recipes as they were published, each as a recipe of at most 20 lines, and how far the LRs of its plan
are from the published rule. Each rule is written out in [field_rules.py](field_rules.py) without lrflow's formulas;
a test compares every step and every group. Where code is named as the source, its scheduler was read; a rule with a
paper as its source is the one that the paper is cited for, and peaks and lengths are the commonly cited ones.

    python -m lrflow --config-dir docs/field task=plan recipe=bert
    python -m lrflow --config-dir docs/field task=plan recipe=deit_base \\
        horizon.steps=375_300 horizon.steps_per_epoch=1251

A recipe holds the optimizer, the groups, the schedule and the length; model and data are your own. To change one, copy
it into your own folder of options ([configuration](configuration.md#your-own-options)). A recipe that counts epochs
needs `horizon.steps` and `horizon.steps_per_epoch` for the plan of the published run; without them it has the epochs of
your data.

**The error** is the largest difference between planned and published LR, relative to the published LR, over all steps
and groups (where that LR is below a millionth of the peak, relative to this millionth). Below 1e-14 it is the rounding
of float64. What the optimizers do with the LR is not compared.

`python docs/recipes_of_the_field.py` generates this page; do not edit it.
"""

KINDS = {"vision": "Vision", "language": "Language", "others": "Speech, pictures, games, proteins"}

LEFT = """\
## What is not said exactly

{rows}

What the recipes leave out: batch sizes that grow during the run (GPT-3, DeepSeek-V2 and V3;
[`schedule.batch`](batch_size.md) plans them), losses, data and
augmentation. ConvNeXt's fine-tuning puts three blocks into one layer of its layer-wise decay:
`layers=layer_decay layers.blocks_per_layer=3` ([as published](layers.md#layer-decay)).
"""


def page(compared: Sequence[Compared]) -> str:
    """The text of the page."""
    lines = [INTRO.format(count=len(compared))]
    for kind, title in KINDS.items():
        of_kind = [one for one in compared if one.recipe.kind == kind]
        lines += [f"## {title}\n", "| recipe | steps | error |", "| --- | --- | --- |"]
        for one in of_kind:
            lines.append(f"| [{one.recipe.title}](#{one.recipe.name}) | {one.recipe.steps:,} | {told(one)} |")
        lines.append("")
        for one in of_kind:
            lines += _entry(one)
    rows = [f"- [{one.recipe.title}](#{one.recipe.name}): {one.recipe.note}" for one in compared if one.recipe.error]
    lines.append(LEFT.format(rows="\n".join(rows)))
    return "\n".join(lines)


def _entry(one: Compared) -> Iterator[str]:
    recipe = one.recipe
    yield f"### {recipe.name}\n"
    yield f"![{described(one)}](images/field/{recipe.name}.svg)\n"
    error = f"Error: {told(one)}."
    if one.settings:
        error += f" Also compared: {', '.join(f'`{name}`' for name in one.settings)}."
    yield f"{recipe.title}. Rule: {recipe.source}. {error}\n"
    if recipe.note:
        yield f"{recipe.note[0].upper()}{recipe.note[1:]}\n"
    yield f"```yaml\n{recipe.yaml}```\n"


def told(one: Compared) -> str:
    """The error as the page has it: without digits that differ between machines."""
    error = max(one.error, one.settings_error)
    return f"**{error:.2g}**" if error > EXACT else "< 1e-14" if error < 1e-14 else "< 1e-10"


def described(one: Compared) -> str:
    """What the picture shows, for those who do not see it."""
    curves = len(one.plan.curves)
    groups = "all groups" if curves == 1 and len({group.lr for group in one.plan.trainable}) == 1 else "each group"
    return f"the LR of {groups} over the {one.recipe.steps:,} steps of {one.recipe.title}"


WIDTH, HEIGHT, LEFT_EDGE, TOP, RIGHT, BOTTOM = 420, 150, 58, 12, 408, 122


def picture(one: Compared) -> str:
    """The LRs of all groups as an SVG: no scripts, no fonts of its own."""
    plan, steps = one.plan, one.recipe.steps
    at = np.unique(
        np.append(np.linspace(0, steps - 1, 240).round(), [step for step in plan_jumps(plan) if step < steps])
    )
    rates = np.unique(plan.lr(at).T, axis=0)[::-1]
    top = float(rates.max())
    x = LEFT_EDGE + (RIGHT - LEFT_EDGE) * at / (steps - 1)
    lines = []
    for i, values in enumerate(rates):
        points = zip(x, BOTTOM - (BOTTOM - TOP) * values / top, strict=True)
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in thinned(list(points)))
        colour = CURVES[i % len(CURVES)]
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{path}"/>')
    words = [
        (LEFT_EDGE - 6, TOP + 4, "end", number(top)),
        (LEFT_EDGE - 6, BOTTOM + 4, "end", "0"),
        (LEFT_EDGE, HEIGHT - 10, "start", "0"),
        (RIGHT, HEIGHT - 10, "end", f"{steps:,} steps"),
    ]
    texts = [f'<text x="{a}" y="{b}" text-anchor="{anchor}">{text}</text>' for a, b, anchor, text in words]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-labelledby="title" font-family="sans-serif" font-size="11" fill="{INK}">'
    )
    frame = f'<path fill="none" stroke="{GREY}" d="M{LEFT_EDGE} {TOP}V{BOTTOM}H{RIGHT}"/>'
    title = f'<title id="title">{escape(described(one))}</title>'
    return (
        "\n".join([head, title, '<rect width="100%" height="100%" fill="white"/>', frame, *lines, *texts, "</svg>"])
        + "\n"
    )


def plan_jumps(plan: Plan) -> list[int]:
    """The steps around the jumps of a plan's curves, as far as these are few."""
    jumps = {jump for curve, _ in plan.curves for jump in curve.jumps(plan.horizon)[:40]}
    return sorted(step for jump in jumps for step in (jump - 1, jump) if step >= 0)


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points without which the line would be a quarter of a pixel elsewhere (Douglas and Peucker, 1973)."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    off = [abs(y0 + (y1 - y0) * (x - x0) / (x1 - x0) - y) for x, y in points]
    far = max(range(len(points)), key=off.__getitem__)
    if off[far] < 0.25:
        return [points[0], points[-1]]
    return [*thinned(points[: far + 1])[:-1], *thinned(points[far:])]


def stale(compared: Sequence[Compared]) -> list[str]:
    """What is not as it would be written now; the numbers of pictures may differ by a quarter of a pixel."""
    wanted = {PAGE: page(compared), **{IMAGES / f"{one.recipe.name}.svg": picture(one) for one in compared}}
    found = [path for path, text in wanted.items() if not path.is_file() or not alike(path.read_text("utf-8"), text)]
    return [str(path.relative_to(DOCS)) for path in [*found, *(set(IMAGES.glob("*.svg")) - wanted.keys())]]


def alike(old: str, new: str) -> bool:
    """Whether two texts are the same but for small differences of their decimal numbers."""
    decimal = re.compile(r"\d+\.\d")
    a, b = (np.array(decimal.findall(text), dtype=np.float64) for text in (old, new))
    return decimal.sub("", old) == decimal.sub("", new) and len(a) == len(b) and np.allclose(a, b, rtol=0, atol=0.25)


def main() -> None:
    """Write what is outdated, or list it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="list what is outdated")
    check = parser.parse_args().check
    compared = list(compare())
    outdated = stale(compared)
    print("\n".join(outdated))
    if check:
        raise SystemExit(bool(outdated))
    IMAGES.mkdir(exist_ok=True)
    PAGE.write_text(page(compared), "utf-8")
    for one in compared:
        (IMAGES / f"{one.recipe.name}.svg").write_text(picture(one), "utf-8")


if __name__ == "__main__":
    main()
