"""Range tests of other libraries: Lightning's own code, torch-lr-finder's and fastai's after their formulas."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
from pytorch_lightning.tuner import Tuner

from lrflow import assemble
from lrflow.config import compose
from lrflow.training import Block, Signals
from lrflow.training.monitor import Monitor
from lrflow.tuning.range_test import sweep_plan
from lrflow.tuning.short_runs import NEVER, short_fit

Floats = npt.NDArray[np.float64]
Answer = dict[str, Any]
"""`answers`: LR by name of the rule (NaN: no answer); `steps`: number of steps."""

LOW, HIGH, STEPS = 1e-7, 10.0, 100  # of torch-lr-finder (its README and its defaults) and of fastai
NAN = float("nan")


def lightning(options: Sequence[str], seed: int) -> Answer:
    """Return the suggestion of Lightning's `Tuner.lr_find` with its defaults."""
    config = compose([*options, f"seed={seed}"])
    pl.seed_everything(seed, verbose=False)
    data, module = assemble.build_data(config), assemble.build_module(config)
    factory = assemble.locate(config.optimizer.target)
    node = {name: value for name, value in config.optimizer.node().items() if name not in ("_target_", "fused", "lr")}
    module.lr = 1e-3  # type: ignore[assignment]
    module.configure_optimizers = lambda: factory(module.parameters(), lr=module.lr, **node)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        trainer = pl.Trainer(
            max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=folder, check_val_every_n_epoch=NEVER,
        )  # fmt: skip
        found = Tuner(trainer).lr_find(module, datamodule=data)
    suggestion = found.suggestion() if found else None
    steps = len(found.results["loss"]) if found else 0
    return {"answers": {"Lightning": NAN if suggestion is None else float(suggestion)}, "steps": steps}


def torch_lr_finder(options: Sequence[str], seed: int) -> Answer:
    """Return the suggestion of torch-lr-finder (0.2.2, `range_test` and `plot`)."""
    rates = np.geomspace(LOW, HIGH, STEPS)
    losses = _sweep(options, seed, rates, lambda losses: len(falling_behind(losses)) < len(losses))
    return {"answers": {"torch-lr-finder": steepest_step(rates, losses)}, "steps": len(falling_behind(losses))}


def fastai(options: Sequence[str], seed: int) -> Answer:
    """Return the suggestions of the four rules of fastai's `lr_find` (2.8)."""
    rates = LOW * (HIGH / LOW) ** (np.arange(STEPS) / STEPS)
    losses = _sweep(options, seed, rates, lambda losses: len(debiased(losses)) < len(losses))
    smoothed = debiased(losses)
    answers = {name: rule(*_kept(rates, smoothed)) for name, rule in FASTAI.items()}
    return {"answers": {f"fastai {name}": lr for name, lr in answers.items()}, "steps": len(smoothed)}


def _sweep(options: Sequence[str], seed: int, rates: Floats, ended: Callable[[Floats], bool]) -> Floats:
    """The losses of a run whose LR rises over `rates`, until it is `ended`; at most [rates]."""
    config = compose([*options, f"seed={seed}", "trainer.progress=false"])
    followed = _Followed(ended)
    with tempfile.TemporaryDirectory() as folder:
        short_fit(
            config,
            seed,
            len(rates),
            Path(folder),
            lambda groups: sweep_plan(groups, config.optimizer.lr, float(rates[0]), float(rates[-1]), len(rates)),
            lambda _, __, plan: [Signals(plan, 10), followed],
        )
    return np.array(followed.losses[: len(rates)])


class _Followed(Monitor):
    """Records the losses of a run, and stops it once `ended` is true of them."""

    def __init__(self, ended: Callable[[Floats], bool]) -> None:
        self.losses: list[float] = []
        self._ended = ended

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        self.losses.extend(block.loss.tolist())
        trainer.should_stop |= self._ended(np.array(self.losses))


