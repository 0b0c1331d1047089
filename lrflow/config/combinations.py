"""What an optimizer cannot be combined with, told before anything is built."""

from __future__ import annotations

from collections.abc import Iterator

from lrflow.config.config import Config
from lrflow.config.curvature import check_curvature
from lrflow.errors import Problem

LINE_SEARCH = ("torch.optim.LBFGS",)
SECOND_ORDER = ("pytorch_optimizer.AdaHessian", "pytorch_optimizer.SophiaH")
UNSAVABLE = {"pytorch_optimizer.ScalableShampoo": "lrflow.optimizers.shampoo.Shampoo"}
"""Classes that keep Python objects in their state, and the same with a state of plain data."""
SCHEDULE_FREE = ("schedulefree.",)
OF_MATRICES = ("lrflow.optimizers.Muon", "torch.optim.Muon")


def check_combination(config: Config, processes: int | None = None) -> list[Problem]:
    """Settings of the trainer, and of the optimizer itself, that a run with it would not work with.

    Args:
        config: of the run.
        processes: how many train together; None: as many as the config tells.
    """
    problems: list[Problem] = []
    routes = {f"optimizer.routes.{name}": route.target for name, route in config.optimizer.routes.items()}
    for key, target in {"optimizer": config.optimizer.target, **routes}.items():
        if target in LINE_SEARCH:
            problems += [*_with_line_search(config), *_alone(config, processes, "each would take another step length")]
        elif target in SECOND_ORDER:
            lost = "gradients that were averaged over devices have lost the graph that the Hessian is taken from"
            problems += [*_of_second_order(config), *_alone(config, processes, lost)]
        elif target.startswith(SCHEDULE_FREE):
            problems += _schedule_free(config)
        elif target in OF_MATRICES:
            problems += _unsharded(config, "orthogonalises whole matrices")
        elif better := UNSAVABLE.get(target):
            message = "keeps Python objects in its state, so that none of its checkpoints could be loaded"
            problems.append(Problem(f"{key}._target_", message, target, f"{better} is the same, saved as tensors"))
    return [*problems, *check_curvature(config, processes)]


def _with_line_search(config: Config) -> Iterator[Problem]:
    trainer = config.trainer
    why = "L-BFGS evaluates each batch several times a step"
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
        hint = "line_search_fn=strong_wolfe keeps steps short"
        yield Problem("trainer.gradient_clip_val", message, trainer.gradient_clip_val, hint)
    yield from _not_in_half_precision(config, f"{why}, and the scaler of float16 gradients only once")


def _of_second_order(config: Config) -> Iterator[Problem]:
    if config.trainer.compile:
        message = "a compiled model cannot be differentiated twice, as the optimizer does"
        yield Problem("trainer.compile", message, True, "leave it out")
    yield from _not_in_half_precision(config, "the optimizer differentiates gradients, before they are unscaled")


def _schedule_free(config: Config) -> Iterator[Problem]:
    if steps := config.optimizer.node().get("warmup_steps"):
        hint = f"schedule.warmup={steps} is the same, and the plan shows it"
        yield Problem("optimizer.warmup_steps", "a second warmup, on top of the schedule's", steps, hint)
    yield from _unsharded(config, "needs whole ones to change between training and evaluation")


def _unsharded(config: Config, why: str) -> Iterator[Problem]:
    if str(config.trainer.strategy).startswith(("fsdp", "deepspeed")):
        message = f"shards the weights, and the optimizer {why}"
        yield Problem("trainer.strategy", message, config.trainer.strategy, "trainer.strategy=ddp")


def _not_in_half_precision(config: Config, message: str) -> Iterator[Problem]:
    precision = config.trainer.precision
    if str(precision) in ("16", "16-mixed"):
        yield Problem("trainer.precision", message, precision, "trainer.precision=bf16-mixed needs no scaler")


def _alone(config: Config, processes: int | None, why: str) -> Iterator[Problem]:
    trainer = config.trainer
    if processes is None and trainer.devices != "auto":
        devices = len(trainer.devices) if isinstance(trainer.devices, list) else trainer.devices
        processes = devices * trainer.num_nodes
    if processes is not None and processes > 1:
        key, value = ("num_nodes", trainer.num_nodes) if trainer.num_nodes > 1 else ("devices", trainer.devices)
        yield Problem(f"trainer.{key}", f"the optimizer works in one process: {why}", value, f"trainer.{key}=1")
    elif trainer.strategy not in ("auto", "single_device"):
        yield Problem("trainer.strategy", f"the optimizer works in one process: {why}", trainer.strategy, "auto")
