"""What other tools warn about: their rules with their defaults, over the recorded series of a run.

Each rule returns the step at which it first speaks, or None. They were written for what they are named after, and are
judged as classifiers of the kinds that a reader would take them for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from benchmarks.health.recorded import Floats, Recorded

HIGH = ("diverging", "too_high", "nonfinite")
SLOW = ("too_low", "too_high")

Rule = Callable[[Recorded], int | None]


@dataclass(frozen=True)
class Peer:
    """A rule of another tool.

    Args:
        name: tool and rule.
        kinds: what it is judged as a detector of.
        rule: the rule.
    """

    name: str
    kinds: tuple[str, ...]
    rule: Rule


def _first(speaks: np.ndarray, steps: np.ndarray | None = None) -> int | None:
    """Return the step of the first true value."""
    if not speaks.any():
        return None
    at = int(np.argmax(speaks))
    return at if steps is None else int(steps[at])


def _in_a_row(speaks: np.ndarray, count: int) -> np.ndarray:
    """Return whether this value and the `count` - 1 before it are true."""
    if len(speaks) < count:
        return np.zeros(len(speaks), bool)
    return np.r_[np.zeros(count - 1, bool), sliding_window_view(speaks, count).all(1)]


def sagemaker_loss_not_decreasing(run: Recorded) -> int | None:
    """LossNotDecreasing: the loss after each 10 steps is no lower than before (`diff_percent` 0.1, `num_steps` 10)."""
    loss = run.loss[::10]
    return _first(~(loss[1:] < loss[:-1] * (1 - 0.001)), np.arange(1, len(loss)) * 10)


def sagemaker_overfit(run: Recorded) -> int | None:
    """Overfit: validation above training loss by more than 10% (`ratio_threshold` 0.1, `patience` 1)."""
    if "val/loss" not in run.metrics:
        return None
    train = np.array([_mean_before(run.loss, step) for step in run.validated])
    return _first((run.metrics["val/loss"] - train) / train > 0.1, run.validated)


def sagemaker_overtraining(run: Recorded) -> int | None:
    """Overtraining: no validation improved by 10% in 10 of them (`patience_validation` 10, `delta` 0.1)."""
    return _plateau(run, patience=10, delta=0.1)


def sagemaker_update_ratio(run: Recorded) -> int | None:
    """WeightUpdateRatio: the ratio of a layer is above 10 (`large_threshold`)."""
    return _first(np.any(run.update_ratio > 10.0, axis=1), run.measured)


def sagemaker_small_update(run: Recorded) -> int | None:
    """WeightUpdateRatio: the ratio of a layer is below 1e-8 (`small_threshold`)."""
    return _first(np.any(run.update_ratio < 1e-8, axis=1), run.measured)


def sagemaker_exploding(run: Recorded) -> int | None:
    """ExplodingTensor: a loss or a gradient is not finite."""
    return _first(~(np.isfinite(run.loss) & np.isfinite(run.grad_norm)))


def lightning_spike(run: Recorded) -> int | None:
    """SpikeDetection of Lightning: a rising loss, off its running mean of 10 by twice that mean, or not finite."""
    stop = _first(~np.isfinite(run.loss))
    loss = run.loss[:stop]
    total = np.r_[0.0, np.cumsum(loss)]
    last = np.arange(1, len(loss))
    mean = (total[last] - total[np.maximum(last - 10, 0)]) / np.minimum(last, 10)
    found = _first((loss[1:] > loss[:-1]) & (np.abs(loss[1:] - mean) >= 2.0 * np.abs(mean)), last)
    return stop if found is None else found


def llm_foundry_kill_loss_spike(run: Recorded) -> int | None:
    """KillLossSpike of llm-foundry: 4 steps above twice a running mean, or half the window above the cap.

    The window is 5% of the run, at least 100 steps; the cap is 10, or the highest loss of the first window.
    """
    size = max(round(0.05 * run.steps), 100)
    loss, outliers = np.where(np.isfinite(run.loss), run.loss, np.inf), 0
    cap = min(10.0, float(loss[:size].max())) if run.steps > size else 10.0
    for step in range(size, run.steps):
        window = loss[step - size : step]
        outliers = outliers + 1 if loss[step] > 2 * window.mean() or not np.isfinite(loss[step]) else 0
        if outliers >= 4 or (window > cap).sum() >= size / 2:
            return step
    return None


def olmo_spike(run: Recorded) -> int | None:
    """StabilityMonitor of OLMo-core: loss or gradient norm above their mean of 128 steps by 6 standard deviations."""
    found = [_first(_above_deviations(values, 128, 6.0)) for values in (run.loss, run.grad_norm)]
    return min((step for step in found if step is not None), default=None)


def megatron_spike(run: Recorded) -> int | None:
    """Megatron's rerun machine: a loss above 10 times the largest of the first 100, or not finite."""
    largest = run.loss[:100][np.isfinite(run.loss[:100])].max(initial=0.0)
    return _first(~np.isfinite(run.loss) | ((np.arange(run.steps) >= 100) & (run.loss > 10 * largest)))


