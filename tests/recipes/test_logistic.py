"""recipe=logistic against scikit-learn's solvers, and its stability bound against the closed form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from lrflow.cli import main
from lrflow.data import DataModule, Digits
from lrflow.models import Logistic
from lrflow.recipes.logistic import picture
from lrflow.recipes.logistic.data import BreastCancer
from lrflow.recipes.logistic.model import LinearSVM
from lrflow.training import Supervised

DECAY = 0.01


@pytest.fixture(params=[Digits, BreastCancer])
def data(request: pytest.FixtureRequest) -> DataModule:
    data = request.param(batch_size=1, val_size=57, test_size=114)
    data.setup()
    return data


def objective(module: pl.LightningModule, data: DataModule, decay_bias: bool) -> torch.Tensor:
    """The training loss and what weight decay adds to it."""
    assert data.train_set is not None
    inputs, classes = data.train_set.tensors
    decayed = [parameter for parameter in module.parameters() if parameter.ndim > 1 or decay_bias]
    penalty = sum(parameter.square().sum() for parameter in decayed) * DECAY / 2
    return module.training_step((inputs.to(decayed[0]), classes), 0) + penalty


def descend(module: pl.LightningModule, data: DataModule, lr: float, steps: int, decay_bias: bool) -> list[float]:
    """Gradient descent as the recipe does it; the objective before each step."""
    optimizer, values = torch.optim.SGD(module.parameters(), lr), []
    for _ in range(steps):
        optimizer.zero_grad()
        value = objective(module, data, decay_bias)
        value.backward()
        optimizer.step()
        values.append(value.item())
    return values


def fill(head: torch.nn.Linear, weights: np.ndarray, biases: np.ndarray) -> None:
    """Set a head to a solution of scikit-learn's; of a binary problem that has the second class alone."""
    if len(weights) == 1:
        weights, biases = np.concatenate([-weights, weights]), np.concatenate([-biases, biases])
    head.load_state_dict({"weight": torch.from_numpy(weights), "bias": torch.from_numpy(biases)})


def test_logistic_regression_is_at_rest_at_the_minimum_of_scikit_learn(data: DataModule) -> None:
    assert data.train_set is not None
    inputs, classes = data.train_set.tensors
    outputs = int(classes.max()) + 1
    network = Logistic(inputs.shape[1:], outputs)
    module = Supervised(network, "cross_entropy").double()
    start = torch.nn.utils.get_total_norm(torch.autograd.grad(objective(module, data, False), [*module.parameters()]))
    # Two classes share the one score of a binary problem, and each pays for half of it.
    share = 2 if outputs == 2 else 1
    found = LogisticRegression(C=share / (DECAY * len(inputs)), tol=1e-7, max_iter=2000)
    found.fit(inputs.flatten(1).double().numpy(), classes.numpy())
    fill(network.head, found.coef_ / share, found.intercept_ / share)
    end = torch.nn.utils.get_total_norm(torch.autograd.grad(objective(module, data, False), [*module.parameters()]))
    assert end < 1e-4 * start


@pytest.mark.parametrize("squared", [False, True])
def test_the_svm_has_the_minimum_of_scikit_learn(data: DataModule, squared: bool) -> None:
    assert data.train_set is not None
    inputs, classes = data.train_set.tensors
    loss = "squared_hinge" if squared else "hinge"
    found = LinearSVC(loss=loss, C=1 / (DECAY * len(inputs)), tol=1e-6, max_iter=20_000)
    found.fit(inputs.flatten(1).double().numpy(), classes.numpy())
    module = LinearSVM(inputs.shape[1:], int(classes.max()) + 1, squared).double()
    descended = descend(module, data, lr=0.05, steps=300, decay_bias=True)
    fill(module.head, found.coef_, found.intercept_)
    least = objective(module, data, True)
    assert least < descended[-1] < least + 0.08
    assert descended[0] > least + 0.8
    if squared:
        gradient = torch.autograd.grad(least, [*module.parameters()])
        assert torch.nn.utils.get_total_norm(gradient) < 1e-3


