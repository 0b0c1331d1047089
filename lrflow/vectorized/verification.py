"""Verify a population: train two jobs for a few steps both alone and together, and compare the results.

The step of a population is a second implementation of the step of a job alone. For each new model, the results of both
are compared: losses, gradient norms, weights, buffers, optimizer state, metrics of a validation, random numbers and
module attributes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from lrflow.plan import Plan
from lrflow.schedules import Horizon
from lrflow.training.isolation import UndisturbedByValidation
from lrflow.training.module import Supervised
from lrflow.training.state import attribute_digests, random_state, same_random_state, shared_state_digests
from lrflow.training.trainer import Trainer
from lrflow.vectorized.fit import clipping, evaluate
from lrflow.vectorized.member import Member, StackedBatches, stack
from lrflow.vectorized.population import PopulationError
from lrflow.vectorized.updates import Steps

CLOSE = 1e-4
"""Relative difference that counts as rounding. A batched product sums in another order: for some hundred terms in
float32 (eps 1.2e-7) that changes 1e-6, which grows over a few steps."""

NUDGE = 2.0**-20
"""Relative change of the weights that stands for rounding: eight units in the last place. If a difference is larger
than `CLOSE`, the job is trained once more from nudged weights to measure the effect of rounding."""

EXPLAINED = 16
"""A difference of up to this many times the effect of the nudge is accepted."""

SHAKEN = 0.01
"""Relative difference of a loss that is never accepted as an effect of rounding."""

VALIDATED = 2
"""Batches of the validation after each of the two epochs of a verification."""


@dataclass
class Trace:
    """The record of a few steps of one run.

    Args:
        losses: the loss before each step.
        norms: the norm of the gradients at each step, before clipping.
        scores: the metrics of each validation.
        idle: the names of the parameters without a gradient, at each step.
        start: the weights before the first step, by name.
        weights: the weights after the last step, by name.
        buffers: the buffers after the last step, by name.
        state: the optimizer state after the last step, for each parameter that has one.
        random: the states of the random number generators after the last step.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    scores: list[dict[str, float]] = field(default_factory=list)
    idle: list[frozenset[str]] = field(default_factory=list)
    start: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    random: dict[str, Any] = field(default_factory=dict)

    def begin(self, network: nn.Module) -> None:
        """Record the weights before the first step."""
        self.start = _copies(dict(network.named_parameters()))

    def end(self, network: nn.Module, optimizer: Optimizer) -> None:
        """Record the weights, buffers and optimizer state after the last step."""
        named = dict(network.named_parameters())
        self.weights = _copies(named)
        self.buffers = _copies(dict(network.named_buffers()))
        kept = {name: optimizer.state[parameter] for name, parameter in named.items() if parameter in optimizer.state}
        self.state = {name: _copies(own) for name, own in kept.items() if own}

    @property
    def finite(self) -> bool:
        """Whether all losses and weights are finite."""
        return all(map(math.isfinite, self.losses)) and all(
            bool(value.isfinite().all()) for value in self.weights.values()
        )