def axolotl_unstable(run: Recorded) -> int | None:
    """axolotl's guide: a gradient norm above 100 is unstable; three steps, as its loss watchdog's patience."""
    return _first(_in_a_row(~(run.grad_norm <= 100.0), 3))


def axolotl_small(run: Recorded) -> int | None:
    """axolotl's guide: healthy gradient norms are 0.1 to 10; three steps below."""
    return _first(_in_a_row(run.grad_norm < 0.1, 3))


def keras_plateau(run: Recorded) -> int | None:
    """ReduceLROnPlateau of keras: 10 validations without a loss lower by 1e-4."""
    return _plateau(run, patience=10, delta=1e-4)


def _plateau(run: Recorded, patience: int, delta: float) -> int | None:
    """Return the step of the first validation that ends `patience` of them without a loss lower by `delta`."""
    best, waited = np.inf, 0
    for step, loss in zip(run.validated, run.metrics.get("val/loss", ()), strict=False):
        best, waited = (loss, 0) if loss < best - delta else (best, waited + 1)
        if waited >= patience:
            return int(step)
    return None


def _mean_before(loss: Floats, step: int, count: int = 20) -> float:
    return float(loss[max(0, step - count) : step].mean())


def _above_deviations(values: Floats, size: int, deviations: float) -> np.ndarray:
    """Return whether each value is above the mean of the `size` before it by so many standard deviations."""
    if len(values) <= size:
        return np.zeros(len(values), bool)
    before = sliding_window_view(values, size)[:-1]
    return np.r_[np.zeros(size, bool), ~(values[size:] <= before.mean(1) + deviations * before.std(1))]


PEERS = (
    Peer("SageMaker ExplodingTensor", HIGH, sagemaker_exploding),
    Peer("SageMaker WeightUpdateRatio > 10", HIGH, sagemaker_update_ratio),
    Peer("SageMaker WeightUpdateRatio < 1e-8", ("too_low",), sagemaker_small_update),
    Peer("SageMaker LossNotDecreasing", SLOW, sagemaker_loss_not_decreasing),
    Peer("SageMaker Overfit", ("overfitting",), sagemaker_overfit),
    Peer("SageMaker Overtraining", ("overfitting",), sagemaker_overtraining),
    Peer("Lightning SpikeDetection", HIGH, lightning_spike),
    Peer("llm-foundry KillLossSpike", HIGH, llm_foundry_kill_loss_spike),
    Peer("OLMo-core 6 sigma", HIGH, olmo_spike),
    Peer("Megatron 10x", HIGH, megatron_spike),
    Peer("axolotl gradient norm > 100", HIGH, axolotl_unstable),
    Peer("axolotl gradient norm < 0.1", ("too_low",), axolotl_small),
    Peer("keras ReduceLROnPlateau", (*SLOW, "overfitting"), keras_plateau),
)


def speak(run: Recorded) -> dict[str, int]:
    """Return the rules that speak during a run, by name, with the step at which they first do."""
    with np.errstate(all="ignore"):
        found = {peer.name: peer.rule(run) for peer in PEERS}
    return {name: step for name, step in found.items() if step is not None}
