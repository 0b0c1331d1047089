"""Flags of torchvision's references/classification/train.py: a command line, or a file of its flags."""

from __future__ import annotations

from typing import Any

from lrflow.errors import ConfigError, Problem
from lrflow.translate import torch_schedulers
from lrflow.translate.facts import Facts
from lrflow.translate.files import Source
from lrflow.translate.keys import Keys, names
from lrflow.translate.torch_schedulers import Clock
from lrflow.translate.translation import Translation

TOOL = "torchvision's reference flags"
SIGNS = (
    "lr_scheduler",
    "lr_warmup_epochs",
    "lr_warmup_method",
    "lr_step_size",
    "norm_weight_decay",
    "mixup_alpha",
    "ra_sampler",
)
KNOWN = names(
    """
    data_path model device batch_size epochs workers opt lr momentum weight_decay norm_weight_decay
    bias_weight_decay transformer_embedding_decay label_smoothing mixup_alpha cutmix_alpha lr_scheduler
    lr_warmup_epochs lr_warmup_method lr_warmup_decay lr_step_size lr_gamma lr_min print_freq output_dir resume
    start_epoch cache_dataset sync_bn test_only auto_augment ra_magnitude augmix_severity random_erase amp
    world_size dist_url model_ema model_ema_steps model_ema_decay use_deterministic_algorithms interpolation
    val_resize_size val_crop_size train_crop_size clip_grad_norm ra_sampler ra_reps weights weights_backbone backend
    use_v2 nproc_per_node nnodes
    """
)
REASONS = {
    "model": "model=custom model._target_=..., see docs/configuration.md",
    "data_path": "data=images data.path=FOLDER, or data of your own",
    "label_smoothing": "model.loss.label_smoothing, see docs/training.md",
    "mixup_alpha": "augment=mixup",
    "cutmix_alpha": "augment=cutmix",
    "auto_augment": "augment=randaugment",
    "random_erase": "augment=erasing",
    "model_ema": "average=ema; torchvision averages every model_ema_steps, and scales the decay by batch and epochs",
    "output_dir": "output=FOLDER",
    "sync_bn": "trainer.sync_batchnorm=true",
    "workers": "data.num_workers, if the data has it",
    "transformer_embedding_decay": "a rule of layers, see docs/layers.md",
}


def translate(source: Source, facts: Facts, into: Translation) -> None:
    """Translate flags of torchvision's reference; the defaults are its own.

    Raises:
        ConfigError: a value is wrong.
    """
    keys = Keys(source.data)
    count, peak = keys.whole("epochs", 90, 1), keys.number("lr", 0.1)
    nodes = keys.whole("nnodes", 1, 1)
    devices = keys.whole("world_size") or (keys.whole("nproc_per_node", 0) or 0) * nodes or facts.devices
    batch = keys.whole("batch_size", None, 1) or keys.whole("b", 32, 1)
    into.set("data", batch_size=batch)
    if devices is None:
        into.note(f"a step has {batch} examples per device; --devices N fixes their sum")
    else:
        into.set("data", effective_batch_size=batch * devices)
    _optimizer(keys, into, peak)
    _schedule(keys, into, peak, count)
    into.length(epochs=count)
    if (norm := keys.number("clip_grad_norm")) is not None:
        into.choose("clip", "norm", max_norm=norm)
    if keys.flag("amp"):
        into.set("trainer", precision="16-mixed")
    keys.rest(into, KNOWN, REASONS, TOOL)


def _optimizer(keys: Keys, into: Translation, peak: float) -> None:
    name = keys.word("opt", "sgd").lower()
    decay, momentum = keys.number("weight_decay", 1e-4), keys.number("momentum", 0.9)
    if name.startswith("sgd"):
        into.choose(
            "optimizer", "momentum", lr=peak, momentum=momentum, weight_decay=decay, nesterov="nesterov" in name
        )
    elif name == "rmsprop":
        given = {"momentum": momentum, "weight_decay": decay, "eps": 0.0316, "alpha": 0.9}
        into.choose("optimizer", "rmsprop", lr=peak, **given)
    elif name == "adamw":
        into.choose("optimizer", "adamw", lr=peak, weight_decay=decay, betas=[0.9, 0.999], eps=1e-8)
    else:
        keys.wrong("opt", "expected sgd, sgd_nesterov, rmsprop or adamw")
    rules: list[dict[str, Any]] = [
        {"name": kind, "select": [kind], "weight_decay": value, "optional": True}
        for kind in ("norm", "bias")
        if (value := keys.number(f"{kind}_weight_decay")) is not None
    ]
    into.choose("layers", "uniform", rules=[*rules, {"name": "others", "match": "*"}] if rules else None)


def _schedule(keys: Keys, into: Translation, peak: float, count: int) -> None:
    """Set the scheduler, which is stepped once per epoch, after a warmup."""
    names = {"steplr": "StepLR", "cosineannealinglr": "CosineAnnealingLR", "exponentiallr": "ExponentialLR"}
    given = keys.word("lr_scheduler", "steplr").lower()
    if given not in names:
        keys.wrong("lr_scheduler", f"expected one of {', '.join(names)}")
    warmup, gamma = keys.whole("lr_warmup_epochs", 0), keys.number("lr_gamma", 0.1)
    size, least = keys.whole("lr_step_size", 30, 1), keys.number("lr_min", 0.0)
    method = keys.word("lr_warmup_method", "constant", ("constant", "linear"))
    low = keys.number("lr_warmup_decay", 0.01)
    if warmup >= count:
        raise ConfigError([Problem("lr_warmup_epochs", f"expected less than the {count} epochs of the run", warmup)])
    arguments = {
        "steplr": {"step_size": size, "gamma": gamma},
        "cosineannealinglr": {"T_max": count - warmup, "eta_min": least},
        "exponentiallr": {"gamma": gamma},
    }[given]
    clock = Clock("epochs", count, peak)
    if not warmup:
        torch_schedulers.choose(names[given], Keys(arguments), clock, into)
        return
    rise = {"total_iters": warmup, "start_factor" if method == "linear" else "factor": low}
    nodes = [
        {"class_path": "LinearLR" if method == "linear" else "ConstantLR", "init_args": rise},
        {"class_path": names[given], "init_args": arguments},
    ]
    torch_schedulers.choose("SequentialLR", Keys({"schedulers": nodes, "milestones": [warmup]}), clock, into)
