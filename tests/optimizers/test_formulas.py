"""Library optimizers against the formulas of their papers in NumPy, and torch's classes against torch."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lrflow.assemble import make_optimizer
from lrflow.config import compose
from lrflow.health.advice import advise
from lrflow.layers import Group, Rule, resolve
from lrflow.optimizers import ASGD
from lrflow.tasks.plan import compile_plan
from lrflow.training.configure_optimizers import regroup

LR, STEPS = 0.01, 6
DRAW = np.random.default_rng(0)
START = DRAW.normal(size=(5, 3))
GRADIENTS = DRAW.normal(size=(STEPS, 5, 3))


def trained(option: str, *overrides: str) -> np.ndarray:
    """Return a matrix after steps with the given gradients, under the option's own settings."""
    pytest.importorskip("pytorch_optimizer")
    weight = nn.Parameter(torch.tensor(START))
    config = compose([f"optimizer={option}", f"optimizer.lr={LR}", *overrides])
    group = Group("all", (("weight", weight),), LR, 1.0, config.optimizer.node()["weight_decay"])
    optimizer = make_optimizer(config, [group], torch.device("cpu"))
    for gradient in GRADIENTS:
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    return weight.detach().numpy()


def test_lion() -> None:
    """Chen et al., 2023, program 1."""
    beta1, beta2, decay = 0.9, 0.99, 0.5
    weight, momentum = START, np.zeros_like(START)
    for gradient in GRADIENTS:
        update = np.sign(beta1 * momentum + (1 - beta1) * gradient)
        momentum = beta2 * momentum + (1 - beta2) * gradient
        weight = weight - LR * (update + decay * weight)
    np.testing.assert_allclose(trained("lion"), weight)


def test_lars() -> None:
    """You et al., 2017, algorithm 1, with the LR outside of the momentum, as torch has it."""
    trust, decay = compose(["optimizer=lars"]).optimizer.node()["trust_coefficient"], 5e-4
    weight, velocity = START, np.zeros_like(START)
    for gradient in GRADIENTS:
        norm = np.linalg.norm(weight)
        local = trust * norm / (np.linalg.norm(gradient) + decay * norm)
        velocity = 0.9 * velocity + local * (gradient + decay * weight)
        weight = weight - LR * velocity
    np.testing.assert_allclose(trained("lars"), weight)


def test_lamb() -> None:
    """You et al., 2020, algorithm 2, without the bias correction that its third version left out."""
    beta1, beta2, eps, decay = 0.9, 0.999, 1e-6, 0.01
    weight, mean, square = START, np.zeros_like(START), np.zeros_like(START)
    for gradient in GRADIENTS:
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        update = mean / (np.sqrt(square) + eps) + decay * weight
        trust = min(np.linalg.norm(weight), 10) / (np.linalg.norm(update) + eps)
        weight = weight - LR * trust * update
    np.testing.assert_allclose(trained("lamb"), weight)


def test_stable_adamw() -> None:
    """Wortsman et al., 2023, algorithm 2, over more steps under an LR that moves; some gradients are outliers."""
    (beta1, beta2), eps, decay = (0.9, 0.99), 1e-8, 0.05
    pytest.importorskip("pytorch_optimizer")
    weight = nn.Parameter(torch.tensor(START))
    config = compose(["optimizer=stable_adamw", f"optimizer.lr={LR}"])
    optimizer = make_optimizer(config, [Group("all", (("weight", weight),), LR, 1.0, decay)], torch.device("cpu"))
    expected, mean, square, clipped = START, np.zeros_like(START), np.zeros_like(START), 0
    for step in range(1, 26):
        gradient = GRADIENTS[step % STEPS] * (20 if step % 8 == 0 else 1)
        optimizer.param_groups[0]["lr"] = lr = LR * (1 - step / 30)
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        first, second = (beta * (1 - beta ** (step - 1)) / (1 - beta**step) for beta in (beta1, beta2))
        mean, square = first * mean + (1 - first) * gradient, second * square + (1 - second) * gradient**2
        rms = np.sqrt(np.mean(gradient**2 / np.maximum(square, eps**2)))
        clipped += rms > 1
        lr /= max(1, rms)
        expected = expected * (1 - lr * decay) - lr * mean / (np.sqrt(square) + eps)
        np.testing.assert_allclose(weight.detach().numpy(), expected)
    assert clipped >= 3


