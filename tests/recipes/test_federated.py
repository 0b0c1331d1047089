"""Federated training: who has what, a round against plain loops, a killed run, and what the README says."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clothes import write_clothes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks import federated
from lrflow.errors import ConfigError
from lrflow.history import read_history
from lrflow.recipes.federated.data import Client, Clients, Cohorts
from lrflow.recipes.federated.local import LocalTraining, Update
from lrflow.recipes.federated.model import FedOpt, Round, WithGradients, carried_by, pseudo_gradient
from lrflow.recipes.federated.partition import _dirichlet, by_dirichlet, by_shards, equal

CLASSES = np.arange(600) % 10


@given(clients=st.integers(1, 60), seed=st.integers(0, 2**40), alpha=st.sampled_from([1e-4, 0.1, 10.0, 1e6]))
@settings(max_examples=25, deadline=None)
def test_each_example_has_at_most_one_client_and_all_clients_have_as_many(
    clients: int, seed: int, alpha: float
) -> None:
    for rows, size in (
        (equal(CLASSES, clients, seed), 600 // clients),
        (by_dirichlet(CLASSES, clients, seed, alpha), 600 // clients),
        (by_shards(CLASSES, clients, seed, 2), 600 // (2 * clients) * 2),
    ):
        assert [len(each) for each in rows] == [size] * clients
        assert len(np.unique(np.concatenate(rows))) == size * clients


def test_classes_are_as_unequal_as_asked() -> None:
    def kinds(rows: list[Any]) -> float:
        return float(np.mean([len(np.unique(CLASSES[each])) for each in rows]))

    assert max(len(np.unique(CLASSES[each])) for each in by_shards(CLASSES, 30, 0, 2)) == 2
    assert kinds(by_dirichlet(CLASSES, 30, 0, 1e-3)) < kinds(by_dirichlet(CLASSES, 30, 0, 0.5)) < 8
    assert kinds(by_dirichlet(CLASSES, 30, 0, 1e3)) > 8


@pytest.mark.parametrize("alpha", [0.01, 0.1, 2.0])
def test_shares_have_the_mean_and_the_variance_of_the_dirichlet_distribution(alpha: float) -> None:
    prior = np.array([0.5, 0.3, 0.2])
    random = np.random.RandomState(0)
    drawn = np.array([_dirichlet(random, alpha * prior) for _ in range(4000)])
    assert drawn.mean(0) == pytest.approx(prior, abs=0.03)
    assert drawn.var(0) == pytest.approx(prior * (1 - prior) / (alpha + 1), rel=0.1)


def test_a_round_has_different_clients_and_all_take_part_equally_often() -> None:
    cohorts = Cohorts(clients=12, per_round=5)
    counts = np.zeros(12)
    for epoch in range(600):
        order = cohorts(3, epoch, 1)
        assert len(order) == 12
        for start in (0, 5):
            assert len(set(order[start : start + 5])) == 5
            counts[order[start : start + 5]] += 1
    assert np.array_equal(cohorts(3, 7, 1), cohorts(3, 7, 1))
    assert not np.array_equal(cohorts(3, 7, 1), cohorts(4, 7, 1))
    assert counts / counts.mean() == pytest.approx(np.ones(12), abs=0.15)


def client(number: int, examples: int) -> Client:
    draw = torch.Generator().manual_seed(number)
    return Client(number, torch.randn(examples, 6, generator=draw), torch.randint(0, 3, (examples,), generator=draw))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def planned(module: FedOpt, lr: float) -> FedOpt:
    object.__setattr__(module, "planned", lambda name: {"client_lr": lr}[name])
    return module


def test_fedavg_takes_the_mean_of_what_plain_loops_make_of_the_weights() -> None:
    cohort, model = [client(4, 8), client(1, 24), client(9, 16)], network()
    module = planned(FedOpt(network(), "3 steps", 24, {"momentum": 0.5, "weight_decay": 0.01}), 0.2)
    expected = [torch.zeros_like(weight) for weight in model.parameters()]
    for one in cohort:
        own = network()
        optimizer = torch.optim.SGD(own.parameters(), 0.2, momentum=0.5, weight_decay=0.01)
        for _ in range(3):  # of all examples each, so that their order does not matter
            optimizer.zero_grad()
            cross_entropy(own(one.inputs), one.targets).backward()
            optimizer.step()
        for total, weight in zip(expected, own.parameters(), strict=True):
            total += weight.detach() * len(one.targets) / 48
    optimizer = torch.optim.SGD(module.model.parameters(), 1.0)
    module.training_step(cohort, 0).backward()
    optimizer.step()
    for weight, mean in zip(module.model.parameters(), expected, strict=True):
        assert torch.allclose(weight, mean, atol=1e-6)


def test_the_gradients_of_a_round_are_given_exactly() -> None:
    weights = [*network().parameters()]
    gradients = tuple(torch.randn_like(weight) for weight in weights)
    loss = WithGradients.apply(torch.tensor(3.5), gradients, *weights)
    loss.backward()
    assert loss.item() == 3.5
    assert all(torch.equal(weight.grad, one) for weight, one in zip(weights, gradients, strict=True))


def test_uniform_weighting_counts_clients_alike() -> None:
    module = FedOpt(network(), weighting="uniform")
    updates = [Update(number, {"w": torch.tensor([float(number)])}, 0.0, 10**number, (1, 1)) for number in range(4)]
    assert pseudo_gradient(updates, module._shares(updates))["w"] == pytest.approx(-1.5)
    module.weighting = "examples"
    assert pseudo_gradient(updates, module._shares(updates))["w"] == pytest.approx(-3210 / 1111)


def test_an_update_depends_on_its_arguments_alone() -> None:
    local = LocalTraining(nn.Sequential(network(), nn.Dropout(0.5)), "2 epochs", 4, {"optimizer": "adamw"})
    weights = {name: one.detach().requires_grad_() for name, one in local._network.named_parameters()}
    weights["0.0.bias"].requires_grad_(False)
    state = torch.get_rng_state()
    first = local(weights, client(3, 10), 0.1, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    local(weights, client(2, 30), 0.3, seed=5)
    again, other = local(weights, client(3, 10), 0.1, seed=5), local(weights, client(3, 10), 0.1, seed=6)
    assert again.loss == first.loss != other.loss
    assert all(torch.equal(again.change[name], change) for name, change in first.change.items())
    assert "0.0.bias" not in first.change  # frozen


def test_the_lr_of_a_client_follows_its_schedule_over_the_steps_of_a_round() -> None:
    local = LocalTraining(network(), "2 epochs", 4, {"schedule": "linear", "warmup": 0})
    weights = dict(local._network.named_parameters())
    assert local(weights, client(0, 10), 0.3, 0).rates == pytest.approx((0.3, 0.3 / 6))  # of 6 steps
    assert local(weights, client(0, 40), 0.6, 0).rates == pytest.approx((0.6, 0.6 / 20))


def test_it_does_not_matter_who_trains_the_clients_and_in_which_order() -> None:
    cohort, seen = [client(4, 8), client(1, 24), client(9, 16)], []

    def elsewhere(made: Round) -> list[Update]:
        seen.append([one.number for one in made.clients])
        other = LocalTraining(network(), "2 epochs", 8, {})
        return [other(made.weights, one, made.lr, made.seed) for one in reversed(made.clients)]

    found = []
    for _ in range(2):
        module = planned(FedOpt(network(), "2 epochs", 8), 0.1)
        module.training_step(cohort, 0).backward()
        found.append([weight.grad for weight in module.model.parameters()])
        if not seen:
            with carried_by(elsewhere):
                module = planned(FedOpt(network(), "2 epochs", 8), 0.1)
                module.training_step(cohort, 0).backward()
            found.append([weight.grad for weight in module.model.parameters()])
    assert seen == [[4, 1, 9]]
    assert all(torch.equal(one, two) and torch.equal(one, three) for one, two, three in zip(*found, strict=True))


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clothes(tmp_path_factory.mktemp("fashion-mnist"))


QUICK = ["data.facts.examples=400", "data.val_size=50", "report=false", "trainer.progress=false", "task.test=false"]
QUICK += ["data.clients=10", "data.per_round=3", "model.local=3 steps", "trainer.max_steps=5", "trainer.val_every=2"]
QUICK += ["recipe=federated", "trainer.checkpoint.every=1", "trainer.checkpoint.keep=null", "model.network.widths=[8]"]
MOVING = ["optimizer=adam", "optimizer.lr=0.02", "schedule=cosine", "scalars.client_lr={from:0.1,to:0.02}"]
MOVING += ["model.client.schedule=linear", "model.network.dropout=0.1"]

KILLED = """
import os, signal, sys
from lrflow.cli import main
from lrflow.recipes.federated.local import LocalTraining
train, made = LocalTraining.__call__, []
def dies(self, *arguments):
    made.append(1)
    if len(made) == 11:  # the second client of round 3
        os.kill(os.getpid(), signal.SIGKILL)
    return train(self, *arguments)