def representative_steps(plans: Sequence[Plan]) -> Steps:
    """Choose the steps of the plans for a verification, in ascending order.

    These are the first steps, the steps where the LR or another scheduled setting first changes, the steps of the
    highest LR, the middle and the last step.
    """
    last = plans[0].horizon.steps - 1
    # All steps of a run of usual length; of a longer run the first, and some thousand spread over it.
    steps = np.unique(np.concatenate([np.arange(min(last + 1, 4096)), np.linspace(0, last, 4096).astype(np.int64)]))
    chosen = {0, 1, 2, last // 2, last}
    for plan in plans:
        rates = plan.lr(steps)
        curves = [rates[:, column] for column in range(rates.shape[1])]
        chosen |= {int(steps[curve.argmax()]) for curve in curves}
        curves += [moved(steps, plan.horizon) for moved, _ in plan.scheduled_settings]
        for curve in curves:
            changed = (curve != curve[0]).argmax()
            chosen |= {int(steps[changed]), int(steps[changed]) + 1}
    return np.array(sorted(step for step in chosen if step <= last), dtype=np.int64)


def train_alone(
    trainer: Trainer, module: Supervised, data: pl.LightningDataModule, timeline: Steps, nudged: bool = False
) -> Trace:
    """Make steps of a job's plan alone, in Lightning's loop.

    Args:
        trainer: the trainer of the run, with a validation per epoch and without loggers; it cannot be used again.
        module: the module with its optimizer and plan.
        data: the data, set up.
        timeline: the steps, as `representative_steps` returns them.
        nudged: whether to start from weights that are changed by `NUDGE`.

    Raises:
        PopulationError: the module does something that a population cannot do for each member.
    """
    network = module.model
    if nudged:
        _nudge(network)
    before = _attributes(network)
    shapes = {name: (value.shape, value.dtype) for name, value in network.named_buffers()}
    recorder = _Recorder(timeline)
    isolating = [one for one in trainer.callbacks if isinstance(one, UndisturbedByValidation)]  # type: ignore[attr-defined]
    trainer.callbacks = [*isolating, recorder]  # type: ignore[attr-defined]
    trainer.limit_train_batches = epoch_length(timeline)
    trainer.limit_val_batches = VALIDATED
    trainer.run_for(Horizon(len(timeline), epoch_length(timeline)))
    trainer.fit(module, datamodule=data)
    trace = recorder.trace
    after = _attributes(network)
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            raise PopulationError(f"the model changes {name} during training, which is no parameter or buffer")
    if shapes != {name: (value.shape, value.dtype) for name, value in network.named_buffers()}:
        raise PopulationError("the model's buffers change their shape or dtype during training")
    if len(set(trace.idle)) > 1:
        raise PopulationError(f"{min(frozenset.union(*trace.idle))} gets a gradient only in some steps")
    return trace


def train_stacked(members: Sequence[Member], timeline: Steps) -> list[Trace]:
    """Make the same steps of several jobs as a population.

    Args:
        members: the members, attached; they cannot be used again.
        timeline: the steps, as `representative_steps` returns them.

    Raises:
        PopulationError: the model cannot be vectorised.
    """
    try:
        return _train_stacked(members, timeline)
    except RuntimeError as error:
        raise PopulationError.of_vmap(error) from error


def _train_stacked(members: Sequence[Member], timeline: Steps) -> list[Trace]:
    device = members[0].trainer.strategy.root_device
    population, coefficients = stack(members, device, timeline=timeline)
    batches = StackedBatches([one.data.train_dataloader() for one in members], device)
    clip, traces = clipping(members[0].trainer), [Trace() for _ in members]
    rows = [(row, member.module) for row, member in enumerate(members)]
    for member, trace in zip(members, traces, strict=True):
        trace.begin(member.module.model)
    length = epoch_length(timeline)
    step = epoch = 0
    while step < len(timeline):
        for inputs, targets in islice(batches.epoch(epoch), min(length, len(timeline) - step)):
            losses, norms, _ = population.step(inputs, targets, coefficients.at(step), clip)
            step += 1
            for trace, one_loss, norm in zip(traces, losses.tolist(), norms.tolist(), strict=True):
                trace.losses.append(one_loss)
                trace.norms.append(norm)
                trace.idle.append(population.idle)
        epoch += 1
        scores = evaluate(population, rows, members[0].data.val_dataloader(), "val", VALIDATED)
        for trace, found in zip(traces, scores, strict=False):
            trace.scores.append(found)
    for trace, member, state in zip(traces, members, population.member_states(range(len(members))), strict=True):
        state.write(member.module.model, member.optimizer, step)
        trace.random = member.random if state.random is None else {**member.random, "torch": state.random}
        trace.end(member.module.model, member.optimizer)
    return traces


def differences(ours: Trace, theirs: Trace, nudged: Trace | None = None) -> list[str]:
    """Compare a member's run in a population with that of the job alone.

    Args:
        ours: the trace of the member.
        theirs: the trace of the job alone.
        nudged: the trace of the same job alone from nudged weights; None: only differences up to `CLOSE` are accepted.

    Returns:
        A line per difference, the first of each kind; empty: the runs are the same.
    """
    return list(_differences(ours, theirs, nudged))


def _differences(ours: Trace, theirs: Trace, nudged: Trace | None) -> Iterator[str]:
    if not same_random_state(ours.random, theirs.random):
        yield "it draws random numbers other than those of torch's Dropout"
    for name in ("losses", "norms"):
        pairs = zip(getattr(ours, name), getattr(theirs, name), strict=True)
        others = getattr(nudged, name) if nudged else getattr(theirs, name)
        for step, ((mine, its), other) in enumerate(zip(pairs, others, strict=True)):
            if _differ(mine, its, abs(other - its), SHAKEN):
                yield f"the {_SINGULAR[name]} of step {step} is {mine:.6g}, alone {its:.6g}"
                break
    shaken = _shaken_scores(theirs, nudged) if nudged else 0.0
    for found, scores in zip(ours.scores, theirs.scores, strict=True):
        for name, value in scores.items():
            most = SHAKEN if name.endswith("/loss") else math.inf
            if name not in found or _differ(found[name], value, shaken * abs(value), most):
                yield f"{name} is {found.get(name, math.nan):.6g}, alone {value:.6g}"
    if ours.idle != theirs.idle:
        yield "the parameters without a gradient are different"
    for name, start in theirs.start.items():
        moved, own = theirs.weights[name] - start, ours.weights[name] - start
        if not moved.any() and own.any():
            yield f"{name} changes, alone it does not"
            continue
        kept = len(theirs.losses) * torch.finfo(start.dtype).eps * float(theirs.weights[name].norm())  # each is rounded
        effect = float((nudged.weights[name] - nudged.start[name] - moved).norm()) if nudged else 0.0
        if _tensors_differ(own, moved, effect, kept):
            yield f"{name} changes differently: by {float(own.norm()):.3g}, alone by {float(moved.norm()):.3g}"
    yield from _tensor_differences("the buffer ", ours.buffers, theirs.buffers, nudged.buffers if nudged else None)
    if ours.state.keys() != theirs.state.keys():
        yield f"only one of the two optimizers has a state for {min(ours.state.keys() ^ theirs.state.keys())}"
        return
    for name, state in theirs.state.items():
        if state.keys() != ours.state[name].keys():
            yield f"the optimizer has another state for {name}"
            continue
        yield from _tensor_differences(f"{name}'s ", ours.state[name], state, nudged.state[name] if nudged else None)


def _shaken_scores(theirs: Trace, nudged: Trace) -> float:
    """Return the largest relative change of any validation metric by rounding.

    The change of a single metric is too noisy: Adam on a bias before BatchNorm, whose gradient is only rounding noise,
    changes it randomly, and an accuracy changes by whole examples.
    """
    pairs = zip(theirs.scores, nudged.scores, strict=True)
    changes = [abs(near[name] / value - 1) for scores, near in pairs for name, value in scores.items() if value]
    return max(changes, default=0.0)


_SINGULAR = {"losses": "loss", "norms": "gradient's norm"}


def _tensor_differences(
    what: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], nudged: Mapping[str, Tensor] | None
) -> Iterator[str]:
    for name, value in theirs.items():
        mine = ours[name]
        if mine.shape != value.shape or mine.dtype != value.dtype:
            yield f"{what}{name} has another shape or dtype"
        elif not value.is_floating_point():
            if not torch.equal(mine, value):
                yield f"{what}{name} differs"
        elif _tensors_differ(mine, value, float((nudged[name] - value).norm()) if nudged else 0.0, 1e-7):
            yield f"{what}{name} differs: its norm is {float(mine.norm()):.4g}, alone {float(value.norm()):.4g}"