def test_the_hinge_by_hand() -> None:
    scores, classes = torch.tensor([[2.0, -0.5, 0.25]]), torch.tensor([2])
    assert LinearSVM([1], 3).loss(scores, classes).item() == 3.0 + 0.5 + 0.75
    assert LinearSVM([1], 3, squared=True).loss(scores, classes).item() == 9.0 + 0.25 + 0.5625


def test_breast_cancer_is_standardised_by_the_training_part_alone() -> None:
    data = BreastCancer(batch_size=1, val_size=57, test_size=114)
    data.setup()
    parts = [part.tensors for part in (data.train_set, data.val_set, data.test_set) if part is not None]
    train, _ = parts[0]
    torch.testing.assert_close(train.mean(0), torch.zeros(30), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.std(0, correction=0), torch.ones(30))
    assert parts[1][0].mean(0).abs().max() > 0.05
    assert [len(inputs) for inputs, _ in parts] == [398, 57, 114]
    for _, targets in parts:  # stratified
        assert targets.double().mean().item() == pytest.approx(load_breast_cancer().target.mean(), abs=0.02)


@pytest.mark.parametrize(("recipe", "outputs"), [("logistic", 10), ("logistic/breast_cancer", 2)])
def test_the_bound_agrees_with_the_closed_form(
    recipe: str, outputs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At zero weights each of K classes is as likely, and the Hessian is (1 / K)(I - 1 / K) kron X'X / n."""
    monkeypatch.chdir(tmp_path)
    assert main([f"recipe={recipe}", "task=find", "find=stability"]) == 0
    (file,) = tmp_path.glob("outputs/*/find.json")
    found = json.loads(file.read_text())["ceiling"]
    data = Digits(batch_size=1) if outputs == 10 else BreastCancer(batch_size=1, val_size=57, test_size=114)
    data.setup()
    assert data.train_set is not None
    inputs = data.train_set.tensors[0].flatten(1).double().numpy()
    # The weights decay and the bias does not; the top eigenvector of these data hardly touches the bias.
    features = np.column_stack([inputs, np.ones(len(inputs))])
    largest = np.linalg.eigvalsh(features.T @ features / len(inputs))[-1] / outputs
    assert 2 / (largest + DECAY) <= found * (1 + 1e-3)
    assert found == pytest.approx(2 / (largest + DECAY), rel=1e-3)


def test_too_low_right_and_too_high() -> None:
    """Too low has not come down, right has, too high goes up and down for ever."""
    data = Digits(batch_size=1)
    data.setup()
    low, right, high = (
        np.array(descend(Supervised(Logistic([1, 8, 8], 10), "cross_entropy"), data, lr, 100, decay_bias=False))
        for lr in (0.003, 0.5, 3.0)
    )
    assert low[-1] > 1 > 0.35 > right[-1]
    assert (np.diff(right) < 0).all()
    assert (np.diff(high[50:]) > 0).sum() > 15
    assert high[50:].max() > 1.5 * right[-1]


@pytest.mark.parametrize(("lr", "end"), [(0.2, 0.397), (1.0, 0.68)])
def test_the_hinge_ends_in_a_band_above_its_minimum(lr: float, end: float) -> None:
    """Which LinearSVC finds at 0.387."""
    data = Digits(batch_size=1)
    data.setup()
    values = descend(LinearSVM([1, 8, 8], 10).double(), data, lr, steps=300, decay_bias=True)
    assert values[-1] == pytest.approx(end, rel=0.02)


def test_a_sweep_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["-m", "recipe=logistic", "optimizer.lr=0.5,0.01", "trainer.max_epochs=3", f"hydra.sweep.dir={tmp_path}"]
    assert main(words) == 0
    runs = picture.read_sweep(tmp_path)
    assert [(run.lr, len(run.losses)) for run in runs] == [(0.01, 3), (0.5, 3)]
    assert runs[0].losses[0] == pytest.approx(np.log(10), abs=1e-4)
    monkeypatch.setattr("sys.argv", ["picture", str(tmp_path), str(tmp_path / "all.png"), "--bound", "start=0.61"])
    picture.main()
    assert (tmp_path / "all.png").stat().st_size > 10_000
