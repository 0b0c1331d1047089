"""Compiled models of Keras (3.15): a .keras archive, the JSON of a model, of its compile_config or of an optimizer."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any

from lrflow.errors import ConfigError, Problem
from lrflow.translate import keras_schedules
from lrflow.translate.facts import Facts
from lrflow.translate.files import Source
from lrflow.translate.keys import Keys, names
from lrflow.translate.plateau import choose_plateau, metric_of
from lrflow.translate.translation import Translation

TOOL = "Keras's compiled models"
SIGNS = (
    "compile_config",
    "class_name",
    "registered_name",
    "beta_1",
    "epsilon",
    "global_clipnorm",
    "ema_momentum",
    "steps_per_execution",
    "run_eagerly",
    "weighted_metrics",
    "callbacks",
    "steps_per_epoch",
)
KNOWN = names(
    """
    module class_name config registered_name build_config compile_config optimizer loss loss_weights metrics
    weighted_metrics run_eagerly steps_per_execution jit_compile auto_scale_loss epochs batch_size callbacks
    steps_per_epoch validation_split validation_freq validation_batch_size shuffle class_weight initial_epoch verbose
    """
)
REASONS = {
    "loss": "model.loss=NAME, see docs/training.md",
    "metrics": "model.metrics=[NAME], see docs/training.md",
    "jit_compile": "trainer.compile=true",
    "validation_split": "data.val_size=10%, if the data has it",
    "class_weight": "data.sampler, or a loss with weights",
}
_OPTIMIZER = names(
    """
    name learning_rate weight_decay clipnorm global_clipnorm clipvalue use_ema ema_momentum ema_overwrite_frequency
    loss_scale_factor gradient_accumulation_steps beta_1 beta_2 epsilon amsgrad momentum nesterov rho centered
    initial_accumulator_value jit_compile is_legacy_optimizer decay inner_optimizer
    """
)
_OF_OPTIMIZER = {
    "clipnorm": "Keras clips the gradient of each variable alone; clip=norm clips all together",
    "ema_overwrite_frequency": "Keras puts the average into the weights during the run; average=ema keeps it apart",
    "loss_scale_factor": "trainer.precision=16-mixed scales the loss by itself",
    "decay": "Keras 2's: lr / (1 + decay t), which schedule=inverse_time with power 1 has",
}
_ADAM = {"lr": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("sgd", {"lr": 0.01, "momentum": 0.0, "nesterov": False}),
    "Adam": ("adam", {**_ADAM, "amsgrad": False}),
    "AdamW": ("adamw", {**_ADAM, "amsgrad": False, "weight_decay": 0.004}),
    "Nadam": ("nadam", _ADAM),
    "Adamax": ("adamax", _ADAM),
    "Lamb": ("lamb", _ADAM),
    "Lion": ("lion", {"lr": 0.001, "beta_1": 0.9, "beta_2": 0.99}),
    "RMSprop": ("rmsprop", {"lr": 0.001, "rho": 0.9, "momentum": 0.0, "epsilon": 1e-7, "centered": False}),
    "Adagrad": ("adagrad", {"lr": 0.001, "initial_accumulator_value": 0.1, "epsilon": 1e-7}),
    "Adadelta": ("adadelta", {"lr": 0.001, "rho": 0.95, "epsilon": 1e-7}),
}
"""Option and Keras's own defaults by class."""

_FIXED: dict[str, dict[str, Any]] = {"Nadam": {"momentum_decay": 1.0}, "Lion": {"weight_decouple": True}}
"""Settings by which an option is that of Keras: its Nadam has 0.96^t where torch has 0.96^(0.004 t)."""

_NOTES = {
    "Adam": "Keras adds epsilon before the correction of the second moment, and torch after it",
    "RMSprop": "Keras adds epsilon inside the root, and torch outside",
    "Adagrad": "Keras adds epsilon inside the root, and torch outside",
}
_DECOUPLED = ("adamw", "nadam", "lion")


def names_in(source: Source) -> list[str]:
    """Return the keys of a file, those of its compile_config and of its optimizer."""
    data = source.data
    compiled = data.get("compile_config")
    inner = compiled if isinstance(compiled, Mapping) else data
    optimizer = inner.get("optimizer")
    node = optimizer if isinstance(optimizer, Mapping) else {}
    settings = node.get("config")
    found = {*data, *inner, *node, *(settings if isinstance(settings, Mapping) else ())}
    return sorted(str(key) for key in found if key not in _OPTIMIZER or key in SIGNS)


