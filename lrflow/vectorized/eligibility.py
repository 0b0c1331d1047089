"""Which runs and networks can train in a population, and replacements for modules that `vmap` computes differently."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as hooks
from torch.nn.utils.parametrize import is_parametrized
from torch.optim import optimizer as optimizer_hooks

from lrflow.config import Config, locate
from lrflow.config.schemas.average import NoAverage
from lrflow.config.schemas.health import ADJUSTMENTS
from lrflow.config.schemas.objects import NoFeedback
from lrflow.config.schemas.run import Checkpoint
from lrflow.config.schemas.task import Train
from lrflow.config.targets import optimizer_traits
from lrflow.data import DataModule
from lrflow.schedules import Duration

_NUMBERS = ("lr", "momentum", "dampening", "betas", "eps", "weight_decay")  # members may differ in these


def ineligible_because(config: Config) -> str | None:
    """Return the reason why a run with this config cannot train in a population; None: there is none."""
    trainer, optimizer = config.trainer, config.optimizer
    saved, usual = trainer.checkpoint, Checkpoint()
    within = saved.every not in (usual.every, Duration.parse("100%"))
    node, kind = optimizer.node(), optimizer.target.rpartition(".")[2]
    annealed = (
        config.trial is not None and config.trial.pruner != "none" and config.trial.pruning.rungs != "validations"
    )
    monitors = config.monitors.items()
    own = [f"health.{name}" for name, monitor in monitors if not monitor["_target_"].startswith("lrflow.health.")]
    guard = config.guard
    called = [f"callbacks.{name}" for name in config.callbacks.nodes()]
    reasons = {
        f"task={config.task.name} trains nothing": not isinstance(config.task, Train),
        "a resumed run trains alone": config.resume.source is not None,
        "the LR is found before the run": config.finds_lr or config.find.check,
        "the LR is taken from another run": config.tuned is not None,
        "feedback changes the LR during the run": not isinstance(config.feedback, NoFeedback),
        "it may roll back to an earlier state": config.health.may("recover"),
        "a finding may end it before the others": config.health.may("stop") or config.health.may("cooldown"),
        "a finding may change its LR": any(map(config.health.may, ADJUSTMENTS)),
        f"clip={config.guard_choice[1]} keeps statistics of one run": bool(guard and not guard.of_lightning),
        "the weights are averaged": not isinstance(config.average, NoAverage),
        "the sharpness is measured during the run": config.sharpness_every is not None,
        f"{', '.join(own)} may read each step when it is made": bool(own),
        f"{', '.join(called)} may act at each step": bool(called),
        f"{kind} is not one of SGD, Adam and AdamW": optimizer_traits(optimizer.target).update is None,
        "the optimizer is routed": bool(optimizer.routes),
        f"{kind} maximizes": node.get("maximize", False),
        "trainer.max_time may end it before the others": trainer.max_time is not None,
        "gradients are accumulated": trainer.accumulate_grad_batches > 1,
        "its batch changes over the run": config.schedule.batch is not None,
        "it trains on the same batches in each epoch": trainer.overfit_batches is not None,
        "its batches are augmented": bool(config.augment.named),
        "several best checkpoints are kept": saved.best > 1,
        f"trainer.checkpoint.every={saved.every} saves checkpoints within the run": within,
        "trainer.checkpoint.keep keeps checkpoints from within the run": (saved.keep or inf) > (usual.keep or inf),
        "trainer.channels_last applies to the images of one model": trainer.channels_last,
        f"trainer.precision={trainer.precision}": str(trainer.precision) not in ("32-true", "32"),
        "scalars are read by one module at a time": bool(config.moving_scalars),
        "it is distributed": trainer.beyond_one_process() is not None,
        "W&B logs one run at a time per process": config.logger.wandb is not None,
        "Comet logs one run at a time per process": config.logger.comet is not None,
        "a logger of another package may log one run at a time": bool(config.logger.nodes()),
        "its sweep compares short annealed runs": annealed,
        "task.test=best tests weights of each run": isinstance(config.task, Train) and config.task.test == "best",
    }  # fmt: skip
    return next((reason for reason, holds in reasons.items() if holds), None)


def population_key(config: Config) -> str:
    """Return a key that is equal for runs that differ only in the schedule, the seed and numbers of the optimizer."""
    same = config.plain()
    for section in ("schedule", "name", "output", "report", "find", "against", "horizon", "seed", "resume", "trial"):
        same.pop(section, None)
    same["optimizer"] = {key: value for key, value in same["optimizer"].items() if key not in _NUMBERS}
    same["layers"] = _without_numbers(same["layers"])
    if not shares_data(config):
        same["seed"] = config.seed
    return json.dumps(same, sort_keys=True, default=str)


def shares_data(config: Config) -> bool:
    """Whether the data may not depend on the seed: a `DataModule`'s does only if its `load` draws random numbers."""
    cls = locate(config.data.target)
    return isinstance(cls, type) and issubclass(cls, DataModule)


