"""How NonFinite responds to the signals of consecutive steps."""

from __future__ import annotations

import logging
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from lrflow.config.schemas.health import Action
from lrflow.errors import LrflowError
from lrflow.finding import Finding
from lrflow.health import DivergedError, NonFinite
from lrflow.training import Block

FINE = np.array([1.0, 0.9, 0.8])


def look(
    watcher: NonFinite,
    first: int = 0,
    loss: np.ndarray = FINE,
    grad_norm: np.ndarray = FINE,
    lr: np.ndarray | None = None,
    precision: str = "32-true",
    skipped: np.ndarray | None = None,
) -> None:
    rates = np.full((len(loss), 1), 0.1) if lr is None else lr
    skips = np.zeros(len(loss), bool) if skipped is None else skipped
    block = Block(first, loss, grad_norm, np.zeros(len(loss)), rates, rates, skipped=skips)
    watcher.on_block(cast(Any, SimpleNamespace(precision=precision)), block)


def weigh(watcher: NonFinite, steps: int, largest: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.tensor([0.0, -largest]))], 0.1)
    watcher.before_save(cast(Any, SimpleNamespace(optimizers=[optimizer], global_step=steps)))


def test_finite_steps_report_nothing(caplog: pytest.LogCaptureFixture) -> None:
    for action in ("stop", "warn", "ignore"):
        look(NonFinite(action))
        look(NonFinite(action), loss=np.array([1e308, -1e308, 0.0]))
    assert not caplog.records


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_step_that_is_not_finite_is_reported(value: float) -> None:
    with pytest.raises(DivergedError) as caught:
        look(NonFinite(), first=40, loss=np.array([1.0, value, np.nan]))
    assert str(caught.value) == (
        f"step 41: the loss is {value}, at LR 0.1\n"
        "    the LR is likely too high, or a batch holds NaN: "
        "try a tenth of it, clip=norm or health=recover"
    )
    assert isinstance(caught.value, LrflowError)


def test_the_gradient_norm_is_reported_if_the_loss_is_finite() -> None:
    with pytest.raises(DivergedError, match="step 2: the gradient norm is inf, at LR"):
        look(NonFinite(), grad_norm=np.array([1.0, 1.0, np.inf]))


def test_the_loss_is_reported_before_the_gradient_of_the_same_step() -> None:
    with pytest.raises(DivergedError, match="step 1: the loss is nan"):
        look(NonFinite(), loss=np.array([1.0, np.nan, 1.0]), grad_norm=np.array([1.0, np.nan, 1.0]))


def test_at_the_first_step_the_hint_is_the_data() -> None:
    with pytest.raises(DivergedError, match="it was so from the first step: look for NaN or infinite values in the da"):
        look(NonFinite(), loss=np.array([np.nan, 1.0, 1.0]))


def test_every_lr_of_the_step_is_listed_once() -> None:
    lr = np.array([[0.1, 0.01, 0.1]] * 3)
    with pytest.raises(DivergedError, match=r"at LR 0\.01, 0\.1\n"):
        look(NonFinite(), first=5, loss=np.array([1.0, 1.0, np.nan]), lr=lr)


def test_a_warning_is_given_once(caplog: pytest.LogCaptureFixture) -> None:
    watcher = NonFinite("warn")
    for first in (3, 6):
        look(watcher, first=first, loss=np.array([np.nan] * 3))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith("step 3: the loss is nan, at LR 0.1; the LR is likely too high")


def test_action_ignore(caplog: pytest.LogCaptureFixture) -> None:
    look(NonFinite("ignore"), loss=np.array([np.nan] * 3))
    assert not caplog.records


def test_a_gradient_scaler_may_skip_steps() -> None:
    """The scaler raises its scale until gradients overflow; a nonfinite loss is still an error."""
    look(NonFinite(), grad_norm=np.array([np.inf, np.nan, 1.0]), precision="16-mixed")
    with pytest.raises(DivergedError, match="the loss is nan"):
        look(NonFinite(), loss=np.array([1.0, np.nan, 1.0]), precision="16-mixed")


def test_a_step_that_the_module_skipped_has_no_loss() -> None:
    losses, norms = np.array([1.0, np.nan, 1.0]), np.array([1.0, 0.0, 1.0])
    look(NonFinite(), loss=losses, grad_norm=norms, skipped=np.array([False, True, False]))
    with pytest.raises(DivergedError, match="step 1: the loss is nan"):
        look(NonFinite(), loss=losses, grad_norm=norms)


@pytest.mark.parametrize("largest", [np.nan, np.inf])
def test_weights_that_are_not_finite(largest: float) -> None:
    with pytest.raises(DivergedError) as caught:
        weigh(NonFinite(), 7, largest)
    assert str(caught.value) == (
        "after 7 steps: the weights are not finite\n"
        "    the LR is likely too high, or a batch holds NaN: "
        "try a tenth of it, clip=norm or health=recover"
    )
    weigh(NonFinite("ignore"), 7, largest)


def test_finite_weights_may_be_large() -> None:
    weigh(NonFinite(), 7, 3e38)


def test_a_resumed_run_does_not_warn_again(caplog: pytest.LogCaptureFixture) -> None:
    watcher, resumed = NonFinite("warn"), NonFinite("warn")
    assert watcher.state_dict() == {}
    look(watcher, loss=np.array([np.nan] * 3))
    resumed.load_state_dict(watcher.state_dict())
    look(resumed, first=3, loss=np.array([np.nan] * 3))
    assert len(caplog.records) == 1


def test_a_run_resumed_with_action_stop_is_stopped() -> None:
    resumed = NonFinite("stop")
    resumed.load_state_dict({"action": "ignore"})
    with pytest.raises(DivergedError):
        look(resumed, loss=np.array([np.nan] * 3))


@pytest.mark.parametrize("action", ["stop", "warn", "ignore"])
def test_what_is_not_finite_is_a_finding(action: Action) -> None:
    recorded: list[Finding] = []
    watcher = NonFinite(action)
    watcher.name = "nonfinite"
    report = SimpleNamespace(record=lambda trainer, finding: recorded.append(finding))
    run = SimpleNamespace(findings=report, lr=0.3)
    watcher.run = cast(Any, run)
    with suppress(DivergedError):
        look(watcher, first=40, loss=np.array([1.0, np.nan, np.nan]))
    if action == "ignore":
        assert not recorded
    else:
        (finding,) = recorded
        assert (finding.kind, finding.step, finding.since, finding.message) == ("nonfinite", 42, 41, "the loss is nan")
        assert finding.remedy == "health=recover, or optimizer.lr=0.03"