LocalTraining.__call__ = dies
main(sys.argv[1:])
"""


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: Any = torch.load(max(run.glob("checkpoints/step-*.ckpt")), weights_only=True)
    return state["state_dict"]


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_is_killed_within_a_round_resumes_exactly(
    clothes: Path, tmp_path: Path, lrflow_here: Callable[..., Any], python: Callable[..., Any]
) -> None:
    words = [*QUICK, *MOVING, f"data.root={clothes}"]
    assert lrflow_here(*words, "output=whole").returncode == 0
    (tmp_path / "killed.py").write_text(KILLED)
    killed = python("killed.py", *words, "output=killed", cwd=tmp_path)
    told = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, told
    (run,) = (tmp_path / "killed").glob("*/")
    assert max(run.glob("checkpoints/step-*.ckpt")).name == "step-0000003.ckpt"
    done = lrflow_here(f"resume={run}", "output=killed")
    assert done.returncode == 0, done.stderr
    (whole,), resumed = (tmp_path / "whole").glob("*/"), max((tmp_path / "killed").glob("*/"), key=os.path.getmtime)
    found = weights(resumed)
    assert all(torch.equal(one, found[name]) for name, one in weights(whole).items())
    history = read_history(whole / "metrics.csv")
    assert list(history["train/clients"].values) == [3] * 5
    peaks = history["scalar/client_lr"].values
    assert peaks == pytest.approx(np.linspace(0.1, 0.02, 6)[:5])
    assert history["train/client_lr_first"].values == pytest.approx(peaks)
    assert history["train/client_lr_last"].values == pytest.approx(peaks / 3)
    assert len(history["val/accuracy"].values) == 3
    assert history["lr/all"].values == pytest.approx(0.01 * (1 + np.cos(np.pi * np.arange(5) / 5)))


BAD = [
    ("data.partition=diriclet", "data.partition = diriclet", "dirichlet"),
    ("data.per_round=11", "data.per_round = 11", "at most data.clients, 10"),
    ("data.alpha=0", "data.alpha = 0", "above 0"),
    ("model.local=10%", "model.local = 10%", "epochs or steps"),
    ("+model.client.lr=0.1", "model.client.lr = 0.1", "scalars.client_lr=0.1"),
    ("+model.client.momentun=0.9", "model.client.momentun = 0.9", "momentum"),
    ("scalars.client_lr={from:0.1,to:-0.1}", "scalars.client_lr = -0.1", "above 0"),
    ("data.sampler=balanced", "data.sampler = balanced", "no attribute"),
    ("sharpness.every=2", "sharpness.every", "no derivative"),
    ("optimizer=adahessian", "optimizer = AdaHessian", "no derivative"),
    ("model.client.optimizer=sdg", "model.client.optimizer = sdg", "sgd"),
    ("model.client.schedule=linera", "model.client.schedule = linera", "linear"),
    ("~scalars.client_lr", "scalars.client_lr", "the config has no such scalar"),
    ("model.network={_target_:torch.nn.BatchNorm1d,num_features:784}", "model.network", "BatchNorm"),
]


def test_what_cannot_be_is_told_before_the_first_round(clothes: Path, lrflow_here: Callable[..., Any]) -> None:
    wrong = []
    for word, key, expected in BAD:
        done = lrflow_here(*QUICK, f"data.root={clothes}", word)
        told = " ".join((done.stdout + done.stderr).split())
        if done.returncode == 0 or "Traceback" in told or key not in told or expected not in told:
            wrong.append((word, done.returncode, told[-500:]))
    assert not wrong


def test_several_devices_are_refused() -> None:
    data = Clients()
    data.trainer = type("Two", (), {"world_size": 2})()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"trainer\.devices = 2: expected 1"):
        data.setup("fit")


def test_the_readme_says_what_the_committed_runs_say() -> None:
    runs, readme = federated.read(), (federated.RECIPE / "README.md").read_text()
    for name, block in federated.blocks(runs).items():
        assert federated.marked(name, block) in readme
    assert f"    {federated.COMMAND}\n" in readme
    assert "](result.png)" in readme
    assert (federated.RECIPE / "result.png").is_file()