def translate(source: Source, facts: Facts, into: Translation) -> None:
    """Translate what a model was compiled with; the defaults are those of Keras.

    Raises:
        ConfigError: a value is wrong, or the model was not compiled.
    """
    keys, name, settings = _compiled(source)
    accumulated = settings.whole("gradient_accumulation_steps", 1, 1)
    updates = _length(keys, facts, accumulated, into)
    known = name in OPTIMIZERS
    option, usual = OPTIMIZERS.get(name, ("adamw", OPTIMIZERS["AdamW"][1]))
    given = settings.raw("learning_rate", usual["lr"])
    plateau = _callbacks(keys, into)
    if isinstance(given, Mapping):
        inner = given.get("config")
        schedule = Keys(inner if isinstance(inner, Mapping) else {}, f"{settings.prefix}learning_rate.config.")
        peak = keras_schedules.choose(str(given.get("class_name")), schedule, into, accumulated, updates)
        schedule.read |= {"name", "warmup_steps"}
        schedule.rest(into, (), {}, f"Keras's {given.get('class_name')}")
        if plateau is not None:
            message = "Keras refuses it together with a schedule of the optimizer"
            raise ConfigError([Problem(f"{plateau.prefix}class_name", message, "ReduceLROnPlateau")])
    else:
        peak = _shortest(settings.number("learning_rate", usual["lr"]))
        into.schedule("constant")
    if plateau is not None:
        _plateau(plateau, into, peak)
    if not known:
        into.leave(f"{settings.prefix}class_name", name, "no counterpart: AdamW stands in its place")
    _optimizer(name if known else "AdamW", option, usual, settings, peak, into)
    _clip(settings, into)
    if settings.flag("use_ema"):
        into.choose("average", "ema", decay=settings.number("ema_momentum", 0.99), warmup=False)
    settings.read |= {"ema_momentum", "name", "is_legacy_optimizer"}
    settings.rest(into, _OPTIMIZER, _OF_OPTIMIZER, f"Keras's {name}")
    if accumulated > 1:
        into.set("trainer", accumulate_grad_batches=accumulated)
    keys.whole("steps_per_execution", 1, 1)
    keys.rest(into, KNOWN, REASONS, TOOL)


def _compiled(source: Source) -> tuple[Keys, str, Keys]:
    """Return what a model was compiled with, the class of its optimizer, and the keys of the optimizer.

    Raises:
        ConfigError: there is no optimizer.
    """
    data, prefix = source.data, ""
    if "compile_config" in data or "build_config" in data or source.path.suffix == ".keras":
        data, prefix = data.get("compile_config") or {}, "compile_config."
    elif "class_name" in data and "config" in data:
        data = {"optimizer": data}
    elif "learning_rate" in data and "optimizer" not in data:
        name = str(data.get("name", ""))
        kind = re.sub(r"_\d+$", "", name).replace("_", "").lower()
        known = {each.lower(): each for each in OPTIMIZERS}
        data = {"optimizer": {"class_name": known.get(kind, name), "config": data}}
    keys = Keys(data if isinstance(data, Mapping) else {}, prefix)
    node = keys.raw("optimizer")
    if isinstance(node, Mapping) and node.get("class_name") == "LossScaleOptimizer":
        inner = node.get("config")
        node = inner.get("inner_optimizer") if isinstance(inner, Mapping) else None
    where = f"{prefix}optimizer."
    if isinstance(node, str):
        known = {each.lower(): each for each in OPTIMIZERS}
        return keys, known.get(node.lower(), node), Keys({}, where)
    if not isinstance(node, Mapping) or not isinstance(node.get("class_name"), str):
        hint = "json.dumps(model.get_compile_config()) of a compiled model has it"
        raise ConfigError(
            [Problem(f"{prefix}optimizer", "the file has no optimizer: a class_name and a config", hint=hint)]
        )
    settings = node.get("config", {})
    if not isinstance(settings, Mapping):
        raise ConfigError([Problem(f"{where}config", "expected keys with values", settings)])
    return keys, str(node["class_name"]), Keys(settings, f"{where}config.")


def _length(keys: Keys, facts: Facts, accumulated: int, into: Translation) -> int | None:
    """Set batch and length of the run; return its updates, None if they are not known."""
    batch, count = keys.whole("batch_size", None, 1), keys.whole("epochs", None, 1)
    per_epoch = keys.whole("steps_per_epoch", None, 1)
    into.set("data", batch_size=batch)
    if count is None:
        return None
    into.length(epochs=count)
    if per_epoch is None and batch is not None and facts.samples is not None:
        per_epoch = facts.steps_per_epoch(batch)
    elif per_epoch is not None:
        into.set("trainer", limit_train_batches=per_epoch)
    return None if per_epoch is None else count * per_epoch // accumulated


def _callbacks(keys: Keys, into: Translation) -> Keys | None:
    """Name the callbacks; return the arguments of ReduceLROnPlateau, if it is one of them."""
    given = keys.raw("callbacks", [])
    if isinstance(given, Mapping):
        given = [{"class_name": name, "config": config} for name, config in given.items()]
    found = None
    for i, node in enumerate(given if isinstance(given, list) else [given]):
        name = node if isinstance(node, str) else node.get("class_name") if isinstance(node, Mapping) else None
        config = node.get("config") or {} if isinstance(node, Mapping) else {}
        where = f"{keys.prefix}callbacks.{i}"
        if not isinstance(name, str) or not isinstance(config, Mapping):
            raise ConfigError([Problem(where, "expected class_name and config", node)])
        if name == "ReduceLROnPlateau":
            found = Keys(config, f"{where}.config.")
        else:
            into.leave(where, name, _OF_CALLBACKS.get(name, "callbacks=NAME, or callbacks.NAME._target_=..."))
    return found


