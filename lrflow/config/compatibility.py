"""What an optimizer cannot be combined with, told before anything is built.

What measuring the curvature of the loss (find=stability, sharpness.every) does not go together with.

Whether the rules of the layers and the routes of the optimizer are made for each other.

Ranges of single optimizers' arguments, as their traits give them.

What `layers=mup` needs of the rest of the config: a narrower model, and an optimizer whose scaling is known.

The group `scaling`: how the peak LR follows the batch, where the config asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import TypeAdapter, ValidationError

from lrflow.config import schema
from lrflow.config import types as f
from lrflow.config.config import Config
from lrflow.config.diagnostics import problem_of
from lrflow.config.find_schema import StabilityFind
from lrflow.config.overrides import Override
from lrflow.config.schema import Optimizer
from lrflow.config.targets import check_arguments, defaults, optimizer_traits
from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.limits import is_number
from lrflow.optimizers.traits import Range, Traits, names_with, traits_named
from lrflow.plan.batch_scaling import BatchScaling

if TYPE_CHECKING:
    from lrflow.layers import Rule


def check_curvature(config: Config, processes: int | None = None) -> list[Problem]:
    """Settings under which the curvature that is asked for cannot be measured, or has no bound to be held against.

    Args:
        config: of the run.
        processes: how many train together; None: as many as the config tells.
    """
    asked = list(_asked(config))
    if not asked:
        return []
    who, trainer = " and ".join(asked), config.trainer
    problems = []
    *names, last = names_with("bound")
    known = f"it is known of {', '.join(names)} and {last}; leave out {who}"
    if optimizer_traits(config.optimizer.target).bound is None:
        name = config.optimizer.target.rpartition(".")[2]
        problems.append(Problem("optimizer._target_", "no stability bound is known of it", name, known))
    if config.optimizer.routes:
        problems.append(Problem("optimizer.routes", "no stability bound is known of several optimizers", ..., known))
    if beyond := trainer.beyond_one_process(processes):
        key, value, instead = beyond
        message = f"{who} measures {'a model that no strategy wraps' if key == 'strategy' else 'on one device'}"
        problems.append(Problem(f"trainer.{key}", message, value, f"trainer.{key}={instead}"))
    if "sharpness.every" in asked and str(trainer.precision) in ("16-true", "bf16-true"):
        message = "the curvature is lost in half precision"
        problems.append(Problem("trainer.precision", message, trainer.precision, "a mixed one keeps whole weights"))
    return problems


def unused_keys(config: Config) -> list[str]:
    """Keys of `find` and `sharpness` that were typed and that nothing in this run reads, each with what would."""
    typed = [Override.read(text).key for text in config.overrides]
    unread = []
    task, check = config.task.name, config.find.check
    plans, bounds = task == "plan", isinstance(config.find, StabilityFind)
    looks = config.finds_lr or (check and (bounds or not plans)) or task in ("find", "evaluate")
    found = getattr(config.find, "found", None) is not None  # by this run: so its keys were read
    if not looks and not found:
        keys = [key for key in typed if key == "find" or (key.startswith("find.") and (check or key != "find.check"))]
        would = "task=find or find=stability find.check=true" if plans else "find.check=true or optimizer.lr=auto"
        unread += [f"nothing reads {key} in task={task}: {would} would" for key in keys]
    if config.sharpness_every is None:
        given = [key for key in typed if key.removeprefix("health.").startswith("sharpness.")]
        keys = [key for key in given if not key.endswith(("sharpness.every", "sharpness._target_"))]
        unread += [f"nothing reads {key}: sharpness.every says how often to measure" for key in keys]
    return unread


def _asked(config: Config) -> Iterator[str]:
    task = config.task.name
    if isinstance(config.find, StabilityFind) and (task == "find" or (config.find.check and task in ("train", "plan"))):
        yield "find=stability"
    if config.sharpness_every is not None and task in ("train", "plan"):
        yield "sharpness.every"


def check_routes(
    rules: Sequence[schema.Rule | Rule], routes: Mapping[str, schema.Optimizer], key: str = "layers.rules[{}].route"
) -> list[Problem]:
    """Rules that take a route which is not there, optimizers that no rule leaves anything for, routes within routes.

    Args:
        rules: all of them.
        routes: `optimizer.routes`.
        key: where a rule says its route; `{}` is its number.
    """
    problems = [
        Problem(f"optimizer.routes.{name}.routes", "a route has none of its own", hint="declare it beside this one")
        for name, route in routes.items()
        if route.routes
    ]
    for index, rule in enumerate(rules):
        if rule.route is not None and rule.route not in routes:
            hint = did_you_mean(rule.route, routes) or "there are none: optimizer=muon brings one"
            problems.append(Problem(key.format(index), "there is no such route", rule.route, hint))
    if problems:
        return problems
    taken = {rule.route for rule in rules if not rule.freeze}
    for name in routes:
        if name not in taken:
            hint = f"layers=muon has a rule that routes to muon; ~optimizer.routes.{name} takes this one away"
            problems.append(
                Problem(f"optimizer.routes.{name}", "no rule of the layers routes anything to it", hint=hint)
            )
    if taken and None not in taken:
        hint = "let the optimizer itself be one that they are routed to"
        problems.append(Problem("optimizer", "every rule routes its parameters elsewhere", hint=hint))
    return problems


_KINDS: dict[str, Any] = {
    "count": f.Count,
    "positive": f.Positive,
    "not_negative": f.NotNegative,
    "above_one": Annotated[
        float,
        f.expects("a number above 1, or inf", lambda value: value == math.inf or (is_number(value) and value > 1)),
    ],
}


def check_ranges(arguments: Mapping[str, Any], ranges: Mapping[str, Range], key: str) -> Iterator[Problem]:
    """Arguments that would end in a crash or in no training at all.

    Args:
        arguments: of an optimizer, by name.
        ranges: of its traits.
        key: where the optimizer stands.
    """
    for name in (name for name in ranges if name in arguments):
        try:
            TypeAdapter(_field(ranges[name])).validate_python(arguments[name])
        except ValidationError as error:
            (details, *_) = error.errors(include_url=False)
            details["loc"] = (*key.split("."), name)
            yield problem_of(details, {})


def _field(limits: Range) -> Any:
    if isinstance(limits, str):
        return _KINDS[limits]
    words = [word for word in limits if word is not None]
    if None in limits:
        return Annotated[Any, f.expects(f"{', '.join(words)}, or null for none", lambda value: value in limits)]
    return Annotated[Any, f.one_of(*words)]


def check_combination(config: Config, processes: int | None = None) -> list[Problem]:
    """Settings of the trainer, and of the optimizers themselves, that a run with them would not work with.

    Args:
        config: of the run.
        processes: how many train together; None: as many as the config tells.
    """
    problems: list[Problem] = []
    routes = {f"optimizer.routes.{name}": route for name, route in config.optimizer.routes.items()}
    for key, optimizer in {"optimizer": config.optimizer, **routes}.items():
        try:
            traits = optimizer_traits(optimizer.target, f"{key}._target_")
        except ConfigError as error:
            return [*problems, *error.problems]
        problems += check_optimizer(config, optimizer, traits, key, processes)
    return [*problems, *check_curvature(config, processes)]


def check_optimizer(
    config: Config, optimizer: Optimizer, traits: Traits, key: str, processes: int | None = None
) -> Iterator[Problem]:
    """What a run with one of its optimizers would not work with.

    Args:
        config: of the run.
        optimizer: the main one, or that of a route.
        traits: of its class.
        key: where it stands.
        processes: how many train together; None: as many as the config tells.
    """
    arguments = optimizer.plain()  # not `node`, which imports the class to see whether it takes `routes`
    yield from check_ranges(arguments, traits.ranges, key)
    if traits.line_search:
        yield from _with_line_search(config, optimizer, traits)
        yield from _alone(config, processes, "each would take another step length")
    if traits.second_order:
        yield from _of_second_order(config)
        lost = "gradients that were averaged over devices have lost the graph that the Hessian is taken from"
        yield from _alone(config, processes, lost)
    if traits.own_warmup and (steps := arguments.get(traits.own_warmup)):
        hint = f"schedule.warmup={steps} is the same, and the plan shows it"
        yield Problem(f"{key}.{traits.own_warmup}", "a second warmup, on top of the schedule's", steps, hint)
    if traits.modes:
        yield from _unsharded(config, "needs whole ones to change between training and evaluation")
    if traits.whole_matrices:
        yield from _unsharded(config, "orthogonalises whole matrices")
    if traits.saved_by:
        message = "keeps Python objects in its state, so that none of its checkpoints could be loaded"
        hint = f"{traits.saved_by} is the same, saved as tensors"
        yield Problem(f"{key}._target_", message, optimizer.target, hint)
    if traits.nesterov_needs_momentum and optimizer.nesterov:
        # The default of a subclass may be another one, and stands in no signature where `**options` are handed on.
        unsaid = {"momentum": 0} if traits_named(optimizer.target) else defaults(optimizer.target)
        given = unsaid | arguments
        if given.get("momentum") == 0 or given.get("dampening", 0) != 0:
            yield Problem(f"{key}.nesterov", "needs momentum above 0 and dampening 0", True)


def _with_line_search(config: Config, optimizer: Optimizer, traits: Traits) -> Iterator[Problem]:
    trainer = config.trainer
    why = f"{optimizer.target.rpartition('.')[2]} evaluates each batch several times a step"
    if trainer.accumulate_grad_batches > 1:
        message = f"{why}, and only the last one of a window"
        hint = f"data.batch_size={(config.data.batch_size or 0) * trainer.accumulate_grad_batches} in one batch"
        yield Problem(
            "trainer.accumulate_grad_batches",
            message,
            trainer.accumulate_grad_batches,
            hint if config.data.batch_size else "take larger batches",
        )
    if trainer.gradient_clip_val is not None:
        message = f"{why} and learns curvature from how the gradient changes, which clipping hides"
        short = "line_search_fn=strong_wolfe keeps steps short" if "line_search_fn" in traits.ranges else None
        yield Problem("trainer.gradient_clip_val", message, trainer.gradient_clip_val, short)
    yield from _not_in_half_precision(config, f"{why}, and the scaler of float16 gradients only once")


def _of_second_order(config: Config) -> Iterator[Problem]:
    if config.trainer.compile:
        message = "a compiled model cannot be differentiated twice, as the optimizer does"
        yield Problem("trainer.compile", message, True, "leave it out")
    yield from _not_in_half_precision(config, "the optimizer differentiates gradients, before they are unscaled")


def _unsharded(config: Config, why: str) -> Iterator[Problem]:
    if str(config.trainer.strategy).startswith(("fsdp", "deepspeed")):
        message = f"shards the weights, and the optimizer {why}"
        yield Problem("trainer.strategy", message, config.trainer.strategy, "trainer.strategy=ddp")


def _not_in_half_precision(config: Config, message: str) -> Iterator[Problem]:
    precision = config.trainer.precision
    if str(precision) in ("16", "16-mixed"):
        yield Problem("trainer.precision", message, precision, "trainer.precision=bf16-mixed needs no scaler")


def _alone(config: Config, processes: int | None, why: str) -> Iterator[Problem]:
    if beyond := config.trainer.beyond_one_process(processes):
        key, value, instead = beyond
        message = f"the optimizer works in one process: {why}"
        yield Problem(f"trainer.{key}", message, value, f"trainer.{key}={instead}")


TARGET = "lrflow.layers.MuP"


def table_of(optimizer: Mapping[str, Any], asked: str = "auto") -> Literal["adam", "sgd"]:
    """Which of muP's tables an optimizer takes.

    Args:
        optimizer: the group's content.
        asked: `layers.optimizer`.

    Raises:
        ConfigError: it is not known, or its weight decay has no known rule.
    """
    if asked in ("adam", "sgd"):
        return "adam" if asked == "adam" else "sgd"
    target = str(optimizer.get("_target_"))
    traits = optimizer_traits(target)
    if traits.mup is None:
        hint = f"it is for {', '.join(sorted(names_with('mup')))}; "
        hint += "if yours moves as one of them, say so: layers.optimizer=adam or sgd"
        raise ConfigError([Problem("optimizer._target_", "no rule of muP is known for this optimizer", target, hint)])
    decay = optimizer.get("weight_decay")
    if decay and traits.mup == "adam" and not traits.is_decoupled(optimizer):
        message = "this decay passes through the normalised gradient, where no rule of muP is known for it"
        hint = "take optimizer=adamw, whose decay is kept in proportion, or optimizer.weight_decay=0"
        raise ConfigError([Problem("optimizer.weight_decay", message, decay, hint)])
    return traits.mup


def check_mup(content: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with the use of muP, as far as the config tells; nothing where it is not used.

    Args:
        content: the resolved config.
    """
    layers, model, optimizer = (content.get(group) for group in ("layers", "model", "optimizer"))
    if not isinstance(layers, Mapping) or layers.get("_target_") != TARGET:
        return
    if isinstance(optimizer, Mapping) and "_target_" in optimizer:
        try:
            table_of(optimizer, str(layers.get("optimizer", "auto")))
        except ConfigError as error:
            yield from error.problems
    for name in ("base", "wider"):
        if isinstance(arguments := layers.get(name), Mapping) and isinstance(model, Mapping):
            yield from _check_arguments(model, arguments, f"layers.{name}")


