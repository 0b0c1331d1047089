"""What an optimizer cannot be combined with, told before anything is built."""

from __future__ import annotations

from collections.abc import Iterator

from lrflow.config.arguments import check_ranges
from lrflow.config.config import Config
from lrflow.config.curvature import check_curvature
from lrflow.config.schema import Optimizer
from lrflow.config.targets import defaults, optimizer_traits
from lrflow.errors import ConfigError, Problem
from lrflow.optimizers.traits import Traits, traits_named


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