def continued(option: str, overrides: dict[str, Any], steps: int, spike: int) -> tuple[np.ndarray, list[Any]]:
    """Return a weight after steps under a moving LR, with the gradients; halfway, another optimizer takes over.

    It gets the state by way of other groups, which keep only what is in the state of parameters and in groups.
    """
    pytest.importorskip("pytorch_optimizer")
    weight, given = nn.Parameter(torch.tensor(START)), []
    config = compose([f"optimizer={option}", *(f"optimizer.{key}={value}" for key, value in overrides.items())])

    def make() -> torch.optim.Optimizer:
        decay = config.optimizer.node()["weight_decay"]
        return make_optimizer(config, [Group("all", (("weight", weight),), LR, 1.0, decay)], torch.device("cpu"))

    optimizer = make()
    for step in range(1, steps + 1):
        if step == steps // 2:
            state = regroup(optimizer.state_dict(), [["weight"]], [["weight"]])
            optimizer = make()
            optimizer.load_state_dict(state)
        gradient = GRADIENTS[step % STEPS] * (500 if step == spike else 1)
        lr = optimizer.param_groups[0]["lr"] = LR * (1 - step / 40)
        given.append((lr, gradient, optimizer.param_groups[0].get("factor", 1.0)))
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    return weight.detach().numpy(), given


def test_spam() -> None:
    """Huang et al., 2025, algorithm 1: the factor of a step is in its group before the step."""
    beta1, beta2, eps, decay, gap, warmup, limit = 0.9, 0.999, 1e-6, 0.05, 7, 4, 50
    settings = {"update_proj_gap": gap, "warmup_epoch": warmup, "grad_accu_steps": 2, "threshold": limit}
    found, given = continued("spam", settings, 24, spike=20)
    weight, mean, square, factors = START, np.zeros_like(START), np.zeros_like(START), []
    for step, (lr, gradient, _) in enumerate(given, start=1):
        since = step % gap
        if since == 0:
            mean, square = np.zeros_like(START), np.zeros_like(START)
        if since >= 2:
            spikes = gradient**2 > limit * square
            assert spikes.all() == (step == 20)
            gradient = np.where(spikes, np.sign(gradient) * np.sqrt(limit * square), gradient)
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        rising = step >= gap and since < warmup
        factors.append(1 - 0.99 * (1 + np.cos(np.pi * (since + 1) / (warmup + 1))) / 2 if rising else 1.0)
        first, second = mean / (1 - beta1**step), square / (1 - beta2**step)
        weight = weight - factors[-1] * lr * first / (np.sqrt(second) + eps / np.sqrt(1 - beta2**step))
        weight = weight * (1 - lr * decay)
    np.testing.assert_allclose(found, weight)
    np.testing.assert_allclose([factor for *_, factor in given], factors)


def test_stable_spam() -> None:
    """Huang et al., 2025 (arXiv 2502.17055), algorithm 1; no step is multiplied by anything else than the LR."""
    beta1, beta2, eps, decay, gap = 0.9, 0.999, 1e-8, 0.05, 7
    gamma1, gamma2, theta = 0.7, 0.9, 0.999
    found, given = continued("stable_spam", {"update_proj_gap": gap}, 24, spike=20)
    weight, mean, square, largest, norm, norm_square, count = START, 0 * START, 0 * START, 0.0, 0.0, 0.0, 0
    for step, (lr, gradient, _) in enumerate(given, start=1):
        count += 1
        if step % gap == 0:
            mean, square, count = 0 * START, 0 * START, 1
        weight = weight * (1 - lr * decay)
        peak = np.abs(gradient).max()
        largest = theta * largest + (1 - theta) * peak
        limit = largest / (1 - theta**step)
        gradient = np.where(np.abs(gradient) > limit, gradient / peak * limit, gradient)
        length = np.linalg.norm(gradient)
        norm = gamma1 * norm + (1 - gamma1) * length
        norm_square = gamma2 * norm_square + (1 - gamma2) * length**2
        scale = norm / (1 - gamma1**step) / (np.sqrt(norm_square / (1 - gamma2**step)) + eps)
        gradient = gradient / length * scale
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        weight = weight - lr * mean / (1 - beta1**count) / (np.sqrt(square / (1 - beta2**count)) + eps)
    np.testing.assert_allclose(found, weight)


