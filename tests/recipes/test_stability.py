"""recipe=stability does what theory says of gradient descent on its surfaces."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from lrflow.cli import main
from lrflow.recipes.stability import picture
from lrflow.recipes.stability.data import GradientNoise
from lrflow.recipes.stability.model import Quadratic, Surface, TwoValleys

DOCS = Path(__file__).parents[2] / "docs"

Descend = Callable[..., np.ndarray]


@pytest.fixture
def descend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Descend:
    """Runs the recipe; returns its path, the columns x, y and height of the rows before each step and at the end."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, recipe: str = "stability") -> np.ndarray:
        before = set(tmp_path.glob("outputs/*"))
        assert main([f"recipe={recipe}", "trainer.progress=false", *words]) == 0
        (folder,) = set(tmp_path.glob("outputs/*")) - before
        return np.loadtxt(folder / "path.csv", delimiter=",", skiprows=1)[:, 1:4]

    return run


def slide(surface: Surface, lr: float, steps: int, momentum: float = 0.0) -> np.ndarray:
    """The same in a bare loop of torch's; [steps + 1, 2]."""
    optimizer, path = torch.optim.SGD([surface.point], lr, momentum), []
    for _ in range(steps + 1):
        path.append(surface.point.detach().clone().numpy())
        optimizer.zero_grad()
        surface.height(surface.point).backward()
        optimizer.step()
    return np.array(path)


BOUND = 0.2  # 2 / L


def test_below_the_bound_it_converges(descend: Descend) -> None:
    path = descend(f"optimizer.lr={0.99 * BOUND}", "data.steps=300")
    np.testing.assert_allclose(path[-1], 0, atol=2e-3)
    # The sharp coordinate changes its sign and shrinks by the factor 1 - lr L = -0.98.
    np.testing.assert_allclose(path[1:50, 1] / path[:49, 1], -0.98, rtol=1e-4)


def test_at_the_bound_it_oscillates_for_ever(descend: Descend) -> None:
    path = descend(f"optimizer.lr={BOUND}", "data.steps=300")
    np.testing.assert_allclose(path[:, 1], 0.6 * (-1.0) ** np.arange(301), rtol=1e-4)
    np.testing.assert_allclose(path[-1, 0], 0, atol=1e-6)


def test_above_the_bound_it_diverges(descend: Descend) -> None:
    path = descend(f"optimizer.lr={1.01 * BOUND}", "data.steps=300")
    np.testing.assert_allclose(path[-1, 1], 0.6 * 1.02**300, rtol=1e-3)


def test_far_above_the_bound_the_run_still_ends_and_is_drawn(descend: Descend, tmp_path: Path) -> None:
    path = descend("optimizer.lr=4", "data.steps=100")
    assert not np.isfinite(path[-1, 2])
    assert list(tmp_path.glob("outputs/*/path.png"))


@pytest.mark.parametrize(("factor", "converges"), [(0.99, True), (1.01, False)])
def test_momentum_moves_the_bound(factor: float, converges: bool) -> None:
    path = slide(Quadratic(), factor * (2 + 2 * 0.9) / 10, steps=100, momentum=0.9)
    assert (np.abs(path[-1]).max() < 0.05) == converges
    assert (np.abs(path[-1]).max() > 1e3) != converges


