"""Checks that optimizer, routes, curvature measurements, muP and trainer settings work together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from lrflow.config.composition.options import shipped_nodes
from lrflow.config.config import Config
from lrflow.config.schemas import layers as schema
from lrflow.config.schemas.average import NoAverage
from lrflow.config.schemas.clip import check_clip
from lrflow.config.schemas.find import StabilityFind
from lrflow.config.schemas.objects import Node, Optimizer
from lrflow.config.schemas.ranges import check_ranges
from lrflow.config.schemas.run import Trainer
from lrflow.config.step_batch import check_processes
from lrflow.config.targets import check_arguments, defaults, optimizer_traits
from lrflow.config.tuned_run import MUP_TARGET
from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.layers.rules import Table
from lrflow.optimizers.traits import Traits, names_with, traits_named

if TYPE_CHECKING:
    from lrflow.layers import Rule


def check_combination(config: Config, processes: int | None = None) -> list[Problem]:
    """Return a problem for each setting that does not work with the optimizers of the run.

    Args:
        config: config of the run.
        processes: number of processes that train together; None takes it from the config.
    """
    problems: list[Problem] = []
    for key, optimizer in config.optimizer.members.items():
        try:
            traits = optimizer_traits(optimizer.target, f"{key}._target_")
        except ConfigError as error:
            return [*problems, *error.problems]
        problems += check_optimizer(config, optimizer, traits, key, processes)
    others = (
        _of_strategy(config.trainer),
        check_clip(config.clip, config.trainer),
        check_curvature(config, processes),
        check_processes(config, processes),
    )
    return [*problems, *(problem for found in others for problem in found)]


def _of_strategy(trainer: Trainer) -> Iterator[Problem]:
    """Yield a problem for a strategy whose processes are copies of this one: lrflow's start as the command does."""
    copies = "starts processes as copies of this one, and lrflow's run the command again"
    if trainer.strategy_name.endswith(("_spawn", "_fork", "_notebook")):
        yield Problem("trainer.strategy", copies, trainer.strategy_name, "trainer.strategy=ddp")
    elif isinstance(trainer.strategy, Node):
        method = trainer.strategy.node().get("start_method", "popen")
        if method != "popen":
            yield Problem("trainer.strategy.start_method", copies, method, "leave it out")


def check_optimizer(
    config: Config, optimizer: Optimizer, traits: Traits, key: str, processes: int | None = None
) -> Iterator[Problem]:
    """Yield a problem for each setting that does not work with one of the optimizers.

    Args:
        config: config of the run.
        optimizer: main optimizer or that of a route.
        traits: traits of its class.
        key: config key of the optimizer.
        processes: number of processes that train together; None takes it from the config.
    """
    arguments = optimizer.plain()  # `node` would import the class
    yield from check_ranges(arguments, traits.ranges, key)
    yield from check_betas(arguments.get("betas"), optimizer.target, key)
    for other in ("foreach", "differentiable"):
        if arguments.get("fused") is True and arguments.get(other) is True:
            message, hint = "a fused step is neither foreach nor differentiable", f"{key}.fused=auto"
            yield Problem(f"{key}.{other}", message, True, hint)
    if arguments.get("fused") is True and config.guard is not None and _has_scaler(config):
        message = "a fused step unscales float16 gradients itself, so nothing can clip them before"
        yield Problem(f"{key}.fused", message, True, f"{key}.fused=auto")
    if traits.line_search:
        yield from _with_line_search(config, optimizer, traits)
        yield from _alone(config, processes, "each process would take another step length")
    if traits.second_order:
        yield from _of_second_order(config)
        lost = "gradients averaged over devices have lost the graph that the Hessian needs"
        yield from _alone(config, processes, lost)
    if traits.own_warmup and (steps := arguments.get(traits.own_warmup)):
        hint = f"use schedule.warmup={steps}, which the plan shows"
        yield Problem(f"{key}.{traits.own_warmup}", "adds a second warmup to that of the schedule", steps, hint)
    if traits.modes:
        yield from _unsharded(config, "needs whole weights to switch between training and evaluation")
        if not isinstance(config.average, NoAverage):
            name = optimizer.target.rpartition(".")[2]
            message = f"{name} averages the weights itself, and is evaluated at that average"
            yield Problem("average", message, config.average.kind, "average=none, or another optimizer")
    if traits.whole_matrices:
        yield from _unsharded(config, "orthogonalises whole matrices")
    if traits.saved_by:
        message = "has state that checkpoints do not hold, so no run could be resumed exactly"
        hint = f"use {traits.saved_by}, which saves all of its state"
        yield Problem(f"{key}._target_", message, optimizer.target, hint)
    if traits.nesterov_needs_momentum and optimizer.nesterov:
        # A subclass that passes `**options` on may have another default, which no signature shows.
        unsaid = {"momentum": 0} if traits_named(optimizer.target) else defaults(optimizer.target)
        given = unsaid | arguments
        if given.get("momentum") == 0 or given.get("dampening", 0) != 0:
            yield Problem(f"{key}.nesterov", "needs momentum above 0 and dampening 0", True)


