"""The batch of an optimizer step: `data.effective_batch_size`, divided over devices and accumulation, and `scaling`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lrflow.config.config import Config
from lrflow.config.schemas.find import BatchSizeFind
from lrflow.config.schemas.task import OF_A_RUN
from lrflow.errors import ConfigError, Problem
from lrflow.plan.batch_scaling import BatchScaling, StepBatch

EFFECTIVE = "data.effective_batch_size"
ACCUMULATED = "trainer.accumulate_grad_batches"


def step_batch(config: Config, devices: int | None = None) -> StepBatch | None:
    """Return the batch of an optimizer step; None if the batch size or the number of devices is unknown.

    Args:
        config: of the run.
        devices: processes that train together on all nodes; None takes it from the config.
    """
    per_device, accumulated = config.data.batch_size, config.trainer.accumulate_grad_batches
    devices = devices or config.trainer.processes
    if devices is None and config.data.effective_batch_size is not None and per_device is not None:
        devices = config.data.effective_batch_size // (per_device * accumulated)  # it was divided among these
    return None if per_device is None or not devices else StepBatch(per_device, devices, accumulated)


def fill_accumulation(content: dict[str, Any]) -> int | None:
    """Replace an accumulation of null by 1, and return what the config gives; `divide_batch` may replace it again.

    Args:
        content: resolved config, changed in place.
    """
    trainer = content.get("trainer")
    if not isinstance(trainer, dict) or trainer.get("accumulate_grad_batches") is not None:
        return trainer.get("accumulate_grad_batches") if isinstance(trainer, dict) else None
    trainer["accumulate_grad_batches"] = 1
    return None


def divide_batch(content: dict[str, Any], config: Config, accumulated: int | None) -> list[Problem]:
    """Divide `data.effective_batch_size` over the devices and the accumulation, and return its problems.

    Args:
        content: resolved config, whose batch size and accumulation are set.
        config: the same config, typed.
        accumulated: result of `fill_accumulation`.
    """
    effective, per_device = config.data.effective_batch_size, config.data.batch_size
    if effective is None or config.task.name in OF_A_RUN:  # which train nothing, perhaps on other devices
        return []
    if accumulated is not None:
        message = f"{EFFECTIVE}={effective} sets it: the batches per step follow from the batch size and the devices"
        return [Problem(ACCUMULATED, message, accumulated, f"leave it out, or {ACCUMULATED}=null, or {EFFECTIVE}=null")]
    if per_device is None:
        hint = "set data.batch_size if the data takes it"
        return [Problem(EFFECTIVE, "needs data.batch_size, and the data has none", effective, hint)]
    devices = config.trainer.processes or devices_here(config)
    divided = StepBatch.divided(effective, per_device, devices)
    if divided is None:
        return [_indivisible(effective, per_device, devices)]
    content["data"]["batch_size"] = divided.per_device
    content["trainer"]["accumulate_grad_batches"] = divided.accumulated
    return []


def _indivisible(effective: int, per_device: int, devices: int) -> Problem:
    """Return the problem of an effective batch that cannot be divided, with the nearest values that can."""
    of_devices = f" on {devices} devices" if devices > 1 else ""
    sizes = " or ".join(map(str, StepBatch.nearest_sizes(effective, per_device, devices)))
    near = StepBatch.nearest_per_device(effective, per_device, devices)
    hint = f"{EFFECTIVE}={sizes}" + (f", or data.batch_size={near}" if near else "")
    message = f"cannot be divided exactly into batches of {per_device}{of_devices}"
    if effective < devices:
        message = f"is less than one example for each of the {devices} devices"
    elif near is None and effective <= per_device * devices:
        message = f"cannot be divided exactly among {devices} devices"
    return Problem(EFFECTIVE, message, effective, hint)


def check_processes(config: Config, processes: int | None) -> list[Problem]:
    """Return a problem if the run has another number of processes than its effective batch was divided among.

    Args:
        config: of the run.
        processes: number of processes that train together; None: that of the config.
    """
    effective, batch = config.data.effective_batch_size, step_batch(config, processes)
    if effective is None or batch is None or batch.size == effective or config.task.name in OF_A_RUN:
        return []
    message = f"was divided for another number of devices: this is {batch.describe()}"
    return [Problem(EFFECTIVE, message, effective, "set trainer.devices and trainer.num_nodes to those of this run")]


def check_batch_search(config: Config, find: BatchSizeFind) -> Iterator[Problem]:
    """Yield a problem for each setting that does not work with a search for the batch size."""
    searches = config.task.name == "find"
    if not (searches or (find.check and config.task.name == "train")):
        return
    if find.max is not None and find.min > find.max:
        yield Problem("find.max", f"expected at least find.min = {find.min}", find.max)
    if config.trainer.processes is not None and config.trainer.processes > 1:
        key = "num_nodes" if config.trainer.num_nodes > 1 else "devices"
        message = "one process that runs out of memory would leave the others waiting"
        hint = "find the batch size on one of the devices: trainer.devices=1 trainer.num_nodes=1 trainer.strategy=auto"
        yield Problem(f"trainer.{key}", message, getattr(config.trainer, key), hint)
    if searches and config.resume.source is not None:
        message = "find=batch_size measures a new model: the weights do not matter"
        yield Problem("resume.from", message, config.resume.source, "leave it out")


def check_noise_search(config: Config) -> Iterator[Problem]:
    """Yield a problem for each setting with which the noise of the gradients cannot be measured."""
    searches = config.task.name == "find"
    if not (searches or (config.find.check and config.task.name == "train")):
        return
    trainer = config.trainer
    if trainer.strategy_name.startswith(("fsdp", "deepspeed")):
        message = "find=critical_batch needs whole gradients, and this strategy shares them among devices"
        yield Problem("trainer.strategy", message, trainer.strategy_name, "trainer.strategy=ddp, or one device")
    if str(trainer.precision) in ("16", "16-mixed"):
        message = "find=critical_batch compares norms of gradients, and this precision scales them"
        yield Problem("trainer.precision", message, trainer.precision, "trainer.precision=bf16-mixed or 32-true")
    if config.data.batch_size == 1 and trainer.accumulate_grad_batches == 1 and trainer.processes == 1:
        message = "find=critical_batch compares the halves of a batch, so it needs two examples"
        yield Problem("data.batch_size", message, 1, "data.batch_size=16, or trainer.accumulate_grad_batches=2")
    if searches and config.resume.source is not None:
        message = "find=critical_batch measures a run from its start"
        yield Problem("resume.from", message, config.resume.source, "leave it out")


def devices_here(config: Config) -> int:
    """Return the number of processes of `trainer.devices=auto` on this machine, times the nodes."""
    import torch  # here, since only this combination needs it to check a config

    on_gpu = config.trainer.accelerator in ("auto", "gpu", "cuda")
    return (max(1, torch.cuda.device_count()) if on_gpu else 1) * config.trainer.num_nodes


def batch_scaling(config: Config, devices: int | None = None) -> BatchScaling | None:
    """Return the scaling of the peak LR that the group `scaling` sets, or None for no scaling.

    Args:
        config: config with `scaling`, `data.batch_size`, devices, nodes and accumulation.
        devices: processes that train together on all nodes; None takes it from the config.

    Raises:
        ConfigError: the batch size is not known.
    """
    asked = config.scaling
    if asked.rule in ("none", "transfer") or asked.reference is None:
        return None
    if asked.batch is not None:
        return BatchScaling(asked.rule, asked.batch, asked.reference)
    if config.data.batch_size is None:
        message = f"expected a number of examples: {asked.rule} scaling needs the batch size, and the data has none"
        hint = "set data.batch_size if the data takes it, or scaling.batch=N, the examples per optimizer step"
        raise ConfigError([Problem("scaling.batch", message, None, hint)])
    batch = step_batch(config, devices)
    if batch is None:
        message = f"expected a number: {asked.rule} scaling needs the number of devices"
        raise ConfigError([Problem("trainer.devices", message, "auto")])
    if sizes := config.schedule.sizes:  # the LR of smaller batches is less, see `BatchScaled`
        return BatchScaling(asked.rule, max(sizes), asked.reference)
    return BatchScaling(asked.rule, batch.size, asked.reference, batch.parts)


def check_scaling(config: Config) -> list[Problem]:
    """Return a problem for each key of `scaling` that has no effect or is missing."""
    asked = config.scaling
    if asked.rule == "transfer" and asked.source is None:
        return [Problem("scaling.from", "expected the folder of a tuned run", None, "scaling.from=outputs/RUN")]
    if asked.rule != "transfer" and asked.source is not None:
        return [Problem("scaling.from", f"has no effect with scaling={asked.rule}", asked.source, "scaling=transfer")]
    if asked.rule in ("none", "transfer"):
        given = {"scaling.reference": asked.reference, "scaling.batch": asked.batch}
        hint = "add scaling=linear or scaling=sqrt, or leave it out"
        return [
            Problem(key, f"has no effect with scaling={asked.rule}", value, hint)
            for key, value in given.items()
            if value is not None
        ]
    if asked.reference is None:
        message = f"expected a number of examples: the batch size at which {asked.rule} scaling leaves the LR unchanged"
        return [Problem("scaling.reference", message, None)]
    if config.trainer.devices == "auto":
        return []  # the trainer will know
    try:
        batch_scaling(config)
    except ConfigError as error:
        return error.problems
    return []
