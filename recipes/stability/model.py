"""Surfaces on which a point descends, to show the effect of an optimizer and its LR."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn


class Surface(pl.LightningModule):
    """A point in the plane as the only parameter; the loss is the height of the surface at the point.

    Logs `height`, `x` and `y` of the point at the end of an epoch. At the end of the run it writes the path of the
    point, with the LR of each step, to the run folder, as `path.csv` and `path.png`.

    Args:
        start: where the point starts, (x, y).
    """

    window: ClassVar[tuple[tuple[float, float], tuple[float, float]]]
    """Part of the plane that a picture shows: ((x min, x max), (y min, y max))."""

    def __init__(self, start: Sequence[float]) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.tensor(start, dtype=torch.float32))
        self._path: list[Tensor] = []

    def height(self, points: Tensor) -> Tensor:
        """Return the height of the surface at points [..., 2]."""
        raise NotImplementedError

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the height at the point plus a linear term that adds the noise of the batch to the gradient."""
        (noise,) = batch
        return self.height(self.point) + noise.mean(0) @ self.point

    def describe(self, point: Tensor) -> dict[str, Tensor]:
        """Return the metrics that a run logs about its point."""
        return {"height": self.height(point), "x": point[0], "y": point[1]}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Record the position before the step, and the LR of the step."""
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        self._path.append(torch.cat([self.point.detach(), self.point.new_tensor([lr])]))

    def on_train_epoch_end(self) -> None:
        """Log the position."""
        self.log_dict(self.describe(self.point.detach()))

    def on_train_end(self) -> None:
        """Write the path to the run folder."""
        if self.trainer.is_global_zero:
            from .picture import Run, draw_run

            path = torch.stack(self._path)
            points = torch.cat([path[:, :2], self.point.detach()[None]])
            heights = self.height(points).cpu().numpy()
            run = Run(self, points.cpu().numpy(), heights, path[:, 2].cpu().numpy(), (f"{len(path)} steps",))
            folder = Path(self.trainer.default_root_dir)
            write_path(folder / "path.csv", run.points, run.heights, run.rates)
            draw_run(run, folder / "path.png")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the path, so that a resumed run has all of it."""
        checkpoint["path"] = torch.stack(self._path) if self._path else torch.empty(0, 3)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the path of the interrupted run."""
        self._path = list(checkpoint["path"].to(self.point.device))


class Quadratic(Surface):
    """A bowl with axes of different curvature: half of the sum of curvature times coordinate squared.

    Its Hessian is the diagonal of the curvatures everywhere, so L is the larger one.

    Args:
        curvatures: curvatures along x and y.
        start: where the point starts.
    """

    curvatures: Tensor
    window = ((-2.2, 2.2), (-1.1, 1.1))

    def __init__(self, curvatures: Sequence[float] = (1.0, 10.0), start: Sequence[float] = (-1.8, 0.6)) -> None:
        super().__init__(start)
        self.register_buffer("curvatures", torch.tensor(curvatures, dtype=torch.float32), persistent=False)

    def height(self, points: Tensor) -> Tensor:
        """Return the height at points [..., 2]; 0 at the minimum, the origin."""
        return (self.curvatures * points.square()).sum(-1) / 2


class TwoValleys(Surface):
    """A narrow valley on the way to a wide, deeper one: two Gaussian dents in a shallow bowl.

    The narrow one has its minimum at (-1.25, -0.29), where the height is -0.95 and L = 8.96; the wide one at (1.16,
    0.48), with -1.96 and 1.44. So gradient descent at an LR from 0.22 to 1.39 can settle in the wide one but not in the
    narrow one. Also logs whether the point is on the side of the wide one (`wide`, 0 or 1).

    Args:
        start: where the point starts; the default is above the narrow valley.
    """

    window = ((-2.7, 2.9), (-1.4, 1.9))
    _bowl = 0.05  # curvature
    _dents = (((-1.3, -0.3), 0.8, 0.3), ((1.2, 0.5), 2.0, 1.2))  # centre, depth, width

    def __init__(self, start: Sequence[float] = (-2.2, -0.9)) -> None:
        super().__init__(start)

    def height(self, points: Tensor) -> Tensor:
        """Return the height at points [..., 2]."""
        height = self._bowl / 2 * points.square().sum(-1)
        for centre, depth, width in self._dents:
            square = (points - points.new_tensor(centre)).square().sum(-1)
            height = height - depth * torch.exp(-square / (2 * width**2))
        return height

    def describe(self, point: Tensor) -> dict[str, Tensor]:
        """Return the metrics that a run logs about its point."""
        return super().describe(point) | {"wide": (point[0] > 0).float()}


def write_path(file: Path, points: np.ndarray, heights: np.ndarray, rates: np.ndarray) -> None:
    """Write a path as a CSV table with the columns step, x, y, height, lr.

    Args:
        file: path of the table.
        points: [steps + 1, 2]; the last one is the end of the run.
        heights: [steps + 1].
        rates: LR of the step that leaves each point, [steps]; the end has none, `nan` in the table.
    """
    rows = np.column_stack([np.arange(len(points)), points, heights, [*rates, np.nan]])
    np.savetxt(file, rows, fmt=["%d", *["%.9g"] * 4], delimiter=",", header="step,x,y,height,lr", comments="")