def test_adamc_is_a_schedule_of_the_weight_decay() -> None:
    """Defazio, 2025, algorithm 1: the decay of a step is LR^2 / peak LR times the weight decay."""
    given = ["task=plan", "horizon.steps=30", "schedule.warmup=5", "+schedule.also.weight_decay={}", "layers=uniform"]
    plan, steps = compile_plan(compose(given)), np.arange(30)
    np.testing.assert_allclose(plan.setting("weight_decay", steps)[:, 0], 0.05 * plan.lr(steps)[:, 0] / 3e-3)
    own = "{_target_: lrflow.schedules.Schedule, shape: {_target_: lrflow.schedules.Cosine}}"
    head = f"{{name: head, match: 'head.*', schedule: {own}}}"
    plan = compile_plan(compose([*given, f"layers.rules=[{head}, {{name: rest, match: '*'}}]"]))
    decay = plan.setting("weight_decay", steps)
    np.testing.assert_allclose(decay[:, plan.names.index("rest")], 0.05 * plan.lr(steps)[:, 1] / 3e-3)
    assert np.isnan(decay[:, plan.names.index("head")]).all()  # it does not move


def test_adopt() -> None:
    """Taniguchi et al., 2024, algorithm 2; the first step only measures."""
    (beta1, beta2), eps, decay = (0.9, 0.9999), 1e-6, 0.05
    weight, mean, square = START * (1 - LR * decay), np.zeros_like(START), GRADIENTS[0] ** 2
    for step, gradient in enumerate(GRADIENTS[1:], start=2):
        scaled = gradient / np.maximum(np.sqrt(square), eps)
        mean = beta1 * mean + (1 - beta1) * np.clip(scaled, -(step**0.25), step**0.25)
        weight = weight - LR * (mean + decay * weight)
        square = beta2 * square + (1 - beta2) * gradient**2
    np.testing.assert_allclose(trained("adopt"), weight)


def test_ademamix() -> None:
    """Pagliardini et al., 2025, algorithm 1, without warmups of alpha and beta3."""
    (beta1, beta2, beta3), alpha, eps, decay = (0.9, 0.999, 0.9999), 5.0, 1e-8, 0.05
    weight, fast, slow, square = START, *(np.zeros_like(START) for _ in range(3))
    for step, gradient in enumerate(GRADIENTS, start=1):
        fast = beta1 * fast + (1 - beta1) * gradient
        slow = beta3 * slow + (1 - beta3) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        update = (fast / (1 - beta1**step) + alpha * slow) / (np.sqrt(square / (1 - beta2**step)) + eps)
        weight = weight - LR * (update + decay * weight)
    np.testing.assert_allclose(trained("ademamix"), weight)


def test_adan() -> None:
    """Xie et al., 2024, algorithm 1, in whose betas a bias correction is usual: (1 - beta) here is beta there."""
    (beta1, beta2, beta3), eps, decay = (0.98, 0.92, 0.99), 1e-8, 0.02
    weight, mean, change, square = START, *(np.zeros_like(START) for _ in range(3))
    before = GRADIENTS[0]
    for step, gradient in enumerate(GRADIENTS, start=1):
        difference, before = gradient - before, gradient
        mean = beta1 * mean + (1 - beta1) * gradient
        change = beta2 * change + (1 - beta2) * difference
        square = beta3 * square + (1 - beta3) * (gradient + beta2 * difference) ** 2
        root = np.sqrt(square / (1 - beta3**step)) + eps
        update = (mean / (1 - beta1**step) + beta2 * change / (1 - beta2**step)) / root
        weight = (weight - LR * update) / (1 + LR * decay)
    np.testing.assert_allclose(trained("adan"), weight)


