"""Python configs of mmengine (0.10) and its kin: optim_wrapper, param_scheduler, train_cfg and paramwise_cfg."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrflow.errors import ConfigError, Problem
from lrflow.translate.facts import Facts
from lrflow.translate.files import Source, read_source
from lrflow.translate.keys import Keys, names
from lrflow.translate.lightning import OPTIMIZERS, choose_torch_optimizer
from lrflow.translate.mmengine_schedulers import Scheduler, form, simulate
from lrflow.translate.translation import MOST_POINTS, Translation

TOOL = "mmengine's Python configs"
SIGNS = ("param_scheduler", "optim_wrapper", "train_cfg", "_base_", "default_hooks", "auto_scale_lr")
KNOWN = names(
    """
    _base_ param_scheduler optim_wrapper train_cfg val_cfg test_cfg train_dataloader val_dataloader test_dataloader
    val_evaluator test_evaluator auto_scale_lr default_hooks custom_hooks custom_imports default_scope env_cfg
    log_processor log_level load_from resume model data_preprocessor dataset_type data_root vis_backends visualizer
    randomness work_dir backend_args launcher train_pipeline test_pipeline val_pipeline experiment_name
    """
)
REASONS = {
    "model": "model=custom model._target_=..., see docs/configuration.md",
    "train_dataloader": "data=custom, or data=images; its batch_size is translated",
    "auto_scale_lr": "the LR is scaled only where training starts with --auto-scale-lr: scaling=linear",
    "load_from": "task.from, or resume=RUN",
    "default_hooks": "trainer.checkpoint, trainer.log_every",
    "work_dir": "output=FOLDER",
    "custom_hooks": "callbacks=NAME, average=ema",
}
_MOST_FILES = 32


def translate(source: Source, facts: Facts, into: Translation) -> None:
    """Translate a config of mmengine, with the files beside it that `_base_` names.

    Raises:
        ConfigError: a value is wrong, or a table of steps needs facts that are missing.
    """
    keys = Keys(_with_bases(source, into))
    wrapper = keys.inside("optim_wrapper")
    optimizer = wrapper.inside("optimizer")
    if not optimizer.given:
        raise ConfigError([Problem("optim_wrapper.optimizer", "the file has none, nor has a file that _base_ names")])
    peak = optimizer.number("lr", OPTIMIZERS.get(str(optimizer.raw("type")), ("", {"lr": 1e-3}))[1]["lr"])
    batch = keys.inside("train_dataloader").whole("batch_size", None, 1)
    keys.read.discard("train_dataloader")
    accumulated = wrapper.whole("accumulative_counts", 1, 1)
    if facts.devices is None or batch is None:
        into.set("data", batch_size=batch)
        into.set("trainer", accumulate_grad_batches=accumulated)
    else:
        into.set("data", batch_size=batch, effective_batch_size=batch * accumulated * facts.devices)
    loop = keys.inside("train_cfg")
    count = loop.whole("max_epochs", None, 1)
    unit, total = ("epochs", count) if count is not None else ("steps", loop.whole("max_iters", None, 1))
    if total is None:
        raise ConfigError([Problem("train_cfg", "expected max_epochs or max_iters", dict(loop.given))])
    for name in ("type", "by_epoch", "val_interval", "val_begin", "dynamic_intervals"):
        loop.raw(name)
    loop.rest(into, (), {}, "train_cfg")
    into.length(**{"epochs" if unit == "epochs" else "steps": total})
    _schedule(keys, into, unit, total, peak, facts, batch)
    _optimizer(optimizer, into, peak)
    _layers(wrapper.inside("paramwise_cfg"), into, into.values["optimizer"].get("weight_decay", 0.0))
    clip = wrapper.inside("clip_grad")
    if (norm := clip.number("max_norm")) is not None:
        into.choose("clip", "norm", max_norm=norm)
    elif (value := clip.number("clip_value")) is not None:
        into.choose("clip", "value", clip_value=value)
    clip.rest(into, ("norm_type", "type", "error_if_nonfinite"), {}, "clip_grad")
    if wrapper.word("type", "OptimWrapper") == "AmpOptimWrapper":
        into.set("trainer", precision="bf16-mixed" if wrapper.raw("dtype") == "bfloat16" else "16-mixed")
    wrapper.rest(into, ("loss_scale", "dtype", "constructor"), {}, "optim_wrapper")
    if (seed := keys.inside("randomness").whole("seed")) is not None:
        into.values["seed"] = seed
    for name in ("_base_", "val_cfg", "test_cfg"):
        keys.raw(name)
    keys.rest(into, KNOWN, REASONS, TOOL)


def _with_bases(source: Source, into: Translation, seen: set[Path] | None = None) -> dict[str, Any]:
    """Return the keys of a config over those of the files that its `_base_` names.

    Raises:
        ConfigError: one of them cannot be read, or there are too many.
    """
    seen = {source.path.resolve()} if seen is None else seen
    bases = source.data.get("_base_", [])
    content: dict[str, Any] = {}
    for name in [bases] if isinstance(bases, str) else bases:
        path = source.path.parent / str(name)
        if path.suffix != ".py" or len(seen) >= _MOST_FILES or path.resolve() in seen:
            hint = f"a .py file beside the config, each once, {_MOST_FILES} at most"
            raise ConfigError([Problem("_base_", "cannot be read", name, hint)])
        seen.add(path.resolve())
        content = _merged(content, _with_bases(read_source(path), into, seen))
    return _merged(content, source.data)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping over another one, key by key, unless it says `_delete_`."""
    found = {} if above.get("_delete_") is True else dict(below)
    for key, value in above.items():
        lower = found.get(key)
        if isinstance(value, Mapping):
            value = _merged(lower if isinstance(lower, Mapping) else {}, value)
        if key != "_delete_":
            found[key] = value
    return found


