"""Plot paths on their surface, for one run or for several side by side.

python -m lrflow.recipes.stability.picture outputs/sweeps/SWEEP picture.png
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lrflow.config import instantiate
from lrflow.config.saved import load_config
from lrflow.config.validation import validate
from lrflow.display import CURVES, GREY, INK, plain_axes
from lrflow.wording import number

from .model import Surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
WIDTH = 9.6  # inches
LEVELS = 22
TONES = 256  # colours of the file, so that it is a third of the size
LAND = ("#b9c6d2", "#f6f8fa")  # from the lowest height to the highest; pale, so that every path stands out


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        surface: surface of the run.
        points: positions before each step and at the end, [steps + 1, 2].
        heights: heights at these positions, [steps + 1].
        rates: LR of each step, [steps].
        made: how it was made, in words.
    """

    surface: Surface
    points: np.ndarray
    heights: np.ndarray
    rates: np.ndarray
    made: tuple[str, ...]

    @property
    def title(self) -> str:
        """Title of its panel."""
        return ", ".join(self.made)

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read the run of a run folder."""
        config = validate(load_config(folder / "config.yaml"))
        path = np.loadtxt(folder / "path.csv", delimiter=",", skiprows=1)  # step, x, y, height, lr
        surface = instantiate(config.model.node())
        made = describe(config.optimizer.node(), config.schedule.node())
        return cls(surface, path[:, 1:3], path[:, 3], path[:-1, 4], made)


def read_sweep(folder: Path) -> list[Run]:
    """Return the runs of a sweep folder, in the order of its jobs; their titles are what differs between them."""
    folders = sorted((path.parent for path in folder.glob("*/path.csv")), key=lambda path: int(path.name))
    runs = [Run.read(folder) for folder in folders]
    same = set.intersection(*(set(run.made) for run in runs)) if len(runs) > 1 else set()
    return [replace(run, made=tuple(word for word in run.made if word not in same)) for run in runs]


def describe(optimizer: Mapping[str, Any], schedule: Mapping[str, Any]) -> tuple[str, ...]:
    """Describe how a run was made: its LR, its momentum if it has any, its schedule and the numbers of that."""
    words = [f"LR {number(optimizer['lr'])}"]
    if momentum := optimizer.get("momentum"):
        words.append(f"momentum {number(momentum)}")
    shape = dict(schedule["shape"])
    words.append(re.sub("(?<!^)(?=[A-Z])", " ", shape.pop("_target_").rpartition(".")[2]).lower())
    words += [f"{name} {number(value)}" for name, value in shape.items() if type(value) in (int, float)]
    return tuple(words)


def draw_run(run: Run, file: Path) -> None:
    """Plot one run: its path, and its height and LR against the step."""
    _draw([run], 1, file)


def draw_runs(runs: Sequence[Run], file: Path) -> None:
    """Plot runs on one surface: the path of each, and all heights and LRs against the step."""
    _draw(runs, 2 if len(runs) in (2, 4) else COLUMNS, file)


def _draw(runs: Sequence[Run], columns: int, file: Path) -> None:
    from matplotlib.figure import Figure  # instead of pyplot, which keeps state and may need a display
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from PIL import Image

    rows = -(-len(runs) // columns)
    (left, right), (bottom, top) = runs[0].surface.window
    height = WIDTH / columns * (top - bottom) / (right - left) + 0.35
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)  # inches
    figure = Figure((WIDTH, rows * height + 2.4), layout=layout, facecolor="white")
    grid = figure.add_gridspec(2, 1, height_ratios=[rows * height, 2.4])
    paths, charts = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    cells = paths.subplots(rows, columns, squeeze=False).ravel()
    colours = [CURVES[index % len(CURVES)] for index in range(len(runs))]
    for axes, run, colour in zip(cells, runs, colours, strict=False):
        _draw_path(axes, run, colour)
    for axes in cells[len(runs) :]:
        axes.set_axis_off()
    heights, rates = charts.subplots(1, 2)
    _draw_heights(heights, runs, colours)
    _draw_rates(rates, runs, colours)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=100)
    Image.open(drawn).convert("RGB").quantize(TONES, dither=Image.Dither.NONE).save(file, optimize=True)


def _draw_path(axes: Axes, run: Run, colour: str) -> None:
    """Plot the contours of the surface and the path on them."""
    from matplotlib.colors import LinearSegmentedColormap

    (left, right), (bottom, top) = run.surface.window
    x, y = np.meshgrid(np.linspace(left, right, 240), np.linspace(bottom, top, 160))
    with torch.no_grad():
        height = run.surface.height(torch.tensor(np.stack([x, y], -1), dtype=torch.float32)).numpy()
    levels = np.linspace(height.min(), height.max(), LEVELS)
    axes.contourf(x, y, height, levels, cmap=LinearSegmentedColormap.from_list("land", LAND))
    axes.contour(x, y, height, levels, colors="white", linewidths=0.8, linestyles="solid")
    # Points far outside the window cannot be seen and may not be finite.
    extent = np.array([right - left, top - bottom])
    inside = np.isfinite(run.points).all(1) & (np.abs(run.points) < 3 * extent).all(1)
    points = run.points[: len(inside) if inside.all() else int(np.argmin(inside))]
    axes.plot(*points.T, color=colour, linewidth=1.4, marker="o", markersize=3.2, markeredgewidth=0)
    axes.plot(*points[0], marker="o", markersize=8, markerfacecolor="white", markeredgecolor=INK, markeredgewidth=1.4)
    if inside.all():
        axes.plot(*points[-1], marker="o", markersize=8, color=colour, markeredgecolor=INK, markeredgewidth=1.4)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(run.title, loc="left", fontsize=11, fontweight="bold", color=colour)


def _draw_heights(axes: Axes, runs: Sequence[Run], colours: Sequence[str]) -> None:
    """Plot the height against the step; on a log scale if no height is negative."""
    log = all(run.heights.min() >= 0 for run in runs)
    for run, colour in zip(runs, colours, strict=True):
        axes.plot(run.heights, color=colour, linewidth=1.8)
    finite = np.concatenate([run.heights[np.isfinite(run.heights)] for run in runs])
    if log:
        axes.set_yscale("log")
        axes.set_ylim(max(finite[finite > 0].min(), 1e-8), min(finite.max(), 1e4) * 2)
    _dress(axes, "loss: the height under the point")


def _draw_rates(axes: Axes, runs: Sequence[Run], colours: Sequence[str]) -> None:
    """Plot the LR against the step."""
    for run, colour in zip(runs, colours, strict=True):
        axes.step(np.arange(len(run.rates)), run.rates, where="post", color=colour, linewidth=1.8)
    axes.set_ylim(0, 1.08 * max(run.rates.max() for run in runs))
    _dress(axes, "LR")


def _dress(axes: Axes, title: str) -> None:
    """Style a chart over the steps."""
    plain_axes(axes)
    axes.tick_params(colors=GREY, labelsize=8, length=3)
    axes.set_xlabel("step", color=INK, fontsize=9)
    axes.set_title(title, loc="left", fontsize=11, color=INK)


def main() -> None:
    """Draw the runs of a sweep."""
    parser = argparse.ArgumentParser(description="Draw the runs of a sweep of recipe=stability side by side.")
    parser.add_argument("sweep", type=Path, help="a sweep folder")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    arguments = parser.parse_args()
    runs = read_sweep(arguments.sweep)
    if not runs:
        parser.error(f"{arguments.sweep}: expected the folder of a sweep of recipe=stability")
    draw_runs(runs, arguments.picture)


if __name__ == "__main__":
    main()