def _without_numbers(value: Any) -> Any:
    """Replace the numbers in plain data by `...`."""
    if isinstance(value, Mapping):
        return {key: ... if key == "lr" else _without_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_numbers(item) for item in value]
    return ... if isinstance(value, int | float) and not isinstance(value, bool) else value


SAFE = frozenset(
    name
    for line in (
        "Module Sequential ModuleList ModuleDict ParameterList ParameterDict Identity Flatten Unflatten",
        "Linear NonDynamicallyQuantizableLinear Bilinear Embedding Dropout",
        "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d",
        "BatchNorm1d BatchNorm2d BatchNorm3d InstanceNorm1d InstanceNorm2d InstanceNorm3d",
        "LayerNorm RMSNorm GroupNorm LocalResponseNorm",
        "MultiheadAttention TransformerEncoder TransformerEncoderLayer TransformerDecoder TransformerDecoderLayer",
        "ReLU ReLU6 LeakyReLU PReLU ELU SELU CELU GELU SiLU Mish Tanh Sigmoid Hardtanh Hardswish Hardsigmoid",
        "LogSigmoid Softplus Softsign Softshrink Hardshrink Tanhshrink Threshold GLU",
        "Softmax Softmin Softmax2d LogSoftmax CosineSimilarity PairwiseDistance",
        "MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d LPPool1d LPPool2d",
        "AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d",
        "ZeroPad1d ZeroPad2d ZeroPad3d ConstantPad1d ConstantPad2d ConstantPad3d",
        "ReflectionPad1d ReflectionPad2d ReflectionPad3d ReplicationPad1d ReplicationPad2d ReplicationPad3d",
        "Upsample UpsamplingNearest2d UpsamplingBilinear2d PixelShuffle PixelUnshuffle ChannelShuffle Fold Unfold",
    )
    for name in line.split()
)
"""torch's modules that train in a population as they do alone. A user's own classes are verified."""

_HOOKS = {
    "_forward_hooks": "a forward hook",
    "_forward_pre_hooks": "a hook before its forward pass",
    "_backward_hooks": "a backward hook",
    "_backward_pre_hooks": "a hook before its backward pass",
    "_state_dict_hooks": "a hook on its state_dict",
    "_state_dict_pre_hooks": "a hook before its state_dict",
    "_load_state_dict_pre_hooks": "a hook before load_state_dict",
    "_load_state_dict_post_hooks": "a hook after load_state_dict",
}
_GLOBAL_HOOKS = (
    (hooks, "_global_forward_hooks _global_forward_pre_hooks _global_backward_hooks _global_backward_pre_hooks"),
    (optimizer_hooks, "_global_optimizer_pre_hooks _global_optimizer_post_hooks"),
)


def unsafe_because(network: nn.Module) -> str | None:
    """Return the reason why a network may train differently in a population; None: no reason is known."""
    for holder, names in _GLOBAL_HOOKS:
        if any(getattr(holder, name, None) for name in names.split()):
            return "there are global hooks on modules or optimizers"
    for name, module in network.named_modules():
        if reason := _unsafe_module(module):
            return f"{name or 'the model'} {reason}"
    for name, parameter in network.named_parameters():
        if reason := _unsafe_parameter(parameter):
            return f"{name} {reason}"
    for name, buffer in network.named_buffers():
        if isinstance(buffer, nn.UninitializedBuffer) or buffer.layout != torch.strided or buffer.requires_grad:
            return f"the buffer {name} is not a plain tensor"
    return None