def _schedule(
    keys: Keys, into: Translation, unit: str, total: int, peak: float, facts: Facts, batch: int | None
) -> None:
    """Set the schedule: a form where a warmup and one scheduler make it, otherwise a table."""
    given = keys.raw("param_scheduler", [])
    nodes = given if isinstance(given, list) else [given]
    schedulers = []
    for i, node in enumerate(nodes):
        if not isinstance(node, Mapping):
            raise ConfigError([Problem(f"param_scheduler.{i}", "expected dict(type=...)", node)])
        inner = Keys(node, f"param_scheduler.{i}.")
        if str(node.get("type", "")).endswith(("Momentum", "BetaParamScheduler")):
            into.leave(f"param_scheduler.{i}", node["type"], "schedule.also.momentum")
            continue
        schedulers.append(Scheduler.read(inner, peak))
        inner.rest(into, (), {}, f"mmengine's {node.get('type')}")
    if not schedulers:
        into.schedule("constant")
        return
    last = schedulers[-1]
    if unit == "steps" and last.kind == "PolyLR" and not last.arguments["low"] and last.end == total:
        into.leave("train_cfg.max_iters", total, "one less: the LR of the last iteration would be 0")
        total -= 1
        into.length(steps=total)
    if (found := form(schedulers, unit, total, peak)) is not None:
        option, arguments, more = found
        into.schedule(option, arguments, **more)
        return
    if unit == "epochs" and all(each.unit == "epochs" and not each.converted for each in schedulers):
        into.table(simulate(schedulers, peak, total, 1), "epochs", hold="1 epoch")
        return
    per_epoch = total
    if unit == "epochs" or any(each.unit == "epochs" for each in schedulers):
        facts.need("--devices", "--samples", reason="these schedulers become a table of steps")
        if batch is None:
            raise ConfigError([Problem("train_dataloader.batch_size", "the file has none, and the table needs it")])
        per_epoch = facts.steps_per_epoch(batch)
    count = total * per_epoch if unit == "epochs" else total
    if count > MOST_POINTS:
        message = f"these schedulers would be a table of {count:,} points; it can have {MOST_POINTS:,}"
        raise ConfigError([Problem("param_scheduler", message)])
    stepped = [each.in_steps(per_epoch) if each.converted else each for each in schedulers]
    into.table(simulate(stepped, peak, count, per_epoch))


def _optimizer(keys: Keys, into: Translation, peak: float) -> None:
    name = keys.word("type", "")
    if name not in OPTIMIZERS:
        into.leave("optim_wrapper.optimizer.type", name, "no counterpart: AdamW stands in its place")
        into.choose("optimizer", "adamw", lr=peak, weight_decay=keys.number("weight_decay", 0.01))
    else:
        choose_torch_optimizer(name, keys, peak, into)
    keys.rest(into, ("_delete_",), {}, f"the optimizer {name}")


def _layers(keys: Keys, into: Translation, decay: float) -> None:
    """Set the rules of paramwise_cfg: a parameter follows the longest key that its name holds."""
    custom = keys.inside("custom_keys")
    rules: list[dict[str, Any]] = []
    for name in sorted(sorted(custom.given), key=len, reverse=True):
        inner = custom.inside(name)
        rules.append(
            {
                "name": name.strip(".").replace(".", "_") or "all",
                "match": f"*{name}*",
                **_multiples(inner.number("lr_mult", 1.0), inner.number("decay_mult", 1.0), decay),
            }
        )
    norm = keys.number("norm_decay_mult")
    if norm is not None:
        rules.append({"name": "norm", "select": ["norm"], **_multiples(1.0, norm, decay)})
    bias_lr, bias_decay = keys.number("bias_lr_mult", 1.0), keys.number("bias_decay_mult", 1.0)
    if (bias_lr, bias_decay) != (1.0, 1.0):
        if norm is None:
            into.note("mmengine leaves the biases of norms at the LR of the others: see layers.rules")
        rules.append({"name": "bias", "select": ["bias"], **_multiples(bias_lr, bias_decay, decay)})
    if rules:
        rules = [{**rule, "optional": True} for rule in rules]
        into.choose("layers", "uniform", rules=[*rules, {"name": "others", "match": "*"}])
    else:
        into.options["layers"] = "uniform"
    keys.rest(into, ("bypass_duplicate",), {}, "paramwise_cfg")


def _multiples(lr: float, decay: float, base: float) -> dict[str, Any]:
    """Return the settings of a rule."""
    settings: dict[str, Any] = {}
    if lr != 1.0:
        settings["lr"] = f"{lr:g}x"
    if decay != 1.0:
        settings["weight_decay"] = decay * base
    return settings