@pytest.mark.parametrize(
    ("recipe", "ceiling"), [("stability", "0.2"), ("stability/momentum", "0.38"), ("stability/two_valleys", "27.3")]
)
def test_find_names_the_bound(
    recipe: str, ceiling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([f"recipe={recipe}", "task=find", "find=stability"]) == 0
    assert f"the LR is stable up to {ceiling} at the start of training" in capsys.readouterr().out


def two_valleys(point: np.ndarray) -> float:
    """The surface, written down a second time."""
    x, y = point
    narrow = 0.8 * np.exp(-((x + 1.3) ** 2 + (y + 0.3) ** 2) / 0.18)
    wide = 2.0 * np.exp(-((x - 1.2) ** 2 + (y - 0.5) ** 2) / 2.88)
    return float(0.025 * (x**2 + y**2) - narrow - wide)


@pytest.mark.parametrize(
    ("near", "minimum", "height", "curvature"),
    [((-1.3, -0.3), (-1.25, -0.29), -0.95, 8.96), ((1.2, 0.5), (1.16, 0.48), -1.96, 1.44)],
)
def test_the_valleys_are_as_described(
    near: tuple[float, float], minimum: tuple[float, float], height: float, curvature: float
) -> None:
    found = minimize(two_valleys, near)
    np.testing.assert_allclose(found.x, minimum, atol=0.006)
    point = torch.tensor(found.x)
    assert TwoValleys().height(point).item() == pytest.approx(found.fun) == pytest.approx(height, abs=0.006)
    hessian = torch.autograd.functional.hessian(TwoValleys().height, point)
    assert torch.linalg.eigvalsh(hessian)[-1].item() == pytest.approx(curvature, abs=0.006)


@pytest.mark.parametrize(
    ("lr", "rests", "wide"), [(0.2, True, False), (0.35, False, False), (0.6, True, True), (1.5, False, True)]
)
def test_the_bound_of_each_valley_decides_where_it_rests(lr: float, rests: bool, wide: bool) -> None:
    path = slide(TwoValleys(), lr, steps=60)
    assert (np.abs(path[-1] - path[-2]).max() < 1e-4) == rests
    assert (path[-1, 0] > 0) == wide


def test_the_command_goes_the_same_way(descend: Descend) -> None:
    path = descend("optimizer.lr=0.6", recipe="stability/two_valleys")
    np.testing.assert_allclose(path[:, :2], slide(TwoValleys(), 0.6, steps=60), atol=1e-5)


def test_a_resumed_run_has_the_same_path(descend: Descend, tmp_path: Path) -> None:
    """From a checkpoint in the middle of the only epoch, with noise on every gradient."""
    whole = descend("data.steps=20", "trainer.checkpoint={every: 7 steps, keep: null}", recipe="stability/noise")
    (first,) = tmp_path.glob("outputs/*")
    checkpoint = tmp_path / "kept.ckpt"
    shutil.copy(first / "checkpoints/step-0000007.ckpt", checkpoint)
    assert main(["recipe=stability/noise", "data.steps=20", f"resume={checkpoint}", "trainer.progress=false"]) == 0
    (second,) = set(tmp_path.glob("outputs/*")) - {first}
    assert (second / "path.csv").read_bytes() == (first / "path.csv").read_bytes()
    assert len(whole) == 21


def test_noise_is_of_its_size_and_none_over_an_epoch() -> None:
    (examples,) = zip(*GradientNoise(steps=4000, noise=0.5)._examples, strict=True)
    noise = torch.stack(examples)
    torch.testing.assert_close(noise.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(noise.std(0), torch.full([2], 0.5), atol=0.02, rtol=0)
    (batch,) = next(iter(GradientNoise(steps=10, noise=0.5, batch_size=4).train_dataloader()))
    assert batch.shape == (4, 2)


def test_noise_is_added_to_the_gradient() -> None:
    surface, noise = Quadratic(), torch.tensor([[0.5, -1.0], [1.5, 3.0]])
    surface.training_step([noise], 0).backward()
    torch.testing.assert_close(surface.point.grad, torch.tensor([-1.8, 6.0]) + torch.tensor([1.0, 1.0]))


def test_a_sweep_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["-m", "recipe=stability/momentum", "data.steps=5", "optimizer.lr=0.1,0.3", f"hydra.sweep.dir={tmp_path}"]
    assert main(words) == 0
    runs = picture.read_sweep(tmp_path)
    assert [run.title for run in runs] == ["LR 0.1", "LR 0.3"]
    assert all(run.points.shape == (6, 2) for run in runs)
    np.testing.assert_allclose([run.rates for run in runs], [[0.1] * 5, [0.3] * 5])
    assert picture.Run.read(tmp_path / "0").title == "LR 0.1, momentum 0.9, constant"
    monkeypatch.setattr("sys.argv", ["picture", str(tmp_path), str(tmp_path / "all.png")])
    picture.main()
    assert (tmp_path / "all.png").stat().st_size > 10_000


def test_the_pictures_of_the_theory_end_where_its_text_says(
    tmp_path: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.setattr(picture, "draw_run", lambda *_: None)
    import descents

    shown = descents.pictures(DOCS / "theory.md")
    assert [one.path.stem for one in shown] == ["overshoot", "crawl", "restart", "noise"]
    for one in shown:
        runs = one.runs(tmp_path / one.path.stem)
        for run in runs:
            end = f"{run.heights[-1]:.2g}" if run.heights[-1] < 100 else f"{run.heights[-1]:,.0f}"
            assert re.search(rf"(?<![\d.-]){end}(?!\d)", one.text), (run.title, run.heights[-1])
        assert 0 < one.path.stat().st_size < 60_000
    narrow, _, left = (run.points[-1] for run in descents.read_sweep(tmp_path / "restart"))
    np.testing.assert_allclose(narrow, (-1.25, -0.29), atol=0.03)
    np.testing.assert_allclose(left, (1.16, 0.48), atol=0.1)
    constant, decayed = descents.read_sweep(tmp_path / "noise")
    assert f"its loss is {constant.heights[100:].mean():.2g} on average" in shown[-1].text
    np.testing.assert_allclose([decayed.rates[0], decayed.rates[-1]], [0.1, 1e-4])
