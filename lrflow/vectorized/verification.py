"""Two members trained both ways for a few steps: as jobs alone, by Lightning's loop, and as a population.

A population's step is another implementation of the step that a job makes alone. So before it is trusted with a model
that its authors have not met, what the two of them leave behind is compared: losses, gradient norms, weights, buffers,
the optimizer's state, metrics of a validation, random numbers drawn and attributes of the modules.
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
from lrflow.vectorized.fit import clipping, evaluated
from lrflow.vectorized.member import Member, StackedBatches, stack
from lrflow.vectorized.population import UnfitError
from lrflow.vectorized.updates import Steps

CLOSE = 1e-4
"""Relative difference that is taken for rounding. The sums of a batched product are taken in another order: over some
hundred terms in float32 (eps 1.2e-7) that is 1e-6, which a few steps carry on."""

NUDGE = 2.0**-20
"""Relative change of the weights that stands for rounding, eight units in the last place: where a difference is larger
than `CLOSE`, a run of the same job that starts from nudged weights tells how much of it rounding explains."""

EXPLAINED = 16
"""How many times the effect of the nudge a difference may be."""

SHAKEN = 0.01
"""Relative difference of a loss beyond which rounding is no excuse: what the jobs learn would be another draw."""

VALIDATED = 2
"""Batches of the validation at the end of each of the two epochs that the steps are made in."""


@dataclass
class Trace:
    """What a few steps of one run were and left behind.

    Args:
        losses: before each step.
        norms: of the gradients at each step, before clipping.
        scores: of each validation.
        idle: the parameters without a gradient, at each step.
        start: the weights before the first step, by name.
        weights: afterwards.
        buffers: afterwards.
        state: of the optimizer, for each parameter that has one.
        random: the state of the generators.
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
        """Note the weights before the first step."""
        self.start = _copies(dict(network.named_parameters()))

    def end(self, network: nn.Module, optimizer: Optimizer) -> None:
        """Note what is left behind."""
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