def _check_arguments(model: Mapping[str, Any], arguments: Mapping[str, Any], key: str) -> Iterator[Problem]:
    """Which arguments the model does not take."""
    if "_target_" in arguments:
        yield Problem(f"{key}._target_", "it is the same class as the model's", arguments["_target_"], "leave it out")
    elif new := {name: value for name, value in arguments.items() if name not in model}:
        known = [name for name in model if not str(name).startswith("_")]
        for problem in check_arguments(str(model.get("_target_")), {**model, **new}, "model", ignore=("loss",)):
            name = problem.key.removeprefix("model.")
            if name in new:
                hint = (problem.hint or f"known: {', '.join(known)}").replace("model.", f"{key}.")
                yield Problem(f"{key}.{name}", problem.message, problem.value, hint)


def batch_scaling(config: Config, devices: int | None = None) -> BatchScaling | None:
    """What the group `scaling` asks for; None where it asks for nothing.

    Args:
        config: `scaling`, and what the batch is made of: `data.batch_size`, devices, nodes, accumulation.
        devices: processes that train together, all nodes counted; None: as the config says.

    Raises:
        ConfigError: the batch is not known.
    """
    asked, trainer = config.scaling, config.trainer
    if asked.rule == "none" or asked.reference is None:
        return None
    if asked.batch is not None:
        return BatchScaling(asked.rule, asked.batch, asked.reference)
    if config.data.batch_size is None:
        message = f"expected a number of examples: {asked.rule} scaling needs the batch, and the data names none"
        hint = "give data.batch_size where the data takes one, or the examples of an optimizer step: scaling.batch=N"
        raise ConfigError([Problem("scaling.batch", message, None, hint)])
    devices = devices or trainer.processes
    if devices is None:
        message = f"expected a number: {asked.rule} scaling needs to know how many devices there are"
        raise ConfigError([Problem("trainer.devices", message, "auto")])
    counts = {"devices": devices, "accumulated": trainer.accumulate_grad_batches}
    parts = [str(config.data.batch_size), *(f"{count} {what}" for what, count in counts.items() if count > 1)]
    batch = config.data.batch_size * math.prod(counts.values())
    return BatchScaling(asked.rule, batch, asked.reference, " x ".join(parts) if len(parts) > 1 else "")


def check_scaling(config: Config) -> list[Problem]:
    """The group `scaling`: is anything given that does nothing, or missing that it needs?"""
    asked = config.scaling
    if asked.rule == "none":
        given = {"scaling.reference": asked.reference, "scaling.batch": asked.batch}
        hint = "add scaling=linear or scaling=sqrt, or leave it out"
        return [
            Problem(key, "nothing is scaled by the batch", value, hint)
            for key, value in given.items()
            if value is not None
        ]
    if asked.reference is None:
        message = f"expected a number of examples: the batch for which {asked.rule} scaling leaves the LR as it is"
        return [Problem("scaling.reference", message, None)]
    if config.trainer.devices == "auto":
        return []  # the trainer will know
    try:
        batch_scaling(config)
    except ConfigError as error:
        return error.problems
    return []
