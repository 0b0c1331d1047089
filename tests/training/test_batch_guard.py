"""A guard of batches asks for a rollback once the losses of many steps in a row are not finite."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lrflow.training.batch_guard import PATIENCE, BatchGuard


@pytest.mark.parametrize("accumulate", [1, 3, 2 * PATIENCE])
def test_it_counts_steps_however_many_batches_they_have(accumulate: int) -> None:
    asked: list[tuple[int, int]] = []
    rollback = SimpleNamespace(
        every=1, note_skipped=lambda step: None, request=lambda since, reason, step: asked.append((since, step))
    )
    trainer = SimpleNamespace(world_size=1, lightning_module=torch.nn.BatchNorm1d(2))
    guard = BatchGuard(rollback)
    guard.begin(100, (), is_certain=False)

    def train(loss: float) -> Any:
        result = SimpleNamespace(closure_loss=torch.tensor(loss))
        return guard.train(trainer, torch.zeros(1), lambda: result)  # type: ignore[arg-type, return-value]

    for step in range(3 + PATIENCE):
        for _ in range(accumulate):
            trainer.global_step = step
            assert (train(0.5 if step == 2 else torch.nan) is None) == (step != 2)
            assert guard.is_failing == (step != 2)
    assert asked == [(3, 2 + PATIENCE)]


@pytest.mark.parametrize(
    ("batches", "found"),
    [
        # (value of the input, loss) of steps 0, 1, ...; the step after which the guard is known to stay on
        ([(1, 0.5), (1, 0.5), (1, 0.5), (1, 0.5)], None),
        ([(1, 0.5), (torch.nan, 0.5), (1, 0.5), (1, 0.5)], 1),
        ([(1, 0.5), (1, torch.nan), (1, 0.5), (1, 0.5)], 2),
        ([(1, torch.nan), (1, torch.nan), (1, torch.nan), (1, torch.nan)], None),  # it may be the weights
    ],
)
def test_once_a_batch_is_at_fault_it_stays_on(batches: list[tuple[float, float]], found: int | None) -> None:
    rollback = SimpleNamespace(every=1, note_skipped=lambda step: None)
    trainer = SimpleNamespace(world_size=1, lightning_module=torch.nn.BatchNorm1d(2))
    guard = BatchGuard(rollback)
    guard.begin(3, (), is_certain=False)
    for step, (value, loss) in enumerate(batches):
        trainer.global_step = step
        result = SimpleNamespace(closure_loss=torch.tensor(loss))
        guard.train(trainer, torch.tensor([value]), lambda result=result: result)  # type: ignore[arg-type, misc]
        resumed = BatchGuard(rollback)
        resumed.load_state_dict(guard.state_dict())
        trainer.global_step = 10**6
        assert guard.is_active(trainer) == resumed.is_active(trainer) == (found is not None and step >= found)  # type: ignore[arg-type]


def test_weights_without_a_finite_gradient_are_a_reason_to_roll_back() -> None:
    asked: list[tuple[int, str, int]] = []
    rollback = SimpleNamespace(
        every=1, note_skipped=lambda step: None, request=lambda since, reason, step: asked.append((since, reason, step))
    )
    model = torch.nn.BatchNorm1d(2)
    module = SimpleNamespace(buffers=model.buffers, automatic_optimization=True)
    trainer = SimpleNamespace(world_size=1, lightning_module=module, precision="32-true")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = BatchGuard(rollback)
    guard.begin(100, (), is_certain=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def train() -> Any:
        model(torch.ones(3, 2))
        return SimpleNamespace(closure_loss=torch.tensor(0.5))

    for step in range(PATIENCE):
        trainer.global_step = step
        assert guard.train(trainer, torch.zeros(1), train) is not None  # type: ignore[arg-type]
        model.weight.grad = torch.full((2,), torch.nan)
        guard.check_gradient(trainer, optimizer)  # type: ignore[arg-type]
        assert model.weight.grad is None
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert guard.is_failing
        copied = BatchGuard(rollback)
        copied.load_state_dict(guard.state_dict())
        guard = copied
    assert asked == [(0, f"no gradient of {PATIENCE} steps was finite", PATIENCE - 1)]
