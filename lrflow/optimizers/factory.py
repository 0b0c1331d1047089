"""Builds torch optimizers from groups and a config, and adapts Lightning's closure to those that need more of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import pytorch_lightning as pl
import torch
from torch.optim import Optimizer

from lrflow.errors import ConfigError, Problem, did_you_mean, first_named
from lrflow.layers import Group, merge
from lrflow.optimizers.routed import member_optimizers
from lrflow.optimizers.traits import traits_of

_FUSED_DEVICES = ("cpu", "cuda", "mps")


def build_optimizer(
    groups: Sequence[Group],
    config: Mapping[str, Any],
    factory: Callable[..., torch.optim.Optimizer],
    device: torch.device | str = "cpu",
    tensor_lr: bool = False,
    key: str = "optimizer",
) -> torch.optim.Optimizer:
    """Build the optimizer of a run, with one parameter group for all groups whose settings are equal.

    Each parameter group carries `name` (the groups' names joined by " + ") and `members` (those names).
    Frozen groups are left out.

    `fused: auto` uses the fused kernel if the class offers one, every parameter is a floating-point tensor on a device
    that has it, and no other implementation was requested. Set `fused: false` in two cases that are not detected:
    sparse gradients (`nn.Embedding(sparse=True)`), and clipping under mixed precision: a fused step unscales float16
    gradients itself, and Lightning raises.

    Args:
        groups: as returned by `lrflow.layers.resolve`.
        config: the content of `conf/optimizer/*.yaml`; keys that start with an underscore are not passed on.
        factory: the class or function that `_target_` names.
        device: where the parameters are.
        tensor_lr: keep each LR in a tensor without dimensions, so that a compiled step does not recompile when it
            changes: float64 on the CPU, float32 elsewhere, as the fused kernels require.
        key: the key of the optimizer in the config.

    Raises:
        ConfigError: nothing to train, or arguments that the factory does not take or that it rejects.
    """
    merged = merge(groups)
    arguments = {name: _plain(value) for name, value in config.items() if not name.startswith("_")}
    accepted = inspect.signature(factory).parameters
    problems = [*_check_arguments(arguments, accepted, key), *check_groups(groups, factory)]
    problems += [problem for members in merged for problem in _check_settings(members[0], arguments, factory)]
    if problems:
        raise ConfigError(problems)

    if arguments.get("fused") == "auto":
        del arguments["fused"]
        if "fused" in accepted and _can_fuse(merged, arguments, torch.device(device)):
            arguments["fused"] = True
    decays = "weight_decay" in accepted or _takes_any_keyword(accepted)
    params = [_param_group(members, torch.device(device), tensor_lr, decays) for members in merged]
    try:
        with redirect_stdout(StringIO()):  # prodigyopt prints a line about its weight decay
            optimizer = factory(params, **arguments)
    except Exception as error:  # the exceptions of pytorch_optimizer derive directly from Exception
        reason = str(error).rstrip(".")
        problem = Problem(key, f"the optimizer rejects its arguments: {reason}", config.get("_target_", ...))
        if name := first_named(arguments, reason):
            problem = Problem(f"{key}.{name}", f"the optimizer rejects it: {reason}", config[name])
        raise ConfigError([problem]) from error
    if not (hasattr(optimizer, "param_groups") and callable(getattr(optimizer, "step", None))):
        message = f"makes a {type(optimizer).__name__}, which is no optimizer: it has no param_groups or no step"
        raise ConfigError([Problem(f"{key}._target_", message, config.get("_target_", ...))])
    if traits_of(type(optimizer), f"{key}._target_").modes:
        optimizer.train()  # type: ignore[attr-defined]  # schedule-free optimizers raise on a step in evaluation mode
    return optimizer


def check_groups(groups: Sequence[Group], factory: Callable[..., torch.optim.Optimizer]) -> list[Problem]:
    """Return the problems that an optimizer has with these groups.

    Args:
        groups: as returned by `lrflow.layers.resolve`.
        factory: the class or function that makes the optimizer.
    """
    merged = merge(groups)
    problems = list(_check_decay(merged, inspect.signature(factory).parameters))
    if not merged:
        problems.append(Problem("layers.rules", "every group is frozen, so there is nothing to train"))
    traits, name = traits_of(factory), getattr(factory, "__name__", "the optimizer")
    firsts = [members[0] for members in merged]
    names = ", ".join(group.name for group in firsts)
    if traits.estimates_lr and any((one.lr, one.schedule) != (firsts[0].lr, firsts[0].schedule) for one in firsts):
        # prodigyopt raises at its first step; pytorch_optimizer's classes silently use the first group's LR for all.
        # The estimate is a single number for steps that all parameters make at one LR.
        message = f"{name} estimates one LR for all parameters, and these groups differ in LR or schedule: {names}"
        problems.append(Problem("layers", message, hint="layers=no_decay and layers=uniform give all of them one LR"))
    if traits.one_vector and len(merged) > 1:
        message = f"{name} trains all parameters as one vector, and these groups differ in LR or schedule: {names}"
        problems.append(Problem("layers", message, hint="layers=uniform makes one group"))
    return problems


def _check_settings(group: Group, arguments: Mapping[str, Any], factory: Callable[..., Any]) -> Iterable[Problem]:
    """Yield a problem for each setting of a group that its optimizer rejects, or does not read from a group."""
    given = {name: value for name, value in arguments.items() if name != "fused"} | dict(group.settings)
    if not group.settings:
        return
    trial = torch.nn.Parameter(torch.zeros(2, 2))
    try:
        with redirect_stdout(StringIO()):
            made = factory([trial], **given)
    except Exception as error:
        reason = str(error).rstrip(".")
        name = first_named([name for name, _ in group.settings], reason)
        where = f"layers.rules, {group.name}: settings" + (f".{name}" if name else "")
        yield Problem(where, f"the optimizer rejects it: {reason}", dict(group.settings)[name] if name else ...)
        return
    for name, value in group.settings:
        if name not in made.param_groups[0]:
            message = f"{type(made).__name__} has one {name} for all groups"
            yield Problem(f"layers.rules, {group.name}: settings.{name}", message, value, f"set optimizer.{name}")


def _param_group(members: Sequence[Group], device: torch.device, tensor_lr: bool, decays: bool) -> dict[str, Any]:
    first, names = members[0], [group.name for group in members]
    group: dict[str, Any] = {
        "params": [parameter for member in members for _, parameter in member.parameters],
        "lr": _tensor(first.lr, device) if tensor_lr else first.lr,
        "name": " + ".join(names),
        "members": names,
    }
    if first.weight_decay is not None and decays:
        group["weight_decay"] = first.weight_decay
    if first.settings:
        group |= {**dict(first.settings), "settings": [name for name, _ in first.settings]}
    if first.route is not None:
        group["route"] = first.route
    if first.every > 1:
        group["every"] = first.every
    return group


def _tensor(lr: float, device: torch.device) -> torch.Tensor:
    return torch.tensor(lr, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)


def _can_fuse(merged: Sequence[Sequence[Group]], arguments: Mapping[str, Any], device: torch.device) -> bool:
    if any(arguments.get(other) for other in ("foreach", "differentiable")):  # torch refuses them together
        return False
    parameters = [parameter for members in merged for group in members for _, parameter in group.parameters]
    devices = {device.type, *(parameter.device.type for parameter in parameters)}
    return devices <= set(_FUSED_DEVICES) and all(parameter.is_floating_point() for parameter in parameters)


def _check_arguments(
    arguments: Mapping[str, Any], accepted: Mapping[str, inspect.Parameter], key: str
) -> Iterable[Problem]:
    for name, value in arguments.items():
        default = accepted[name].default if name in accepted else None
        if isinstance(value, str) and isinstance(default, int | float) and not isinstance(default, bool):
            yield Problem(f"{key}.{name}", "expected a number", value)
        elif isinstance(default, tuple) and isinstance(value, tuple) and len(value) != len(default):
            # torch unpacks them only in its first step
            yield Problem(f"{key}.{name}", f"expected {len(default)} values, as in {list(default)}", list(value))
        elif name in ("foreach", "capturable", "differentiable") and not isinstance(value, bool | None):
            yield Problem(f"{key}.{name}", "expected true, false or null", value)
    if _takes_any_keyword(accepted):
        return
    known = list(accepted)[1:]  # the first one takes the parameters
    for name, value in arguments.items():
        if name not in known and (name, value) != ("fused", "auto"):
            yield Problem(f"{key}.{name}", "the optimizer takes no such argument", value, did_you_mean(name, known))


def _check_decay(merged: Sequence[Sequence[Group]], accepted: Mapping[str, inspect.Parameter]) -> Iterable[Problem]:
    if "weight_decay" in accepted or _takes_any_keyword(accepted):
        return
    names = [group.name for members in merged for group in members if group.weight_decay]
    if names:
        message = f"the optimizer has no weight decay, and these groups set one: {', '.join(names)}"
        yield Problem("layers.rules", message)


def _takes_any_keyword(accepted: Mapping[str, inspect.Parameter]) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def adapt_to_lightning(optimizer: Optimizer, module: pl.LightningModule) -> None:
    """Adapt Lightning's closure to optimizers that evaluate the loss several times or need the graph.

    A line search compares several evaluations of the loss per step. Each evaluation uses the same random numbers, so
    that dropout does not change the function in between. A batch that the module skips changes nothing.

    A second-order optimizer gets gradients with their graph (`create_graph=True`) at the steps at which it estimates
    the Hessian. They are dropped after the step, because a gradient and its graph keep each other in memory.

    Args:
        optimizer: changed in place if it is one of these, else left unchanged.
        module: the trained module; changed in place for a second-order optimizer.
    """
    if traits_of(type(optimizer)).line_search:
        _fix_random_state(optimizer)
    for member in member_optimizers(optimizer).values():
        if traits_of(type(member)).second_order:
            _keep_graph(optimizer, member, module)


def _fix_random_state(optimizer: Optimizer) -> None:
    step = optimizer.step
    device = optimizer.param_groups[0]["params"][0].device

    def step_with_fixed_state(closure: Callable[[], Any]) -> Any:
        state = torch.get_rng_state()
        device_state = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

        def evaluate() -> Any:
            torch.set_rng_state(state)
            if device_state is not None:
                torch.cuda.set_rng_state(device_state, device)
            loss = closure()
            return torch.zeros(()) if loss is None else loss  # no gradient either, as at an optimum

        return step(evaluate)

    optimizer.step = step_with_fixed_state  # type: ignore[method-assign, assignment]


def _keep_graph(optimizer: Optimizer, member: Any, module: pl.LightningModule) -> None:
    backward = module.backward

    def backward_with_graph(loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        due = member.param_groups[0].get("step", 0) % getattr(member, "update_period", 1) == 0
        backward(loss, *args, create_graph=due, **kwargs)

    def drop_gradients(*_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    module.backward = backward_with_graph  # type: ignore[method-assign]
    optimizer.register_step_post_hook(drop_gradients)


class OfModule:
    """Stands for the optimizer that the LightningModule's own `configure_optimizers` makes; it is never built.

    Args:
        params: the parameters.
        lr: factor on the LRs that the module gives its groups.
    """

    def __init__(self, params: Any, lr: float = 1.0) -> None:
        raise TypeError("the module's own configure_optimizers makes the optimizer")