_OF_CALLBACKS = {
    "LearningRateScheduler": "a function of Python: a schedule of lrflow, such as schedule=tabulated",
    "EarlyStopping": "callbacks=early_stopping, with callbacks.early_stopping.patience",
    "ModelCheckpoint": "trainer.checkpoint",
    "TensorBoard": "logger=tensorboard",
    "CSVLogger": "metrics.csv of the run folder has it",
}


def _plateau(keys: Keys, into: Translation, peak: float) -> None:
    """Choose the feedback; Keras cuts at the last epoch of its patience, torch and lrflow one after it."""
    monitor, mode = keys.word("monitor", "val_loss"), keys.word("mode", "auto", ("auto", "min", "max"))
    if keys.number("factor", 0.1) >= 1:
        keys.wrong("factor", "expected a number below 1")
    choose_plateau(
        into,
        peak,
        keys.number("min_lr", 0.0),
        monitor="train/" + monitor if "_" not in monitor else metric_of(monitor),
        mode=None if mode == "auto" else mode,
        factor=keys.number("factor", 0.1),
        patience=max(keys.whole("patience", 10) - 1, 0),
        threshold=keys.number("min_delta", 1e-4),
        threshold_mode="abs",
        cooldown=max(keys.whole("cooldown", 0) - 1, 0),
    )
    into.note("Keras cuts the LR one epoch earlier than lrflow with the same patience, and so it counts its cooldown")
    into.note(f"the LR follows {monitor}: check feedback.monitor, the name of this metric in lrflow")
    keys.rest(into, ("verbose",), {}, "ReduceLROnPlateau")


def _optimizer(name: str, option: str, usual: Mapping[str, Any], keys: Keys, peak: float, into: Translation) -> None:
    """Choose the optimizer; Keras multiplies the weight decay by the LR for each of them, and decays every variable."""
    decay = keys.number("weight_decay", usual.get("weight_decay", 0.0))
    option = "adamw" if name == "Adam" and decay else option
    plain = name == "SGD" and not keys.number("momentum", 0.0)
    if decay and option not in _DECOUPLED and not plain:
        why = f"Keras multiplies it by the LR alone; {option} adds it to the gradient"
        into.leave(f"{keys.prefix}weight_decay", decay, why)
        decay = 0.0
    values: dict[str, Any] = {"lr": peak, "weight_decay": decay, **_FIXED.get(name, {})}
    if "beta_1" in usual:
        values["betas"] = [keys.number("beta_1", usual["beta_1"]), keys.number("beta_2", usual["beta_2"])]
    for key, ours in (("epsilon", "eps"), ("rho", "alpha" if name == "RMSprop" else "rho"), ("momentum", "momentum")):
        if key in usual:
            values[ours] = keys.number(key, usual[key])
    if "initial_accumulator_value" in usual:
        values["initial_accumulator_value"] = keys.number("initial_accumulator_value", 0.1)
    for key in ("amsgrad", "centered", "nesterov"):
        if key in usual and keys.flag(key) and (key != "nesterov" or values["momentum"]):
            values[key] = True
    into.choose("optimizer", option, **values)
    into.options["layers"] = "uniform"
    if (note := _NOTES.get(name.removesuffix("W"))) is not None:
        into.note(note)
    if values.get("momentum"):
        into.note(
            "Keras multiplies the LR into the momentum, torch the momentum by the LR: equal while the LR is constant"
        )
    if name == "AdamW" and "weight_decay" not in keys:
        into.note("Keras's AdamW has a weight decay of 0.004 where the file has none")


def _clip(keys: Keys, into: Translation) -> None:
    """Choose the guard: Keras takes the first of clipnorm, global_clipnorm and clipvalue."""
    each = keys.number("clipnorm", 0.0)
    whole, value = keys.number("global_clipnorm", 0.0), keys.number("clipvalue", 0.0)
    if each:
        keys.read.discard("clipnorm")
    elif whole:
        into.choose("clip", "norm", max_norm=whole)
    elif value:
        into.choose("clip", "value", clip_value=value)


def _shortest(value: float) -> float:
    """Return the shortest decimal number that is this one in 32 bits, as which Keras keeps an LR."""
    try:
        packed = struct.pack("f", value)
    except OverflowError:
        return value
    if struct.unpack("f", packed)[0] != value:
        return value
    for digits in range(1, 10):
        shorter = float(f"{value:.{digits}g}")
        if struct.pack("f", shorter) == packed:
            return shorter
    return value
