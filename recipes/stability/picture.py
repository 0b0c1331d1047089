"""Plot paths on their surface, for one run or for several side by side.

python -m lrflow.recipes.stability.picture outputs/sweeps/SWEEP picture.png
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lrflow.config import instantiate
from lrflow.config.saved import load_config
from lrflow.config.validation import validate
from lrflow.display import COLOURS, FAINT, GREY, INK, number

from .model import Surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
LEVELS = 22
LAND = ("#b9c6d2", "#f6f8fa")  # from the lowest height to the highest; pale, so that every path stands out


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        surface: surface of the run.
        points: positions before each step and at the end, [steps + 1, 2].
        heights: heights at these positions, [steps + 1].
        title: title of its panel.
    """

    surface: Surface
    points: np.ndarray
    heights: np.ndarray
    title: str

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read the run of a run folder."""
        config = validate(load_config(folder / "config.yaml"))
        path = np.loadtxt(folder / "path.csv", delimiter=",", skiprows=1)  # step, x, y, height
        surface = instantiate(config.model.node())
        title = describe(config.optimizer.node(), config.schedule.node())
        return cls(surface, path[:, 1:3], path[:, 3], title)


def read_sweep(folder: Path) -> list[Run]:
    """Return the runs of a sweep folder, in the order of its jobs."""
    folders = sorted((path.parent for path in folder.glob("*/path.csv")), key=lambda path: int(path.name))
    return [Run.read(folder) for folder in folders]


def describe(optimizer: Mapping[str, Any], schedule: Mapping[str, Any]) -> str:
    """Describe how a run was made: its LR, and momentum and schedule if it has any."""
    words = [f"LR {number(optimizer['lr'])}"]
    if momentum := optimizer.get("momentum"):
        words.append(f"momentum {number(momentum)}")
    if (shape := schedule["shape"]["_target_"].rpartition(".")[2]) != "Constant":
        words.append(shape)
    return ", ".join(words)


def draw_run(run: Run, file: Path) -> None:
    """Plot one run: its path, and its height against the step."""
    _draw([run], 2, file)


def draw_runs(runs: Sequence[Run], file: Path) -> None:
    """Plot runs on one surface: the path of each, and all heights against the step."""
    _draw(runs, min(COLUMNS, len(runs) + 1), file)


def _draw(runs: Sequence[Run], columns: int, file: Path) -> None:
    from matplotlib.figure import Figure  # instead of pyplot, which keeps state and may need a display

    rows = -(-(len(runs) + 1) // columns)
    (left, right), (bottom, top) = runs[0].surface.window
    panel = 4.4, 4.4 * (top - bottom) / (right - left) + 0.55
    figure = Figure((columns * panel[0], rows * panel[1]), layout="constrained", facecolor="white")
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(runs))]
    for axes, run, colour in zip(cells, runs, colours, strict=False):
        _draw_path(axes, run, colour)
    _draw_heights(cells[len(runs)], runs, colours)
    cells[len(runs)].set_box_aspect((top - bottom) / (right - left))
    for axes in cells[len(runs) + 1 :]:
        axes.set_axis_off()
    figure.savefig(file, dpi=110)


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
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=GREY, labelsize=8, length=3)
    axes.set_xlabel("step", color=INK, fontsize=9)
    axes.set_title("height under the point", loc="left", fontsize=11, color=INK)


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