def telling_steps(plans: Sequence[Plan]) -> Steps:
    """The steps of the plans that a trial has to make, in their order.

    The first ones, those where the LR or another setting that moves begins to do so or to count, where the LR is
    highest, the middle and the end.
    """
    last = plans[0].horizon.steps - 1
    # Every step of a run of usual length; of a long one the first, and some thousand spread over it.
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
    """A job's run alone, by Lightning, of these steps of its plan.

    Args:
        trainer: of the run, which validates every epoch; without its loggers. It is used up.
        module: supplied with its optimizer and plan.
        data: set up.
        timeline: as `telling_steps` gives it.
        nudged: whether to start from weights that differ by `NUDGE`.

    Raises:
        UnfitError: the module does something that a population cannot do for each member.
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
            raise UnfitError(f"the model changes {name} as it trains, which is no parameter or buffer")
    if shapes != {name: (value.shape, value.dtype) for name, value in network.named_buffers()}:
        raise UnfitError("the model's buffers change their shape or kind as it trains")
    if len(set(trace.idle)) > 1:
        raise UnfitError(f"{min(frozenset.union(*trace.idle))} gets a gradient in some steps only")
    return trace


def train_stacked(members: Sequence[Member], timeline: Steps) -> list[Trace]:
    """The same steps of several jobs as a population.

    Args:
        members: attached; they are used up.
        timeline: as `telling_steps` gives it.

    Raises:
        UnfitError: the model cannot be vectorised.
    """
    try:
        return _train_stacked(members, timeline)
    except RuntimeError as error:
        raise UnfitError.of_vmap(error) from error


def _train_stacked(members: Sequence[Member], timeline: Steps) -> list[Trace]:
    device = members[0].trainer.strategy.root_device
    population, numbers = stack(members, device, timeline=timeline)
    batches = StackedBatches([one.data.train_dataloader() for one in members], device)
    clip, traces = clipping(members[0].trainer), [Trace() for _ in members]
    rows = [(row, member.module) for row, member in enumerate(members)]
    for member, trace in zip(members, traces, strict=True):
        trace.begin(member.module.model)
    length = epoch_length(timeline)
    step = epoch = 0
    while step < len(timeline):
        for inputs, targets in islice(batches.epoch(epoch), min(length, len(timeline) - step)):
            losses, norms = population.step(inputs, targets, numbers.at(step), clip)
            step += 1
            for trace, one_loss, norm in zip(traces, losses.tolist(), norms.tolist(), strict=True):
                trace.losses.append(one_loss)
                trace.norms.append(norm)
                trace.idle.append(population.idle)
        epoch += 1
        scores = evaluated(population, rows, members[0].data.val_dataloader(), "val", VALIDATED)
        for trace, found in zip(traces, scores, strict=False):
            trace.scores.append(found)
    for trace, member, snapshot in zip(traces, members, population.snapshots(range(len(members))), strict=True):
        snapshot.write(member.module.model, member.optimizer, step)
        trace.random = member.random if snapshot.random is None else {**member.random, "torch": snapshot.random}
        trace.end(member.module.model, member.optimizer)
    return traces


def differences(ours: Trace, theirs: Trace, nudged: Trace | None = None) -> list[str]:
    """What of a member's run in a population is not that of the job alone.

    Args:
        ours: of the population's member.
        theirs: of the job alone.
        nudged: of the same job alone from nudged weights; None: differences up to `CLOSE` alone are let pass.

    Returns:
        A line on each difference, the first place of each kind; empty: it is the same run.
    """
    return list(_differences(ours, theirs, nudged))


def _differences(ours: Trace, theirs: Trace, nudged: Trace | None) -> Iterator[str]:
    if not same_random_state(ours.random, theirs.random):
        yield "it draws random numbers that are not those of torch's Dropout"
    for name in ("losses", "norms"):
        pairs = zip(getattr(ours, name), getattr(theirs, name), strict=True)
        others = getattr(nudged, name) if nudged else getattr(theirs, name)
        for step, ((mine, its), other) in enumerate(zip(pairs, others, strict=True)):
            if _apart(mine, its, abs(other - its), SHAKEN):
                yield f"the {_SINGULAR[name]} of step {step} is {mine:.6g}, alone {its:.6g}"
                break
    shaken = _shaken_scores(theirs, nudged) if nudged else 0.0
    for found, scores in zip(ours.scores, theirs.scores, strict=True):
        for name, value in scores.items():
            most = SHAKEN if name.endswith("/loss") else math.inf
            if name not in found or _apart(found[name], value, shaken * abs(value), most):
                yield f"{name} is {found.get(name, math.nan):.6g}, alone {value:.6g}"
    if ours.idle != theirs.idle:
        yield "other parameters are without a gradient"
    for name, start in theirs.start.items():
        moved, own = theirs.weights[name] - start, ours.weights[name] - start
        if not moved.any() and own.any():
            yield f"{name} moves, alone it stays"
            continue
        kept = len(theirs.losses) * torch.finfo(start.dtype).eps * float(theirs.weights[name].norm())  # each is rounded
        effect = float((nudged.weights[name] - nudged.start[name] - moved).norm()) if nudged else 0.0
        if _far(own, moved, effect, kept):
            yield f"{name} moves otherwise: by {float(own.norm()):.3g}, alone by {float(moved.norm()):.3g}"
    yield from _apart_tensors("the buffer ", ours.buffers, theirs.buffers, nudged.buffers if nudged else None)
    if ours.state.keys() != theirs.state.keys():
        yield f"the optimizer has a state for {min(ours.state.keys() ^ theirs.state.keys())} in one of the two alone"
        return
    for name, state in theirs.state.items():
        if state.keys() != ours.state[name].keys():
            yield f"the optimizer keeps something else for {name}"
            continue
        yield from _apart_tensors(f"{name}'s ", ours.state[name], state, nudged.state[name] if nudged else None)


def _shaken_scores(theirs: Trace, nudged: Trace) -> float:
    """The largest relative change of any validation metric by rounding.

    One change says little: of weights that rounding alone moves (Adam on a bias before BatchNorm, whose gradient is
    zero but for rounding) it is a draw, and an accuracy moves by whole examples.
    """
    pairs = zip(theirs.scores, nudged.scores, strict=True)
    changes = [abs(near[name] / value - 1) for scores, near in pairs for name, value in scores.items() if value]
    return max(changes, default=0.0)


_SINGULAR = {"losses": "loss", "norms": "gradient's norm"}


def _apart_tensors(
    what: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], nudged: Mapping[str, Tensor] | None
) -> Iterator[str]:
    for name, value in theirs.items():
        mine = ours[name]
        if mine.shape != value.shape or mine.dtype != value.dtype:
            yield f"{what}{name} is of another shape or kind"
        elif not value.is_floating_point():
            if not torch.equal(mine, value):
                yield f"{what}{name} differs"
        elif _far(mine, value, float((nudged[name] - value).norm()) if nudged else 0.0, 1e-7):
            yield f"{what}{name} differs: its norm is {float(mine.norm()):.4g}, alone {float(value.norm()):.4g}"


def _apart(ours: float, theirs: float, effect: float, most: float) -> bool:
    """Whether two numbers differ by more than rounding, which changes them by `effect`; or by more than that share."""
    return not abs(ours - theirs) <= CLOSE * abs(theirs) + 1e-6 + min(EXPLAINED * effect, most * abs(theirs))


def _far(ours: Tensor, theirs: Tensor, effect: float, least: float) -> bool:
    """Whether two tensors differ by more than rounding, by the norm of their difference."""
    return not float((ours - theirs).norm()) <= CLOSE * float(theirs.norm()) + least + EXPLAINED * effect


def epoch_length(timeline: Steps) -> int:
    """Steps of an epoch of a trial: it has two, with a validation between them."""
    return max(1, -(-len(timeline) // 2))


def _attributes(network: nn.Module) -> dict[str, str]:
    try:
        return attribute_digests(network) | shared_state_digests(network)
    except ValueError as error:
        raise UnfitError(f"the model holds {error}, which cannot be compared") from error


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
    """Lets a fit make the steps of a timeline, and notes what they are."""

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
