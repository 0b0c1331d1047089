"""Build the parts of a run from a checked configuration: data, module, parameter groups, optimizer, callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.utilities.model_helpers import is_overridden
from rich.console import RenderableType
from torch import nn

from lrflow.config import Config, instantiate, locate
from lrflow.config.batch_schedule import describe_batches
from lrflow.config.checks.compatibility import check_optimizer
from lrflow.config.checks.metrics import check_logged, need_validation
from lrflow.config.objective import loss_of, metrics_of
from lrflow.config.schemas.objects import NoFeedback, Optimizer
from lrflow.config.step_batch import batch_scaling, step_batch
from lrflow.config.targets import optimizer_traits, takes
from lrflow.data import DataModule
from lrflow.errors import ConfigError, Problem
from lrflow.feedback import Feedback
from lrflow.files import user_lock
from lrflow.huggingface import HuggingFace
from lrflow.imports import is_of_lightning
from lrflow.layers import Group, merge, resolve
from lrflow.layers.rules import as_tuple
from lrflow.metric import TRAIN_LOSS
from lrflow.objectives import LOSSES
from lrflow.optimizers import Routed, build_optimizer, check_groups, check_members, traits_of
from lrflow.optimizers.routed import route_key
from lrflow.plan import Plan
from lrflow.plan.checks import misfits
from lrflow.redaction import redact
from lrflow.runs import find_checkpoint
from lrflow.schedules import Curve, Horizon
from lrflow.training import Supervised, planned_module
from lrflow.training.layer_rules import rules_of_run
from lrflow.training.loader_settings import build_augmentation, configure_loaders
from lrflow.training.manual_optimization import check_optimization
from lrflow.training.module import load_weights
from lrflow.training.module_optimizer import ModuleOptimizer, module_groups
from lrflow.training.objective import build_criterion, build_metrics
from lrflow.training.parameters import complete_module, has_deferred_parts
from lrflow.training.scalars import add_planned, bind_scalars
from lrflow.training.trainer import build_trainer
from lrflow.wording import counted


def build_data(config: Config) -> pl.LightningDataModule:
    """Return the data module, not yet set up, whose loaders have the settings of `data.loader`.

    Raises:
        ConfigError: `data` does not build a LightningDataModule, or one without a `train_dataloader`.
    """
    data = instantiate(config.data.node(), "data")
    if not isinstance(data, pl.LightningDataModule):
        _check_lightning_package(data, "LightningDataModule", "data._target_", config.data.target)
        message = f"expected a LightningDataModule, got {type(data).__name__}"
        raise ConfigError([Problem("data._target_", message, config.data.target)])
    if not is_overridden("train_dataloader", data):
        raise ConfigError([Problem("data._target_", "has no train_dataloader", config.data.target)])
    configure_loaders(data, config.data, build_augmentation(config))
    return data


def load_data(config: Config) -> pl.LightningDataModule:
    """Return the data module, set up for training.

    Raises:
        ConfigError: `data` does not build a LightningDataModule.
    """
    data = build_data(config)
    with user_lock("data"):
        data.prepare_data()
    data.setup("fit")
    return data


def describe_data(config: Config, data: pl.LightningDataModule | None = None) -> RenderableType | None:
    """Return what is printed about the data before a run; None: nothing.

    Args:
        config: of the run.
        data: set up; None: they are built if their class describes itself.
    """
    if data is None and getattr(locate(config.data.target), "describe", DataModule.describe) is not DataModule.describe:
        data = build_data(config)
    return data.describe() if isinstance(data, DataModule) else None


def build_module(
    config: Config,
    start: bool = True,
    trainer: pl.Trainer | None = None,
    data: pl.LightningDataModule | None = None,
    stage: str = "fit",
    report: Callable[[Any], None] = lambda _: None,
) -> pl.LightningModule:
    """Return the Lightning module with all parameters that it creates before its first step.

    A LightningModule is used as it is; a plain network is wrapped in `Supervised`.

    Args:
        config: `model`; `trainer.channels_last`, `trainer.compile`.
        start: load the weights of `model.init_from`; false if a checkpoint of the run replaces them.
        trainer: the trainer that the module's hooks use; None: one with a single CPU.
        data: the data that the module's hooks use, set up for the stage; None: they are loaded if the hooks need them.
        stage: `fit`, `validate` or `test`.
        report: is called with the description of the data, and a line about the weights of `model.init_from`.

    Raises:
        ConfigError: the model is not a module, is a plain one without a loss, or the weights do not fit.
    """
    if stage == "fit" and (description := describe_data(config, data)):
        report(description)
    module = _make_module(config, start)
    if stage == "fit" and not is_overridden("training_step", module):
        message = f"{type(module).__name__} has no training_step, so it cannot be trained"
        raise ConfigError([Problem("model._target_", message, config.model.target)])
    add_planned(config, module)
    if not isinstance(module, Supervised):
        module.trainer = trainer = trainer or cpu_trainer(config)
    if has_deferred_parts(module):
        complete_module(module, trainer or cpu_trainer(config), data or load_data(config), stage)
        check_optimization(config, module)
    network = planned_module(module)
    bind_scalars(config, module)
    if config.trainer.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.trainer.compile and isinstance(module, Supervised):
        network.compile()
    if start and config.model.init_from is not None:
        source = find_checkpoint(config.model.init_from, Path(config.output), "model.init_from")
        report(load_weights(network, source, as_tuple(config.model.fresh)))
    elif isinstance(network, HuggingFace) and network.weights:
        report(network.weights)
    return module


def _make_module(config: Config, start: bool) -> pl.LightningModule:
    loads_by = getattr(locate(config.model.target), "loads_by", None)  # the argument that loads weights of its own
    model = instantiate(config.model.node(), "model", **({} if start or loads_by is None else {loads_by: False}))
    if isinstance(model, pl.LightningModule):
        check_optimization(config, model)
        if config.model.metrics is not None and not takes(config.model.target, "metrics"):
            message = f"{type(model).__name__} is a LightningModule, which logs its own metrics"
            raise ConfigError([Problem("model.metrics", message, config.model.metrics, "leave it out")])
        return model
    if not isinstance(model, nn.Module):
        message = f"expected a torch.nn.Module or a LightningModule, got {type(model).__name__}"
        raise ConfigError([Problem("model._target_", message, config.model.target)])
    if hasattr(model, "training_step"):
        _check_lightning_package(model, "LightningModule", "model._target_", config.model.target)
        message = f"{type(model).__name__} has a training_step, but it is not a LightningModule"
        hint = "derive it from pytorch_lightning.LightningModule, or from that of `import lightning as L`"
        raise ConfigError([Problem("model._target_", message, config.model.target, hint)])
    loss = loss_of(config)
    if loss is None:
        message = f"expected one of {', '.join(LOSSES)}: a plain module has no loss"
        raise ConfigError([Problem("model.loss", message, None)])
    wrapped = Supervised(model, build_criterion(loss), build_metrics(metrics_of(config), loss))
    check_optimization(config, wrapped)
    return wrapped


def _check_lightning_package(built: object, name: str, key: str, target: str) -> None:
    """Reject an object of the package `lightning` that was imported before lrflow could alias it.

    Raises:
        ConfigError: the object's class is one of the package `lightning`.
    """
    if is_of_lightning(type(built), name):
        message = f"is a {name} of the package lightning, whose classes are not those of pytorch_lightning"
        hint = "import lrflow's command line before lightning, or write `import pytorch_lightning as L`"
        raise ConfigError([Problem(key, message, target, hint)])


def cpu_trainer(config: Config, horizon: Horizon | None = None) -> pl.Trainer:
    """Return a trainer with one CPU, for the hooks of modules when nothing is trained; its run has this length."""
    accumulate = config.trainer.accumulate_grad_batches
    options = {"accelerator": "cpu", "devices": 1, "accumulate_grad_batches": accumulate}
    trainer = build_trainer(options, Path(config.output), [], config.trainer.log_every)
    if horizon:
        trainer.run_for(horizon)
    return trainer


def check_metrics(config: Config, module: pl.LightningModule) -> None:
    """Check that a plain module logs every metric that the configuration names.

    Modules of a user's own are not checked: what they log is known only once they run.

    Raises:
        ConfigError: lists every metric that the module does not log.
    """
    if type(module) is Supervised and (problems := check_logged(config)):
        raise ConfigError(problems)


def check_validation(config: Config, module: pl.LightningModule, data: pl.LightningDataModule) -> None:
    """Check that there is a validation, if feedback or the best checkpoint needs its metric.

    Raises:
        ConfigError: lists every key that names a metric of validation, if module or data have no validation.
    """
    if not is_overridden("validation_step", module):
        lacking = f"{type(module).__name__} has no validation_step"
    elif not is_overridden("val_dataloader", data) and not is_overridden("val_dataloader", module):
        lacking = f"{type(data).__name__} has no val_dataloader"
    else:
        return
    hint = f"or use {TRAIN_LOSS}"
    if problems := [Problem(key, f"{lacking}, so nothing is validated", m, hint) for key, m in need_validation(config)]:
        raise ConfigError(problems)


def build_groups(
    config: Config,
    module: pl.LightningModule,
    devices: int | None = None,
    report: Callable[[Any], None] = lambda _: None,
    data: pl.LightningDataModule | None = None,
    horizon: Horizon | None = None,
) -> list[Group]:
    """Return the parameter groups that the layer rules make of the model, with the peak LR scaled by the batch size.

    With `optimizer=module` they are the groups of the module's own optimizer.

    Args:
        config: `layers`, `optimizer`, `scaling`.
        module: the module to train.
        devices: number of training processes; None: that of the config.
        report: is called with what a user should know before the run, such as a rescaled peak LR.
        data: set up for training; one example shows in which order the module uses its layers. None: not loaded.
        horizon: length of the run, if it is known; the scheduler of the module's own optimizer needs it.

    Raises:
        ConfigError: the rules do not put every parameter into exactly one group, or the optimizer cannot train a group.
    """
    if config.optimizer.of_module:
        return _scaled(config, module_groups(config, module, horizon, report), devices, report, horizon)
    parameters, rules = rules_of_run(config, module, data, report)
    main, routes = config.optimizer, config.optimizer.routes
    settings = {name: {"lr": route.lr, "weight_decay": _weight_decay(route)} for name, route in routes.items()}
    groups = resolve(parameters, rules, main.lr, _weight_decay(main), routes=settings)
    groups = [group if group.frozen else replace(group, every=main.intervals[group.route]) for group in groups]
    problems = [
        Problem(
            f"{key}.every",
            f"is more than the {counted(horizon.steps, 'step')} of the run",
            one.every,
            "a smaller one, or train longer",
        )
        for key, one in main.members.items()
        if horizon and one.every > horizon.steps
    ]
    problems += check_members({None: locate(main.target), **{n: locate(r.target) for n, r in routes.items()}})
    problems += check_groups([group for group in groups if not group.route], locate(main.target))
    for name, route in routes.items():
        problems += check_groups([group for group in groups if group.route == name], locate(route.target))
    if problems:
        raise ConfigError(problems)
    return _scaled(config, groups, devices, report, horizon)


def _scaled(
    config: Config, groups: list[Group], devices: int | None, report: Callable[[Any], None], horizon: Horizon | None
) -> list[Group]:
    if config.data.effective_batch_size is not None and (batch := step_batch(config, devices)):
        report(batch.describe())
    if horizon and horizon.batch:
        report(describe_batches(config, horizon))
    if scaling := batch_scaling(config, devices):
        report(scaling.describe(config.optimizer.node()))
        follows = (scaling.rule, scaling.batch) if config.schedule.sizes else None
        groups = [replace(group, lr=group.lr * scaling.factor, batch=follows) for group in groups]
    return groups


def _weight_decay(optimizer: Optimizer) -> float | None:
    """Return the weight decay of groups whose rule sets none; 0 if the optimizer has no weight decay."""
    decay: float | None = optimizer.node().get("weight_decay")
    return 0.0 if decay is None and not takes(optimizer.target, "weight_decay") else decay


def build_schedule(config: Config) -> Curve:
    """Return the schedule of every group that has none of its own.

    Raises:
        ConfigError: `schedule` does not build a schedule.
    """
    return config.schedule.curve()


def build_feedback(config: Config) -> Feedback | None:
    """Return the feedback that adapts the LR during the run, or None if none is configured.

    Raises:
        ConfigError: `feedback` does not build a feedback, or its settings contradict each other.
    """
    if isinstance(config.feedback, NoFeedback):
        return None
    feedback = instantiate(config.feedback.node(), "feedback")
    if not isinstance(feedback, Feedback):
        message = f"expected a feedback, such as lrflow.feedback.Plateau, got {type(feedback).__name__}"
        raise ConfigError([Problem("feedback._target_", message, config.feedback.target)])
    return feedback


def make_optimizer(
    config: Config,
    groups: Sequence[Group],
    device: torch.device,
    compiled: bool | None = None,
    module: pl.LightningModule | None = None,
) -> torch.optim.Optimizer:
    """Return the optimizer of the groups; if rules route groups to several optimizers, one that holds all of them.

    Args:
        config: of the run.
        groups: the parameter groups to train.
        device: the device of the parameters.
        compiled: whether the optimizer's update will be compiled; None: `trainer.compile`.
        module: the trained module, which makes the optimizer itself with `optimizer=module`.
    """
    if config.optimizer.of_module:
        assert module is not None
        return ModuleOptimizer.of(module).planned(groups)
    declared: dict[str | None, Optimizer] = {None: config.optimizer} | config.optimizer.routes
    compiled = config.trainer.compile if compiled is None else compiled
    tensor_lr = compiled and all(optimizer_traits(optimizer.target).compilable for optimizer in declared.values())
    optimizers: dict[str | None, torch.optim.Optimizer] = {}
    for route in dict.fromkeys(members[0].route for members in merge(groups)):
        node = declared[route].node()
        if config.guard is not None and str(config.trainer.precision).endswith("mixed"):
            # A fused kernel unscales and steps in one; nothing can clip in between.
            node = {name: value for name, value in node.items() if (name, value) != ("fused", "auto")}
        own = [group for group in groups if group.route == route]
        key = route_key(route)
        factory = locate(node["_target_"])
        optimizers[route] = made = build_optimizer(own, node, factory, device, tensor_lr, key)
        if not isinstance(factory, type):  # the class that a function returns is known only now
            problems = list(check_optimizer(config, declared[route], traits_of(type(made)), key))
            problems += check_groups(own, type(made))
            if problems:
                raise ConfigError(problems)
    return Routed(optimizers) if len(optimizers) > 1 else optimizers[None]


def check_plan(config: Config, plan: Plan) -> None:
    """Check that every schedule of a plan fits the run's length, and that a group trains from the first step on.

    Raises:
        ConfigError: lists every schedule that does not fit, or the groups that would start too late.
    """
    if problems := misfits(plan, config.layers.plain()):
        raise ConfigError(problems)


def plain_config(config: Config) -> dict[str, Any]:
    """Return the configuration as plain data, with interpolations unresolved, so that it holds no secret."""
    content: Any = redact(OmegaConf.to_container(config.source, resolve=False))
    return content
