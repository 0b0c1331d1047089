"""What is known of a network that can train in a population; whatever is not known runs alone."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules import module as hooks
from torch.nn.utils.parametrize import is_parametrized
from torch.optim import optimizer as optimizer_hooks

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
"""torch's modules that train in a population as they do alone. Classes of a user's own are tried out."""

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


def unsafe(network: nn.Module) -> str | None:
    """Why a network is not known to train in a population as it does alone; None: it is tried out."""
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
            return f"the buffer {name} is no plain tensor"
    return None


def _unsafe_module(module: nn.Module) -> str | None:
    if is_parametrized(module):
        return "is parametrized"
    made = next(cls for cls in type(module).__mro__ if cls.__module__.startswith("torch."))
    if made.__name__ not in SAFE or not made.__module__.startswith("torch.nn.modules"):
        return f"is a {made.__name__}, which is not known to train together as it does alone"
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq or module.sparse):
        return "is an Embedding with max_norm, scale_grad_by_freq or sparse"
    return next((f"has {what}" for kind, what in _HOOKS.items() if getattr(module, kind, None)), None)


def _unsafe_parameter(parameter: nn.Parameter) -> str | None:
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        return "is made by the first batch"
    if type(parameter) is not nn.Parameter or parameter.layout != torch.strided:
        return "is no plain parameter"
    if parameter.dtype != torch.float32:
        return f"is of {str(parameter.dtype).removeprefix('torch.')}"
    if not parameter.requires_grad:
        return "is frozen by the model itself"
    if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
        return "has a hook on its gradient"
    if vars(parameter):
        return f"has an attribute of its own, {min(vars(parameter))}"
    return None
