"""config.yaml of Lightning's CLI (2.6): optimizer, lr_scheduler and trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.translate import torch_schedulers
from lrflow.translate.facts import Facts
from lrflow.translate.files import Source
from lrflow.translate.keys import Keys, names
from lrflow.translate.plateau import choose_torch_plateau, metric_of
from lrflow.translate.torch_schedulers import Clock, class_of
from lrflow.translate.translation import Translation

TOOL = "LightningCLI's config.yaml"
SIGNS = ("seed_everything", "trainer", "fit", "lr_scheduler", "optimizer", "ckpt_path")
KNOWN = names(
    """
    seed_everything trainer model data optimizer lr_scheduler ckpt_path fit config
    """
)
TRAINER = names(
    """
    accelerator strategy devices num_nodes precision logger callbacks fast_dev_run max_epochs min_epochs max_steps
    min_steps max_time limit_train_batches limit_val_batches limit_test_batches limit_predict_batches
    overfit_batches val_check_interval check_val_every_n_epoch num_sanity_val_steps log_every_n_steps
    enable_checkpointing enable_progress_bar enable_model_summary accumulate_grad_batches gradient_clip_val
    gradient_clip_algorithm deterministic benchmark inference_mode use_distributed_sampler profiler detect_anomaly
    barebones plugins sync_batchnorm reload_dataloaders_every_n_epochs default_root_dir model_registry
    enable_autolog_hparams
    """
)
_SAME = ("num_nodes", "min_epochs", "min_steps", "deterministic", "benchmark", "detect_anomaly", "sync_batchnorm")
_REASONS = {
    "logger": "logger=wandb, or another option of the group",
    "callbacks": "callbacks=NAME, or callbacks.NAME._target_=...",
    "devices": "trainer.devices=N",
    "accelerator": "trainer.accelerator=NAME",
    "strategy": "trainer.strategy=NAME",
    "limit_train_batches": "trainer.limit_train_batches=N",
    "limit_val_batches": "trainer.limit_val_batches=N",
    "log_every_n_steps": "trainer.log_every=N",
    "val_check_interval": "trainer.val_every=DURATION",
    "check_val_every_n_epoch": "trainer.val_every='N epochs'",
    "default_root_dir": "output=FOLDER",
    "max_time": "trainer.max_time=DURATION",
    "overfit_batches": "trainer.overfit_batches=N",
    "profiler": "trainer.profiler=NAME",
}
_OTHERS = {
    "model": "model=custom model._target_=CLASS, see docs/configuration.md",
    "data": "data=custom data._target_=CLASS",
    "ckpt_path": "resume=RUN, of lrflow",
}
_ADAM = {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "AdamW": ("adamw", {**_ADAM, "weight_decay": 0.01}),
    "Adam": ("adam", _ADAM),
    "NAdam": ("nadam", {**_ADAM, "lr": 2e-3}),
    "RAdam": ("radam", _ADAM),
    "Adamax": ("adamax", {**_ADAM, "lr": 2e-3}),
    "SGD": ("sgd", {"lr": 1e-3, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}),
    "RMSprop": ("rmsprop", {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0, "momentum": 0.0}),
    "Adagrad": ("adagrad", {"lr": 1e-2, "lr_decay": 0.0, "weight_decay": 0.0, "eps": 1e-10}),
    "Adadelta": ("adadelta", {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0}),
}
"""Option and torch's own defaults, which hold where the file is silent, by class."""


def translate(source: Source, facts: Facts, into: Translation) -> None:
    """Translate a config of Lightning's CLI, whose schedulers are stepped once per epoch.

    Raises:
        ConfigError: a value is wrong, or there is no optimizer.
    """
    given = source.data.get("fit", source.data)
    keys = Keys(given if isinstance(given, Mapping) else source.data)
    total = _trainer(keys.inside("trainer"), into)
    node, where = _node(keys, "optimizer")
    if node is None:
        hint = "the optimizer of a module's own configure_optimizers is code: optimizer=module trains with it"
        raise ConfigError([Problem("optimizer", "the file has no optimizer", hint=hint)])
    name, arguments = class_of(node, where)
    scheduler, place = _node(keys, "lr_scheduler")
    peak = arguments.number("lr", OPTIMIZERS.get(name, ("", _ADAM))[1]["lr"])
    if scheduler is not None:
        kind, more = class_of(scheduler, place)
        peak = torch_schedulers.peak_of(kind, more, peak)
        if kind == "ReduceLROnPlateau":
            _plateau(more, into, peak)
        else:
            torch_schedulers.choose(kind, more, Clock("epochs", total, peak), into)
            into.note("Lightning's CLI steps the scheduler once per epoch: schedule.hold")
        more.rest(into, (), {}, kind)
    else:
        into.schedule("constant")
    _optimizer(name, arguments, peak, into)
    if (seed := keys.raw("seed_everything")) is not None and not isinstance(seed, bool):
        into.values["seed"] = keys.whole("seed_everything", 0)
    data = keys.raw("data")
    if isinstance(data, Mapping):
        size = Keys(data.get("init_args") or data, "data.").whole("batch_size", None, 1)
        into.set("data", batch_size=size)
        keys.read.discard("data")
    keys.rest(into, KNOWN, _OTHERS, TOOL)