def falling_behind(losses: Floats, share: float = 0.05, threshold: float = 5.0) -> Floats:
    """Return torch-lr-finder's smoothed losses, up to the step at which it stops.

    Args:
        losses: loss of each step.
        share: weight of a new loss in the smoothed one, which starts at the first loss.
        threshold: stop above this multiple of the lowest smoothed loss so far.
    """
    smoothed: list[float] = []
    for loss in losses.tolist():
        smoothed.append(share * loss + (1 - share) * smoothed[-1] if smoothed else loss)
        if smoothed[-1] > threshold * min(smoothed):
            break
    return np.array(smoothed)


def steepest_step(rates: Floats, losses: Floats, skip: tuple[int, int] = (10, 5)) -> float:
    """Return torch-lr-finder's suggestion: the LR with the steepest fall per step; NaN for too few steps.

    Args:
        rates: LRs; [n].
        losses: unsmoothed loss of each step; at most [n].
        skip: number of points to ignore at the start and at the end.
    """
    smoothed = falling_behind(losses)
    if len(smoothed) < sum(skip) + 2:
        return NAN
    inner = slice(skip[0], len(smoothed) - skip[1])
    return float(rates[inner][np.argmin(np.gradient(smoothed[inner]))])


def debiased(losses: Floats, beta: float = 0.98, threshold: float = 4.0) -> Floats:
    """Return fastai's smoothed losses, up to the step at which it stops.

    Args:
        losses: loss of each step.
        beta: decay of the running mean, which is divided by 1 - beta^n.
        threshold: stop above this multiple of the lowest smoothed loss so far.
    """
    mean, smoothed = 0.0, []
    for count, loss in enumerate(losses.tolist(), 1):
        mean = beta * mean + (1 - beta) * loss
        smoothed.append(mean / (1 - beta**count))
        if smoothed[-1] > threshold * min(smoothed):
            break
    return np.array(smoothed)


def _kept(rates: Floats, smoothed: Floats) -> tuple[Floats, Floats]:
    """Return the input of fastai's rules: without the first tenth, the last five steps, and all after a NaN."""
    inner = slice(STEPS // 10, max(0, len(smoothed) - 5))
    rates, smoothed = rates[: len(smoothed)][inner], smoothed[inner]
    end = int(np.argmax(np.isnan(smoothed))) if np.isnan(smoothed).any() else len(smoothed)
    return rates[:end], smoothed[:end]


def valley(rates: Floats, losses: Floats) -> float:
    """Return the middle of the middle third of the longest fall, which starts at its end minus its length."""
    lengths = np.ones(len(losses), int)
    for index in range(1, len(losses)):
        above = losses[:index] > losses[index]
        if above.any():
            lengths[index] = 1 + lengths[:index][above].max()
    if not len(lengths):
        return NAN
    end = int(np.argmax(lengths))
    third = int(lengths[end]) / 3
    return float(rates[end - int(lengths[end]) + int(third) + int(third / 2)])


def slide(rates: Floats, losses: Floats, width: int = 15, tolerance: float = 0.005) -> float:
    """Return the LR at which a window, sliding down from the end, first has equal slopes at both ends."""
    if len(losses) < width + 2:
        return NAN
    slopes = np.gradient(losses)
    right, left = len(losses) - 1, len(losses) - 1 - width
    answer = float(rates[left])
    while left >= 0 and abs(slopes[right] - slopes[left]) > tolerance:
        answer = float(rates[left])
        right, left = right - 1, left - 1
    return answer


def minimum(rates: Floats, losses: Floats) -> float:
    """Return a tenth of the LR with the lowest loss."""
    return float(rates[np.argmin(losses)]) / 10 if len(losses) else NAN


def steep(rates: Floats, losses: Floats) -> float:
    """Return the LR at which the loss falls fastest over the logarithm of the LR, from one step to the next."""
    return float(rates[np.argmin(np.diff(losses) / np.diff(np.log(rates)))]) if len(losses) > 1 else NAN


FASTAI: dict[str, Callable[[Floats, Floats], float]] = {
    "valley": valley,
    "slide": slide,
    "minimum": minimum,
    "steep": steep,
}
"""fastai's rules, `valley` its default."""