def _differ(ours: float, theirs: float, effect: float, most: float) -> bool:
    """Whether two numbers differ by more than rounding, of which `effect` is the measured size and `most` the limit."""
    return not abs(ours - theirs) <= CLOSE * abs(theirs) + 1e-6 + min(EXPLAINED * effect, most * abs(theirs))


def _tensors_differ(ours: Tensor, theirs: Tensor, effect: float, least: float) -> bool:
    """Whether the norm of the difference of two tensors is larger than rounding."""
    return not float((ours - theirs).norm()) <= CLOSE * float(theirs.norm()) + least + EXPLAINED * effect


def epoch_length(timeline: Steps) -> int:
    """Steps per epoch of a verification, which has two epochs, each with a validation."""
    return max(1, -(-len(timeline) // 2))


def _attributes(network: nn.Module) -> dict[str, str]:
    try:
        return attribute_digests(network) | shared_state_digests(network)
    except ValueError as error:
        raise PopulationError(f"the model holds {error}, which cannot be compared") from error


def _copies(named: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name: value.detach().cpu().clone() if isinstance(value, Tensor) else torch.tensor(value)
        for name, value in named.items()
        if value is not None
    }


@torch.no_grad()
def _nudge(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        parameter.mul_(1 + NUDGE * noise)


class _Recorder(Callback):
    """Makes a fit follow the steps of a timeline, and records them."""

    def __init__(self, timeline: Steps) -> None:
        self._timeline = timeline.tolist()
        self.trace = Trace()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Supervised)
        self._named = dict(pl_module.model.named_parameters())
        self.trace.begin(pl_module.model)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        trainer.lr_scheduler_configs[0].scheduler.step(self._timeline[trainer.global_step])

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        gradients = {name: parameter.grad for name, parameter in self._named.items()}
        self.trace.idle.append(frozenset(name for name, grad in gradients.items() if grad is None))
        norms = [grad.norm() for grad in gradients.values() if grad is not None]
        self.trace.norms.append(float(torch.stack(norms).norm()) if norms else 0.0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.trace.losses.append(float(outputs["loss"]))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.trace.scores.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Supervised)
        self.trace.random = random_state()
        self.trace.end(pl_module.model, trainer.optimizers[0])