def test_adahessian_of_a_quadratic() -> None:
    """Yao et al., 2021: of a diagonal Hessian, Hutchinson's estimate with signs is exact."""
    pytest.importorskip("pytorch_optimizer")
    curvature, beta1, beta2, eps = np.array([1.0, 10.0, 100.0]), 0.9, 0.999, 1e-4
    weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
    config = compose(["optimizer=adahessian", "optimizer.lr=0.1", f"optimizer.eps={eps}"])
    optimizer = make_optimizer(config, [Group("all", (("w", weight),), 0.1, 1.0, 0.0)], torch.device("cpu"))
    expected, mean, square = np.ones(3), np.zeros(3), np.zeros(3)
    for step in range(1, STEPS):
        optimizer.zero_grad()
        (torch.tensor(curvature) * weight**2).sum().div(2).backward(create_graph=True)
        optimizer.step()
        mean = beta1 * mean + (1 - beta1) * curvature * expected
        square = beta2 * square + (1 - beta2) * curvature**2
        expected = expected - 0.1 * (mean / (1 - beta1**step)) / (np.sqrt(square / (1 - beta2**step)) + eps)
    np.testing.assert_allclose(weight.detach().numpy(), expected)
    np.testing.assert_allclose(expected, expected[0], rtol=1e-4)  # a Newton step is the same in every direction


class TestASGD:
    def gradients(self, optimizer: torch.optim.Optimizer, weight: nn.Parameter, lrs: list[float]) -> None:
        for gradient, lr in zip(GRADIENTS, lrs, strict=True):
            optimizer.param_groups[0]["lr"] = lr
            weight.grad = torch.tensor(gradient)
            optimizer.step()

    @pytest.mark.parametrize("foreach", [False, True])
    def test_at_a_constant_lr_it_is_torchs(self, foreach: bool) -> None:
        ours, theirs = nn.Parameter(torch.tensor(START)), nn.Parameter(torch.tensor(START))
        settings: dict[str, Any] = {"lr": 0.1, "lambd": 0.01, "t0": 2, "weight_decay": 0.1, "foreach": foreach}
        mine, reference = ASGD([ours], **settings), torch.optim.ASGD([theirs], **settings)
        for optimizer, weight in ((mine, ours), (reference, theirs)):
            self.gradients(optimizer, weight, [0.1] * STEPS)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(mine.state[ours]["ax"], reference.state[theirs]["ax"])

    @pytest.mark.parametrize("lr", [float, lambda value: torch.tensor(value, dtype=torch.float64)])
    def test_its_weights_are_those_of_sgd_at_any_lr_and_its_average_is_theirs(self, lr: Callable) -> None:
        """torch's takes the LR of the step before."""
        ours, theirs = nn.Parameter(torch.tensor(START)), nn.Parameter(torch.tensor(START))
        lrs, visited = [0.1 * (step + 1) for step in range(STEPS)], []
        sgd = torch.optim.SGD([theirs], lr=0.1)
        sgd.register_step_post_hook(lambda *_: visited.append(theirs.detach().clone()))
        self.gradients(sgd, theirs, lrs)
        optimizer = ASGD([ours], lr=lr(0.1))
        self.gradients(optimizer, ours, [lr(value) for value in lrs])
        torch.testing.assert_close(ours, theirs)
        trained = ours.detach().clone()
        for _ in range(2):  # twice is once
            optimizer.eval()
        torch.testing.assert_close(ours.detach(), torch.stack(visited[1:]).mean(0))  # as torch counts: after the first
        optimizer.train()
        assert torch.equal(ours, trained)

    def test_a_checkpoint_from_evaluation_resumes_in_training(self) -> None:
        weight = nn.Parameter(torch.tensor(START))
        optimizer = ASGD([weight], lr=0.1)
        self.gradients(optimizer, weight, [0.1] * STEPS)
        trained = weight.detach().clone()
        optimizer.eval()
        other = nn.Parameter(weight.detach().clone())
        again = ASGD([other], lr=0.1)
        again.load_state_dict(optimizer.state_dict())
        again.train()
        assert torch.equal(other, trained)