def check_betas(betas: Any, target: str, key: str) -> Iterator[Problem]:
    """Yield a problem if an optimizer of lrflow's options takes another number of betas; torch raises at step 0."""
    ours = next((node["betas"] for node in shipped_nodes("optimizer", target) if "betas" in node), None)
    if betas is not None and ours is not None and len(betas) != len(ours):
        yield Problem(f"{key}.betas", f"{target} has {len(ours)}", list(betas), f"such as '{key}.betas={ours}'")


def _with_line_search(config: Config, optimizer: Optimizer, traits: Traits) -> Iterator[Problem]:
    trainer = config.trainer
    why = f"{optimizer.target.rpartition('.')[2]} evaluates each batch several times a step"
    if trainer.accumulate_grad_batches > 1:
        message = f"{why}, but only the last batch of an accumulation window"
        hint = f"use one batch: data.batch_size={(config.data.batch_size or 0) * trainer.accumulate_grad_batches}"
        yield Problem(
            "trainer.accumulate_grad_batches",
            message,
            trainer.accumulate_grad_batches,
            hint if config.data.batch_size else "use larger batches",
        )
    if config.schedule.batch is not None and config.schedule.batch_by == "accumulation":
        message = f"{why}, but only the last batch of an accumulation window"
        yield Problem("schedule.batch", message, ..., "schedule.batch_by=loader, whose batches change their size")
    if config.guard is not None:
        clip, value = config.guard_choice
        message = f"{why} and estimates curvature from changes of the gradient, which clipping distorts"
        short = "line_search_fn=strong_wolfe limits the steps" if "line_search_fn" in traits.ranges else None
        yield Problem(clip, message, value, short)
    yield from _not_in_half_precision(config, f"{why}, but the scaler of float16 gradients allows only one evaluation")


def _of_second_order(config: Config) -> Iterator[Problem]:
    if config.trainer.compile:
        message = "the optimizer differentiates twice, which a compiled model cannot"
        yield Problem("trainer.compile", message, True, "leave it out")
    yield from _not_in_half_precision(config, "the optimizer differentiates gradients before they are unscaled")


def _unsharded(config: Config, why: str) -> Iterator[Problem]:
    if config.trainer.strategy_name.startswith(("fsdp", "deepspeed")):
        message = f"shards the weights, but the optimizer {why}"
        yield Problem("trainer.strategy", message, config.trainer.strategy_name, "trainer.strategy=ddp")


def _has_scaler(config: Config) -> bool:
    """Whether float16 gradients are scaled."""
    return str(config.trainer.precision) in ("16", "16-mixed")