def _node(keys: Keys, name: str) -> tuple[Any, str]:
    """Return the node of optimizer or scheduler: of the CLI, or an argument of the model; and its key."""
    if name in keys:
        return keys.raw(name), name
    model = keys.given.get("model")
    inner = model.get("init_args") or model if isinstance(model, Mapping) else None
    for key in (name, "scheduler") if name == "lr_scheduler" else (name,):
        if isinstance(inner, Mapping) and inner.get(key) is not None:
            return inner[key], f"model.init_args.{key}"
    return None, name


def _trainer(keys: Keys, into: Translation) -> int | None:
    """Translate the arguments of Lightning's Trainer; return the epochs of the run, None if steps end it."""
    count, steps = keys.whole("max_epochs", None, -1), keys.whole("max_steps", -1, -1)
    if count is None or count < 0:
        count = None if steps > 0 or count == -1 else 1000
        if count:
            into.note("Lightning ends after 1,000 epochs where neither max_epochs nor max_steps is given")
    into.length(epochs=count, steps=steps if steps > 0 else None)
    into.set("trainer", accumulate_grad_batches=keys.whole("accumulate_grad_batches", 1, 1))
    if (clip := keys.number("gradient_clip_val")) is not None:
        mode = keys.word("gradient_clip_algorithm", "norm", ("norm", "value"))
        if clip:
            into.choose("clip", mode, **{"max_norm" if mode == "norm" else "clip_value": clip})
    precision = keys.raw("precision")
    names = {32: "32-true", 16: "16-mixed", 64: "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
    if precision is not None:
        into.set("trainer", precision=names.get(precision, str(precision)))
    for key in _SAME:
        into.set("trainer", **{key: keys.raw(key) or None})
    keys.rest(into, TRAINER, _REASONS, "Lightning's Trainer")
    return count


def choose_torch_optimizer(name: str, keys: Keys, peak: float, into: Translation) -> None:
    """Choose the option of a class of torch.optim in `OPTIMIZERS`, with torch's defaults where the file is silent."""
    option, usual = OPTIMIZERS[name]
    given = {
        key: keys.numbers(key, value) if isinstance(value, list) else keys.raw(key, value)
        for key, value in usual.items()
    }
    into.choose("optimizer", option, **{**given, "lr": peak})


def _optimizer(name: str, keys: Keys, peak: float, into: Translation) -> None:
    """Choose the optimizer, with torch's defaults where the file is silent."""
    if name not in OPTIMIZERS:
        into.leave("optimizer", name, f"no counterpart: AdamW stands in its place; {did_you_mean(name, OPTIMIZERS)}")
        into.choose("optimizer", "adamw", lr=peak)
    else:
        choose_torch_optimizer(name, keys, peak, into)
        for key in ("amsgrad", "maximize"):
            if keys.flag(key):
                into.set("optimizer", **{key: True})
        silent = "weight_decay" not in keys and OPTIMIZERS[name][1].get("weight_decay")
        if silent:
            into.note(f"torch's {name} has a weight decay of {silent:g} where the file has none")
    into.options["layers"] = "uniform"
    keys.rest(into, ("foreach", "fused", "capturable", "differentiable"), {}, f"torch's {name}")


def _plateau(keys: Keys, into: Translation, peak: float) -> None:
    monitor = keys.word("monitor", "val_loss")
    choose_torch_plateau(keys, into, peak, metric_of(monitor))
    into.note(f"the LR follows {monitor}: check feedback.monitor, the name of this metric in lrflow")
