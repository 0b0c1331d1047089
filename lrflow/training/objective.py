"""The loss and the metrics of a plain network: outputs against targets, in training and over whole sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanMetric, Metric, R2Score

from lrflow.config import instantiate
from lrflow.errors import ConfigError, Problem
from lrflow.metric import STAGES
from lrflow.objectives import ChosenLoss, ChosenScore, chosen_loss, is_of_torch

_BLOCK = 2**20
"""Numbers that a metric collects before it counts them: each count may wait for the device."""


class Criterion(nn.Module):
    """A loss of (output, target), with what its metrics have to know about both.

    Args:
        chosen: the loss as the config chooses it.
        function: the loss itself; None: it is of torch.nn, and built from its class and arguments.

    Raises:
        ConfigError: the loss rejects its arguments, or has parameters of its own.
    """

    def __init__(self, chosen: ChosenLoss, function: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.chosen = chosen
        self.function = _of_torch(chosen) if function is None else function
        self._passes = not (chosen.per_token or chosen.shaped)  # outputs and targets as they are
        self._unsmoothed = _of_torch(chosen.unsmoothed()) if function is None and chosen.smoothed else None
        if not isinstance(self.function, nn.Module):
            return
        if names := [name for name, _ in self.function.named_parameters()]:
            message = f"has parameters that would have to be trained: {', '.join(names)}"
            raise ConfigError([Problem("model.loss", message, chosen.target, "make it a part of a LightningModule")])
        for part in self.modules():  # class weights come from the config, not from a checkpoint
            for name, buffer in [*part.named_buffers(recurse=False)]:
                part.register_buffer(name, buffer, persistent=False)

    def keep_unsmoothed(self) -> None:
        """Compute the loss over a set without label smoothing, also if the smoothing is 0 as yet."""
        if self._unsmoothed is None:
            self._unsmoothed = _of_torch(self.chosen)

    @classmethod
    def named(cls, name: str) -> Criterion:
        """Return a loss of `lrflow.objectives.LOSSES` by its name."""
        return cls(chosen_loss(name))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of a training batch."""
        if self._passes:
            return self.function(output, target)
        output, target = flat(output, target, self.chosen)
        return self.function(output, self._as_needed(output, target))

    def add_to(self, mean: MeanMetric, output: Tensor, target: Tensor) -> None:
        """Add the loss of a batch to its mean over a set, weighted by what torch divides the sum of the batch by.

        It is the loss without label smoothing, which is for training: of two runs that smooth differently, the losses
        over a set compare.
        """
        output, target = flat(output, target, self.chosen)
        loss = (self._unsmoothed or self.function)(output, self._as_needed(output, target))
        cls = self.chosen.target.rpartition(".")[2]
        weight = getattr(self.function, "weight", None)
        plain = weight is None and self.chosen.ignored is None
        if plain or cls not in ("CrossEntropyLoss", "NLLLoss") or target.is_floating_point():
            mean.update(loss, weight=len(target))
            return
        counted = self._counted(target)
        weights = counted.float() if weight is None else weight[target.where(counted, 0)] * counted
        total = weights.sum()
        mean.update(loss.where(total > 0, 0.0), weight=total)

    def predicted(self, output: Tensor) -> Tensor:
        """Return the numbers that outputs predict."""
        return predicted(output, self.chosen)

    def accuracy(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return which classes or labels are right, as 1 or 0, and their weights."""
        output, target = flat(output, target, self.chosen)
        if self.chosen.kind == "labels":
            threshold = 0.0 if self.chosen.outputs == "logits" else 0.5
            return ((output > threshold) == (target.reshape_as(output) > 0.5)).float(), 1.0
        if target.is_floating_point():  # probabilities of the classes
            target = target.argmax(1)
        right = (output.argmax(1) == target).float()
        return right, 1.0 if self.chosen.ignored is None else self._counted(target).float()

    def _counted(self, target: Tensor) -> Tensor:
        ignored = self.chosen.ignored
        return torch.ones_like(target, dtype=torch.bool) if ignored is None else target != ignored

    def _as_needed(self, output: Tensor, target: Tensor) -> Tensor:
        if not self.chosen.shaped:
            return target
        target = target.reshape_as(output)
        if self.chosen.units is not None:
            mean, scale = self.chosen.units
            target = (target - mean) / scale
        return target if target.is_floating_point() else target.to(output.dtype)


def flat(output: Tensor, target: Tensor, chosen: ChosenLoss) -> tuple[Tensor, Tensor]:
    """Return outputs [examples, classes] and targets [examples]; of a language model each token is an example."""
    if chosen.per_token and output.dim() > 2:
        return output.flatten(0, -2), target.flatten()
    return output, target


def predicted(output: Tensor, chosen: ChosenLoss) -> Tensor:
    """Return the numbers that outputs predict, in the units of the targets, by what they are to the loss."""
    if chosen.units is not None:
        mean, scale = chosen.units
        return output * scale + mean
    return output.exp() if chosen.outputs == "log_rates" else output


def build_criterion(chosen: ChosenLoss) -> Criterion:
    """Return the loss that a config chooses.

    Raises:
        ConfigError: it cannot be built, or has parameters of its own.
    """
    if is_of_torch(chosen):
        return Criterion(chosen)
    made = instantiate({"_target_": chosen.target, **chosen.arguments}, "model.loss")
    if not callable(made):
        raise ConfigError([Problem("model.loss._target_", "makes no function of (output, target)", chosen.target)])
    return Criterion(chosen, made)


def build_metrics(chosen: Mapping[str, ChosenScore], loss: ChosenLoss) -> dict[str, dict[str, Collected]]:
    """Return the metrics that a config chooses by name, one of each for `val` and for `test`.

    Raises:
        ConfigError: one cannot be built.
    """
    return {stage: {name: _build_metric(name, one, loss) for name, one in chosen.items()} for stage in STAGES if chosen}


def _build_metric(name: str, chosen: ChosenScore, loss: ChosenLoss) -> Collected:
    key = f"model.metrics.{name}"
    metric = instantiate({"_target_": chosen.target, **chosen.arguments}, key)
    if not isinstance(metric, Metric):
        message = f"expected a torchmetrics.Metric, got {type(metric).__name__}"
        raise ConfigError([Problem(f"{key}._target_", message, chosen.target)])
    return Collected(metric, chosen, loss, key)


def _of_torch(chosen: ChosenLoss) -> Callable[[Tensor, Tensor], Tensor]:
    arguments = {
        name: torch.tensor(value, dtype=torch.float) if isinstance(value, list) else value
        for name, value in chosen.arguments.items()
    }
    loss: Callable[[Tensor, Tensor], Tensor] = getattr(nn, chosen.target.rpartition(".")[2])(**arguments)
    return loss


class Collected(nn.Module):
    """A metric of torchmetrics over a whole set; outputs and targets are collected, and counted a block at a time.

    torchmetrics may wait for the device each time it counts; collected, it does so once in a while and at the end.

    Args:
        metric: the metric.
        chosen: the metric as the config chooses it.
        loss: the loss, which knows what the outputs of the model are.
        key: config key of the metric.
    """

    def __init__(self, metric: Metric, chosen: ChosenScore, loss: ChosenLoss, key: str = "model.metrics") -> None:
        super().__init__()
        self.metric, self._chosen, self._loss, self._key = metric, chosen, loss, key
        self._held: list[tuple[Tensor, Tensor]] = []
        self._size = 0

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add the outputs of a batch with their targets."""
        pair = self._prepared(output.detach(), target)
        self._held.append(pair)
        self._size += pair[0].numel()
        if self._size >= _BLOCK:
            self._count()

    def compute(self) -> Tensor:
        """Return the value over all examples of all devices; the mean if there is one value per output.

        Raises:
            ConfigError: the metric has several values of another kind.
        """
        self._count()
        value = self.metric.compute()
        if not isinstance(value, Tensor) or (value.numel() != 1 and self._chosen.task != "numbers"):
            message = "gives more than one value, and a metric is one number"
            raise ConfigError([Problem(self._key, message, self._chosen.target)])
        return value.float().mean()

    def reset(self) -> None:
        """Forget all examples."""
        self._held.clear()
        self._size = 0
        self.metric.reset()

    def _count(self) -> None:
        if self._held:
            outputs, targets = (torch.cat(parts) for parts in zip(*self._held, strict=True))
            self._held.clear()
            self._size = 0
            self.metric.update(outputs, targets)

    def _prepared(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return predictions or probabilities in float32, and targets, both as the metric needs them."""
        task = self._chosen.task
        if task is None:
            return output, target
        output, target = flat(output, target, self._loss)
        output = output.float()
        if task == "numbers":
            output = predicted(output, self._loss)
            output, target = output.reshape(len(output), -1), target.reshape(len(output), -1).float()
            single = output.shape[1] == 1 and not self._chosen.target.endswith(".CosineSimilarity")
            return (output.squeeze(1), target.squeeze(1)) if single else (output, target)
        by_class = task == "multiclass" or (task == "binary" and output.dim() > 1 and output.shape[1] == 2)
        if target.is_floating_point() and by_class and target.dim() == output.dim():
            target = target.argmax(1)
        if self._loss.outputs == "logits":
            output = output.softmax(1) if by_class else output.sigmoid()
        elif self._loss.outputs == "log_probabilities":
            output = output.exp()
        if task == "binary":
            output = output[:, 1] if by_class else output
            return output.flatten(), target.flatten().long()
        return output, target.long() if by_class else target.reshape_as(output).long()


def default_metrics(logged: Sequence[str]) -> nn.ModuleDict:
    """Return the metrics that a plain network logs by itself, but for those that follow from the loss."""
    # By default MeanMetric ignores a batch whose loss is NaN.
    makers: dict[str, Callable[[], Metric]] = {
        "loss": lambda: MeanMetric(nan_strategy=math.nan),
        "accuracy": MeanMetric,
        "mae": MeanAbsoluteError,
        "r2": R2Score,
    }
    return nn.ModuleDict({name: makers[name]() for name in logged if name in makers})