def _not_in_half_precision(config: Config, message: str) -> Iterator[Problem]:
    if _has_scaler(config):
        yield Problem(
            "trainer.precision", message, config.trainer.precision, "trainer.precision=bf16-mixed needs no scaler"
        )


def _alone(config: Config, processes: int | None, why: str) -> Iterator[Problem]:
    if beyond := config.trainer.beyond_one_process(processes):
        key, value, instead = beyond
        message = f"the optimizer works in one process only: {why}"
        yield Problem(f"trainer.{key}", message, value, f"trainer.{key}={instead}")


def check_routes(
    rules: Sequence[schema.Rule | Rule],
    routes: Mapping[str, Optimizer],
    key: Callable[[int], str] = "layers.rules[{}].route".format,
) -> list[Problem]:
    """Check the routes of layer rules: unknown routes, optimizers without a rule, routes within routes.

    Args:
        rules: all rules.
        routes: `optimizer.routes`.
        key: returns the config key of a rule's route, by the index of the rule.
    """
    problems = [
        Problem(f"optimizer.routes.{name}.routes", "a route cannot have routes", hint="add it to optimizer.routes")
        for name, route in routes.items()
        if route.routes
    ]
    for index, rule in enumerate(rules):
        if rule.route is not None and rule.route not in routes:
            hint = did_you_mean(rule.route, routes) or "there are no routes; optimizer=muon adds one"
            problems.append(Problem(key(index), "there is no such route", rule.route, hint))
    if problems:
        return problems
    taken = {rule.route for rule in rules if not rule.freeze}
    for name in routes:
        if name not in taken:
            hint = f"layers=muon has a rule with route: muon; ~optimizer.routes.{name} removes this route"
            problems.append(Problem(f"optimizer.routes.{name}", "no rule in layers.rules has this route", hint=hint))
    if taken and None not in taken:
        hint = "make one of the routed optimizers the main one, and remove the route of its rules"
        problems.append(Problem("optimizer", "it has no parameters: every rule has a route", hint=hint))
    return problems


def check_curvature(config: Config, processes: int | None = None) -> list[Problem]:
    """Return a problem for each setting under which the requested curvature cannot be measured or has no bound.

    Args:
        config: config of the run.
        processes: number of processes that train together; None takes it from the config.
    """
    features = list(_curvature_features(config))
    if not features:
        return []
    who, trainer = " and ".join(features), config.trainer
    problems = []
    *names, last = names_with("bound")
    known = f"a bound is known for {', '.join(names)} and {last}; otherwise leave out {who}"
    if optimizer_traits(config.optimizer.target).bound is None:
        name = config.optimizer.target.rpartition(".")[2]
        problems.append(Problem("optimizer._target_", "no stability bound is known for it", name, known))
    if config.optimizer.routes:
        problems.append(Problem("optimizer.routes", "no stability bound is known for several optimizers", ..., known))
    if beyond := trainer.beyond_one_process(processes):
        key, value, instead = beyond
        message = f"{who} works only {'with a model that no strategy wraps' if key == 'strategy' else 'on one device'}"
        problems.append(Problem(f"trainer.{key}", message, value, f"trainer.{key}={instead}"))
    if "sharpness.every" in features and str(trainer.precision) in ("16-true", "bf16-true"):
        message = "half precision is too coarse to measure the curvature"
        hint = "mixed precision keeps the weights in full precision: trainer.precision=bf16-mixed"
        problems.append(Problem("trainer.precision", message, trainer.precision, hint))
    return problems


def _curvature_features(config: Config) -> Iterator[str]:
    task = config.task.name
    if isinstance(config.find, StabilityFind) and (task == "find" or (config.find.check and task in ("train", "plan"))):
        yield "find=stability"
    if config.sharpness_every is not None and task in ("train", "plan"):
        yield "sharpness.every"


