"""From a checked configuration to the objects of a run: data, module, groups, plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import nn

from lrflow.config import Config, instantiate, locate, redact
from lrflow.config.compatibility import batch_scaling, check_optimizer, check_routes, unused_keys
from lrflow.config.metrics import check_logged, doubts, guessed_modes
from lrflow.config.schema import NoFeedback, Optimizer, Rules
from lrflow.config.targets import optimizer_traits, takes
from lrflow.errors import ConfigError, Problem
from lrflow.feedback import Feedback
from lrflow.files import user_lock
from lrflow.health.advice import advise
from lrflow.imports import is_of_lightning
from lrflow.layers import GradualUnfreezing, Group, MuP, Rule, RuleMaker, merge, resolve
from lrflow.layers.groups import abbreviated
from lrflow.layers.parameters import Parameters
from lrflow.layers.rules import as_tuple
from lrflow.optimizers import Routed, build_optimizer, check_groups, check_members, traits_of
from lrflow.plan import Plan
from lrflow.runs import find_checkpoint
from lrflow.schedules import Curve, Horizon
from lrflow.training import Freezing, Supervised, planned_module
from lrflow.training.example import ExampleError, trace_uses
from lrflow.training.module import load_weights
from lrflow.training.mup_models import mup_rules
from lrflow.training.parameters import complete_module, has_deferred_parts
from lrflow.training.trainer import build_trainer


def build_data(config: Config) -> pl.LightningDataModule:
    """The data module, not yet set up.

    Raises:
        ConfigError: it is none.
    """
    data = instantiate(config.data.node())
    if not isinstance(data, pl.LightningDataModule):
        _check_lightning_package(data, "LightningDataModule", "data._target_", config.data.target)
        message = f"expected a LightningDataModule, got {type(data).__name__}"
        raise ConfigError([Problem("data._target_", message, config.data.target)])
    if not is_overridden("train_dataloader", data):
        raise ConfigError([Problem("data._target_", "has no train_dataloader", config.data.target)])
    return data


def build_module(
    config: Config,
    start: bool = True,
    trainer: pl.Trainer | None = None,
    data: pl.LightningDataModule | None = None,
    stage: str = "fit",
    tell: Callable[[str], None] = lambda _: None,
) -> pl.LightningModule:
    """The Lightning module, with all that it makes before its first step.

    It is the user's own, or a plain network in lrflow's.

    Args:
        config: `model`; `trainer.channels_last`, `trainer.compile`.
        start: with the weights that `model.init_from` names; false where a checkpoint of the run brings its own.
        trainer: what the module's hooks see; None: one of a single CPU.
        data: likewise, set up for the stage; None: they are read where the module has such hooks.
        stage: `fit`, `validate` or `test`.
        tell: is given what was taken of `model.init_from`.

    Raises:
        ConfigError: the model is no module, is a plain one without a loss, or the weights do not fit.
    """
    module = _make_module(config)
    if stage == "fit" and not is_overridden("training_step", module):
        message = f"{type(module).__name__} has no training_step, so there is nothing to train it by"
        raise ConfigError([Problem("model._target_", message, config.model.target)])
    if not isinstance(module, Supervised):
        module.trainer = trainer = trainer or cpu_trainer(config)
    if has_deferred_parts(module):
        complete_module(module, trainer or cpu_trainer(config), data or load_data(config), stage)
        _check_automatic_optimization(config, module)
    network = planned_module(module)
    if config.trainer.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.trainer.compile and isinstance(module, Supervised):
        network.compile()
    if start and config.model.init_from is not None:
        source = find_checkpoint(config.model.init_from, Path(config.output), "model.init_from")
        tell(load_weights(network, source, as_tuple(config.model.fresh)))
    return module


def load_data(config: Config) -> pl.LightningDataModule:
    """The data module, set up for training.

    Raises:
        ConfigError: it is none.
    """
    data = build_data(config)
    with user_lock("data"):
        data.prepare_data()
    data.setup("fit")
    return data


def cpu_trainer(config: Config, horizon: Horizon | None = None) -> pl.Trainer:
    """A trainer for the hooks of modules where nothing is trained: of one CPU, and of a run of this length."""
    accumulate = config.trainer.accumulate_grad_batches
    options = {"accelerator": "cpu", "devices": 1, "accumulate_grad_batches": accumulate}
    trainer = build_trainer(options, Path(config.output), [], config.trainer.log_every)
    if horizon:
        trainer.run_for(horizon)
    return trainer


def _make_module(config: Config) -> pl.LightningModule:
    model = instantiate(config.model.node())
    if isinstance(model, pl.LightningModule):
        _check_automatic_optimization(config, model)
        return model
    if not isinstance(model, nn.Module):
        message = f"expected a torch.nn.Module or a LightningModule, got {type(model).__name__}"
        raise ConfigError([Problem("model._target_", message, config.model.target)])
    if hasattr(model, "training_step"):
        _check_lightning_package(model, "LightningModule", "model._target_", config.model.target)
        message = f"{type(model).__name__} has a training_step, so it is no plain module, and it is no LightningModule"
        hint = "derive it from pytorch_lightning.LightningModule, or from that of `import lightning as L`"
        raise ConfigError([Problem("model._target_", message, config.model.target, hint)])
    if config.model.loss is None:
        raise ConfigError([Problem("model.loss", "expected cross_entropy or mse: a plain module brings no loss", None)])
    return Supervised(model, config.model.loss)


def _check_automatic_optimization(config: Config, module: pl.LightningModule) -> None:
    if not module.automatic_optimization:
        message = "optimizes by hand (automatic_optimization = False), and lrflow supplies the optimizer"
        raise ConfigError([Problem("model._target_", message, config.model.target)])


def check_metrics(config: Config, module: pl.LightningModule) -> None:
    """See that a plain module will log the metrics that a new run is asked for; what others log shows as they run.

    Raises:
        ConfigError: it will not; lists all of them.
    """
    if type(module) is Supervised and (problems := check_logged(config)):
        raise ConfigError(problems)


def _check_lightning_package(built: object, name: str, key: str, target: str) -> None:
    """Refuse an object of the real package `lightning`, which was imported before lrflow could stand in for it.

    Raises:
        ConfigError: it is one.
    """
    if is_of_lightning(type(built), name):
        message = f"is a {name} of the package lightning, whose classes are not those of pytorch_lightning"
        hint = "import lrflow's command line before lightning, or write `import pytorch_lightning as L`"
        raise ConfigError([Problem(key, message, target, hint)])


def build_groups(
    config: Config,
    module: pl.LightningModule,
    devices: int | None = None,
    tell: Callable[[Any], None] = lambda _: None,
    data: pl.LightningDataModule | None = None,
) -> list[Group]:
    """The parameter groups that the layer rules make of the model, at the peak LR that the batch asks for.

    Args:
        config: `layers`, `optimizer`, `scaling`.
        module: what is trained.
        devices: processes that train together; None: as the config says.
        tell: is given what a person should know of it before the run, such as a rescaled peak.
        data: set up for training; on one of their examples the module shows in which order it uses its layers. None:
            they have not been read.

    Raises:
        ConfigError: rules that do not account for every parameter exactly once, or groups that the optimizer cannot
            train.
    """
    held = Parameters.of(planned_module(module))
    layers = config.layers
    if isinstance(layers, Rules):
        rules: Sequence[Rule] = layers.made()
    else:
        maker = instantiate(layers.node())
        if isinstance(maker, MuP):
            rules = mup_rules(config, maker, held, module, tell)
        elif isinstance(maker, RuleMaker):
            rules = maker.rules_of(_with_order_of_use(held, module, data, tell) if maker.follows_use else held)
        else:
            rules = maker.rules(held.model)
        if problems := check_routes(rules, config.optimizer.routes, "layers.route"):
            raise ConfigError(problems)
    main, routes = config.optimizer, config.optimizer.routes
    settings = {name: {"lr": route.lr, "weight_decay": _weight_decay(route)} for name, route in routes.items()}
    groups = resolve(held, rules, main.lr, _weight_decay(main), routes=settings)
    problems = check_members({None: locate(main.target), **{n: locate(r.target) for n, r in routes.items()}})
    problems += check_groups([group for group in groups if not group.route], locate(main.target))
    for name, route in routes.items():
        problems += check_groups([group for group in groups if group.route == name], locate(route.target))
    if problems:
        raise ConfigError(problems)
    if scaling := batch_scaling(config, devices):
        tell(scaling.describe(main.node()))
        groups = [replace(group, lr=group.lr * scaling.factor) for group in groups]
    return groups


def needs_example(config: Config) -> bool:
    """Whether the groups depend on what the model does with an example of the data."""
    return not isinstance(config.layers, Rules) and getattr(locate(config.layers.target), "follows_use", False)


def _with_order_of_use(
    held: Parameters, module: pl.LightningModule, data: pl.LightningDataModule | None, tell: Callable[[Any], None]
) -> Parameters:
    """The parameters with the order in which the module uses them, where it can be seen."""
    try:
        return replace(held, uses=trace_uses(module, data))
    except ExampleError as why:
        tell(f"layers: in the order in which the model declares them; the order of use is not known: {why}")
        return held


def _weight_decay(optimizer: Optimizer) -> float | None:
    """What groups have whose rule says nothing of it; groups of an optimizer that has none are all alike."""
    decay: float | None = optimizer.node().get("weight_decay")
    return 0.0 if decay is None and not takes(optimizer.target, "weight_decay") else decay


def build_schedule(config: Config) -> Curve:
    """The schedule that every group follows which brings none of its own.

    Raises:
        ConfigError: it is no schedule.
    """
    return config.schedule.curve()


def build_feedback(config: Config) -> Feedback | None:
    """What moves the LR as the run goes, if anything does.

    Raises:
        ConfigError: it is no feedback, or its settings do not go together.
    """
    if isinstance(config.feedback, NoFeedback):
        return None
    feedback = instantiate(config.feedback.node())
    if not isinstance(feedback, Feedback):
        message = f"expected a feedback, such as lrflow.feedback.Plateau, got {type(feedback).__name__}"
        raise ConfigError([Problem("feedback._target_", message, config.feedback.target)])
    return feedback


def make_optimizer(
    config: Config, groups: Sequence[Group], device: torch.device, compiled: bool | None = None
) -> torch.optim.Optimizer:
    """The optimizer of the groups, for a device; where rules route groups to others, all of them as one.

    Args:
        config: of the run.
        groups: what it trains.
        device: where they are.
        compiled: its update is to be compiled; None: as the trainer says.
    """
    declared: dict[str | None, Optimizer] = {None: config.optimizer} | config.optimizer.routes
    compiled = config.trainer.compile if compiled is None else compiled
    tensor_lr = compiled and all(optimizer_traits(optimizer.target).compilable for optimizer in declared.values())
    optimizers: dict[str | None, torch.optim.Optimizer] = {}
    for route in dict.fromkeys(members[0].route for members in merge(groups)):
        node = declared[route].node()
        if config.trainer.gradient_clip_val is not None and str(config.trainer.precision).endswith("mixed"):
            # Lightning cannot clip between the unscaling and the step that a fused kernel does in one (2.6.6).
            node = {name: value for name, value in node.items() if (name, value) != ("fused", "auto")}
        own = [group for group in groups if group.route == route]
        key = "optimizer" if route is None else f"optimizer.routes.{route}"
        factory = locate(node["_target_"])
        optimizers[route] = made = build_optimizer(own, node, factory, device, tensor_lr, key)
        if not isinstance(factory, type):  # what a function makes is known only now
            problems = list(check_optimizer(config, declared[route], traits_of(type(made)), key))
            problems += check_groups(own, type(made))
            if problems:
                raise ConfigError(problems)
    return Routed(optimizers) if len(optimizers) > 1 else optimizers[None]


def check_plan(config: Config, plan: Plan) -> None:
    """See that every schedule of a plan fits the run's length, and that something trains from its first step on.

    Args:
        config: whose `layers` a group that starts too late is blamed on.
        plan: of the run.

    Raises:
        ConfigError: lists every one that does not.
    """
    problems = [problem for curve, _ in plan.curves for problem in curve.check(plan.horizon)]
    problems = problems or [problem for moved, _ in plan.scheduled_settings for problem in moved.check(plan.horizon)]
    if problems := problems or _check_starts(plan, config.layers.plain()):
        raise ConfigError(problems)


def report_advice(config: Config, plan: Plan, tell: Callable[[Any], None]) -> None:
    """Tell where the plan does not suit an optimizer, and what of the feedback is hardly meant."""
    declared: dict[str | None, Optimizer] = {None: config.optimizer} | config.optimizer.routes
    for advice in advise(plan, {route: locate(optimizer.target) for route, optimizer in declared.items()}):
        tell(f"warning: {advice}")
    for doubt in doubts(config, plan.horizon):
        tell(f"warning: {doubt}")
    if config.run_folder is None:  # else once for the whole sweep
        for guessed in guessed_modes(config.directions):
            tell(guessed)
    for unread in unused_keys(config):
        tell(f"warning: {unread}")
    if config.trainer.compile and plan.scheduled_settings:
        tell(f"the optimizer's update is not compiled, since other settings move: {', '.join(plan.also)}")


def _check_starts(plan: Plan, layers: Mapping[str, Any]) -> list[Problem]:
    """Groups that are unfrozen too late to train, or all of them too late."""
    run, starts = plan.horizon.steps, plan.first_steps
    if late := [f"{name} (step {start})" for name, start in starts.items() if start >= run]:
        message = f"the run has {run} steps, and these groups would be unfrozen later: {abbreviated(late)}"
        gradual = str(layers.get("_target_")).endswith(f".{GradualUnfreezing.__name__}") and "every" in layers
        key, value = ("layers.every", layers["every"]) if gradual else ("layers", ...)
        return [Problem(key, message, value, "unfreeze them earlier, or train longer")]
    if first := min(starts.values(), default=0):
        message = f"nothing would train before step {first}: every group is unfrozen later"
        return [Problem("layers", message, ..., "one group has to train from the first step on")]
    return []


def plan_extras(config: Config, devices: int | None = None) -> dict[str, Any]:
    """What plan.json tells besides the plan: how the batch scaled the peak, where it did.

    Args:
        config: of the run.
        devices: processes that train together; None: as the config says.
    """
    scaling = batch_scaling(config, devices)
    return {"scaling": scaling.record()} if scaling else {}


def plain_config(config: Config) -> dict[str, Any]:
    """The configuration as plain data: interpolations as they were written, so that no secret is in it."""
    content: Any = redact(OmegaConf.to_container(config.source, resolve=False))
    return content


def freezing_callbacks(
    config: Config, module: pl.LightningModule, plan: Plan, groups: Sequence[Group], step: int = 0
) -> list[pl.Callback]:
    """What keeps frozen groups as they are, in a run that has any and goes on from a step."""
    if not any(plan.first_steps.values()) and not any(group.frozen and group.freeze_statistics for group in groups):
        return []
    return [Freezing(planned_module(module), groups, plan.first_steps, step, config.trainer.compile)]


def lightning_options(config: Config) -> dict[str, Any]:
    """Lightning's own arguments among the trainer's; `Trainer.run_for` says how long it trains."""
    trainer = config.trainer
    names = (
        "accelerator devices num_nodes strategy precision accumulate_grad_batches "
        "gradient_clip_val gradient_clip_algorithm limit_train_batches limit_val_batches deterministic"
    )
    options = {name: getattr(trainer, name) for name in names.split()}
    if trainer.gradient_clip_val is None:
        del options["gradient_clip_algorithm"]
    return options