class TestShampoo:
    @pytest.mark.parametrize("start", [3, 25], ids=["preconditioned", "grafted"])
    @pytest.mark.parametrize("graft", [0, 1, 2, 3, 4])
    def test_its_state_is_plain_and_resumes_exactly(self, graft: int, start: int) -> None:
        """Resumed after step 5. Until `start` the steps are those of the graft, from its momentum and statistics."""
        pytest.importorskip("pytorch_optimizer")
        overrides = [f"optimizer.graft_type={graft}", "optimizer.preconditioning_compute_steps=2"]
        config = compose(["optimizer=shampoo", *overrides, f"optimizer.start_preconditioning_step={start}"])

        def make() -> tuple[nn.Module, torch.optim.Optimizer]:
            torch.manual_seed(0)
            model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 12))  # blocks of one and many shapes
            groups = resolve(model, [Rule("all", match="*")], 0.01, 0.1)
            return model, make_optimizer(config, groups, torch.device("cpu"))

        def steps(model: nn.Module, optimizer: torch.optim.Optimizer, first: int) -> None:
            for seed in range(first, first + 5):
                inputs = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
                optimizer.zero_grad()
                model(inputs).square().mean().backward()
                optimizer.step()

        model, optimizer = make()
        steps(model, optimizer, 0)
        file = io.BytesIO()
        torch.save((model.state_dict(), optimizer.state_dict()), file)
        file.seek(0)
        weights, state = torch.load(file, weights_only=True)
        other, again = make()
        other.load_state_dict(weights)
        again.load_state_dict(state)
        steps(model, optimizer, 5)
        steps(other, again, 5)
        for left, right in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(left, right)


TORCH = ["sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "rprop", "adam", "amsgrad", "adamw"]
TORCH += ["adamax", "nadam", "radam", "adafactor"]


@pytest.mark.parametrize("option", TORCH)
def test_a_tensor_lr_changes_nothing(option: str) -> None:
    """The optimizer as compiled in a run."""
    found = []
    for compiled in ("false", "true"):
        weight = nn.Parameter(torch.tensor(START))
        config = compose([f"optimizer={option}", f"trainer.compile={compiled}"])
        decay = config.optimizer.node().get("weight_decay")
        group = Group("all", (("w", weight),), config.optimizer.lr, 1.0, decay)
        optimizer = make_optimizer(config, [group], torch.device("cpu"))
        assert isinstance(optimizer.param_groups[0]["lr"], torch.Tensor) == (compiled == "true")
        for gradient in GRADIENTS:
            weight.grad = torch.tensor(gradient)
            optimizer.step()
        found.append(weight.detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-8)  # fused kernels take the LR in float32
    assert not torch.equal(found[0], torch.tensor(START))


def test_rprop_warns_of_a_schedule() -> None:
    assert advise(compile_plan(compose(["optimizer=rprop", "task=plan"])), {None: torch.optim.Rprop}) == []
    for schedule in ("cosine", "linear", "constant_with_warmup"):
        plan = compile_plan(compose(["optimizer=rprop", "task=plan", f"schedule={schedule}"]))
        (advice,) = advise(plan, {None: torch.optim.Rprop})
        assert f"the LR of step 0, {plan.lr(0)[0]:.3g}, and the schedule has no effect after that" in advice


@pytest.mark.parametrize("option", ["lion", "asgd"])
def test_a_step_that_counts_in_python_is_not_compiled(option: str) -> None:
    pytest.importorskip("pytorch_optimizer")
    config = compose([f"optimizer={option}", "trainer.compile=true"])
    groups = [Group("all", (("w", nn.Parameter(torch.ones(2))),), 0.1, 1.0)]
    optimizer = make_optimizer(config, groups, torch.device("cpu"))
    assert optimizer.param_groups[0]["lr"] == 0.1