def _unsafe_module(module: nn.Module) -> str | None:
    if is_parametrized(module):
        return "is parametrized"
    base = next(cls for cls in type(module).__mro__ if cls.__module__.startswith("torch."))
    if base.__name__ not in SAFE or not base.__module__.startswith("torch.nn.modules"):
        return f"is a {base.__name__}, which is not known to train together as it does alone"
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq or module.sparse):
        return "is an Embedding with max_norm, scale_grad_by_freq or sparse"
    return next((f"has {what}" for kind, what in _HOOKS.items() if getattr(module, kind, None)), None)


def _unsafe_parameter(parameter: nn.Parameter) -> str | None:
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        return "gets its shape from the first batch"
    if type(parameter) is not nn.Parameter or parameter.layout != torch.strided:
        return "is not a plain parameter"
    if parameter.dtype != torch.float32:
        return f"is of {str(parameter.dtype).removeprefix('torch.')}"
    if not parameter.requires_grad:
        return "is frozen by the model itself"
    if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
        return "has a hook on its gradient"
    if vars(parameter):
        return f"has an attribute of its own, {min(vars(parameter))}"
    return None


class Generators:
    """The random number generators of a population: each member draws from its own, as it would alone.

    Args:
        states: the states of torch's CPU generator, one per member.
    """

    def __init__(self, states: Sequence[Tensor]) -> None:
        self._generators = [torch.Generator() for _ in states]
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only the generators of these members, in this order."""
        self._generators = [self._generators[row] for row in rows]

    def state(self, row: int) -> Tensor:
        """The state of a member's generator."""
        return self._generators[row].get_state()

    def bernoulli(self, shape: torch.Size, probability: float, like: Tensor) -> Tensor:
        """Draw zeros and ones from each member's generator; [members, *shape]."""
        drawn = like.new_empty(len(self._generators), *shape)
        for row, generator in zip(drawn, self._generators, strict=True):
            row.bernoulli_(probability, generator=generator)
        return drawn


def replace_modules(network: nn.Module, generators: Generators | None) -> nn.Module:
    """Replace the modules of a network that `vmap` computes differently; subclasses of them are left as they are.

    Args:
        network: changed in place.
        generators: draw the dropout masks; None: dropout in training raises an error.

    Returns:
        The network.
    """
    for module in network.modules():
        if type(module) in _REPLACEMENTS:
            module.__class__ = _REPLACEMENTS[type(module)]
        if isinstance(module, _Dropout):
            vars(module)["generators"] = generators
    return network


class _Dropout(nn.Dropout):
    """Dropout that draws the masks of each member from its own generator."""

    generators: Generators | None

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p in (0, 1):
            return super().forward(input)
        if self.generators is None:
            raise RuntimeError("dropout has no random number generators here")
        noise: Tensor = _Noise.apply(input, self.p, self.generators)
        return input.mul_(noise) if self.inplace else input * noise


class _Noise(torch.autograd.Function):
    """The factors of dropout: 0, or 1 / (1 - p)."""

    @staticmethod
    def forward(input: Tensor, p: float, generators: Generators) -> Tensor:
        raise RuntimeError("dropout of a tensor that all members share")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save nothing, since there is no gradient."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Return no gradients."""
        return None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, input: Tensor, p: float, generators: Generators) -> tuple[Tensor, int]:
        shape = input.movedim(in_dims[0], 0).shape[1:]
        with torch.no_grad():
            return generators.bernoulli(shape, 1 - p, input).div_(1 - p), 0


class _Embedding(nn.Embedding):
    """An embedding whose padding gets no gradient in any member; under vmap only the first has that (torch 2.13)."""

    def forward(self, input: Tensor) -> Tensor:
        found = functional.embedding(input, self.weight)
        if self.padding_idx is None:
            return found
        return torch.where((input == self.padding_idx).unsqueeze(-1), found.detach(), found)


_REPLACEMENTS: dict[type[nn.Module], type[nn.Module]] = {nn.Dropout: _Dropout, nn.Embedding: _Embedding}