def table_of(optimizer: Mapping[str, Any], asked: str = "auto") -> Table:
    """Return which of muP's tables applies to an optimizer.

    Args:
        optimizer: content of the group `optimizer`.
        asked: `layers.optimizer`.

    Raises:
        ConfigError: no table is known for the optimizer or for its weight decay.
    """
    if given := [table for table in get_args(Table) if table == asked]:
        return given[0]
    target = str(optimizer.get("_target_"))
    traits = optimizer_traits(target)
    if traits.mup is None:
        hint = f"rules are known for {', '.join(sorted(names_with('mup')))}; "
        hint += "if your optimizer scales like one of them, set layers.optimizer=adam or layers.optimizer=sgd"
        raise ConfigError([Problem("optimizer._target_", "no rule of muP is known for this optimizer", target, hint)])
    decay = optimizer.get("weight_decay")
    if decay and traits.mup == "adam" and not traits.is_decoupled(optimizer):
        message = "no rule of muP is known for a weight decay that is added to a normalised gradient"
        hint = "use optimizer=adamw, whose weight decay is decoupled, or optimizer.weight_decay=0"
        raise ConfigError([Problem("optimizer.weight_decay", message, decay, hint)])
    return traits.mup


def route_of_matrices(routes: Mapping[str, Mapping[str, Any]], taken: Sequence[str | None] = ()) -> str | None:
    """Return the route to which `layers=mup` sends hidden matrices; None: there is no route.

    Args:
        routes: `optimizer.routes`.
        taken: routes of the rules in front of those of muP.

    Raises:
        ConfigError: no rule of muP is known for the optimizer of a route, or there are several.
    """
    free = [name for name in routes if name not in taken]
    known = [name for name in free if optimizer_traits(str(routes[name].get("_target_"))).orthogonal]
    hint = "give it parameters by a rule in layers.rules, or leave it out"
    if other := [name for name in free if name not in known]:
        message = "muP sends hidden matrices to Muon, and nothing to other optimizers"
        raise ConfigError([Problem(f"optimizer.routes.{name}", message, ..., hint) for name in other])
    if len(known) > 1:
        message = f"muP sends hidden matrices to one optimizer, {known[0]}"
        raise ConfigError([Problem(f"optimizer.routes.{name}", message, ..., hint) for name in known[1:]])
    return known[0] if known else None


def check_mup(content: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the problems of `layers=mup` that the config shows; none if it is not used.

    Args:
        content: resolved config.
    """
    layers, model, optimizer = (content.get(group) for group in ("layers", "model", "optimizer"))
    if not isinstance(layers, Mapping) or layers.get("_target_") != MUP_TARGET:
        return
    if isinstance(optimizer, Mapping) and "_target_" in optimizer:
        try:
            table_of(optimizer, str(layers.get("optimizer", "auto")))
            rules = [rule for rule in layers.get("rules") or () if isinstance(rule, Mapping)]
            route_of_matrices(optimizer.get("routes") or {}, [rule.get("route") for rule in rules])
        except ConfigError as error:
            yield from error.problems
    for name in ("base", "wider"):
        if isinstance(arguments := layers.get(name), Mapping) and isinstance(model, Mapping):
            yield from _check_arguments(model, arguments, f"layers.{name}")


def _check_arguments(model: Mapping[str, Any], arguments: Mapping[str, Any], key: str) -> Iterator[Problem]:
    """Yield a problem for each argument that the model does not take."""
    if "_target_" in arguments:
        yield Problem(f"{key}._target_", "the class is always that of the model", arguments["_target_"], "leave it out")
    elif new := {name: value for name, value in arguments.items() if name not in model}:
        known = [name for name in model if not str(name).startswith("_")]
        for problem in check_arguments(str(model.get("_target_")), {**model, **new}, "model", ignore=("loss",)):
            name = problem.key.removeprefix("model.")
            if name in new:
                hint = (problem.hint or f"known: {', '.join(known)}").replace("model.", f"{key}.")
                yield Problem(f"{key}.{name}", problem.message, problem.value, hint)
